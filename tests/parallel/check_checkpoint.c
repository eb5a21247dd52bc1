// Checkpoints among ranks. Run under mpirun with 1, 2, 4 or 8 ranks:
//   check_checkpoint   what one number of ranks can show, in a directory of its own
// For scripts, which look at what other processes left; `large` adds blocks of 4 MiB:
//   check_checkpoint save DIR STEP [large]    saves the sample of STEP, keeps the newest two
//   check_checkpoint fail DIR STEP [large]    the same, but the save has to fail, cleanly
//   check_checkpoint load DIR STEP [large [DIR ...]]
//   the newest checkpoint of each directory has to be that of STEP, bit for bit
//   check_checkpoint intact DIR STEP [large]  the same, but of STEP or a later step
//   check_checkpoint digest DIR STEP          prints the digest
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "tests/parallel/checkpoint_sample.h"

static Group *world;
static bool large = true;

static void save(const char *directory, int64_t step, int keep_last) {
    Sample sample;
    Error err = {0};
    sample_init(&sample, step, comm_rank(), comm_size(), large);
    bool ok =
        checkpoint_save(directory, &sample.checkpoint, (CheckpointKeep){.last = keep_last}, &err);
    sample_free(&sample);
    CHECK(ok, "save of step %lld: %s", (long long)step, err.message);
}

static void print_digest(const char *directory, int64_t step) {
    char path[CHECKPOINT_PATH_BYTES], digest[40];
    Error err = {0};
    snprintf(path, sizeof path, "%s/checkpoints/step-%08lld.h5", directory, (long long)step);
    if (comm_rank() != 0) return;
    CHECK(checkpoint_digest(path, digest, &err), "%s", err.message);
    log_info("digest %s", digest);
}

static void find(const char *directory, char path[CHECKPOINT_PATH_BYTES]) {
    Error err = {0};
    CHECK(checkpoint_find_latest(directory, INT64_MAX, VERIFY_ALL, path, &err), "%s", err.message);
    char first[CHECKPOINT_PATH_BYTES];
    memcpy(first, path, sizeof first);
    broadcast(world, first, sizeof first, 0);
    CHECK(strcmp(first, path) == 0, "ranks found %s and %s", first, path);
}

// Loads the newest checkpoint into an empty model and compares. Returns its step.
static int64_t load_latest(const char *directory) {
    char path[CHECKPOINT_PATH_BYTES];
    Sample sample;
    Error err = {0};
    find(directory, path);
    CHECK(path[0], "%s has no checkpoint", directory);
    sample_init(&sample, 0, comm_rank(), comm_size(), large);
    sample_clear(&sample);
    CHECK(checkpoint_load(path, &sample.checkpoint, &err), "%s", err.message);
    int64_t step = sample.checkpoint.state.step;
    CHECK(sample_equals(&sample, step, comm_rank()), "%s came back changed", path);
    sample_free(&sample);
    return step;
}

static void expect_step(const char *directory, int64_t step) {
    int64_t found = load_latest(directory);
    CHECK(found == step, "step %lld where %lld was expected", (long long)found, (long long)step);
}

static bool exists(const char *directory, const char *name) {
    char path[CHECKPOINT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints/%s", directory, name);
    return access(path, F_OK) == 0;
}

static void damage(const char *directory, const char *name, long offset) {
    char path[CHECKPOINT_PATH_BYTES];
    snprintf(path, sizeof path, "%s/checkpoints/%s", directory, name);
    if (comm_rank() == 0) sample_flip(path, offset);
    barrier(world);
}

static void a_new_directory_has_no_checkpoint(const char *directory) {
    char path[CHECKPOINT_PATH_BYTES];
    find(directory, path);
    CHECK(!path[0], "found %s", path);
}

static void the_newest_two_are_kept(const char *directory) {
    for (int64_t step = 1; step <= 3; step++) save(directory, step, 2);
    CHECK(!exists(directory, "step-00000001.h5"), "step 1 is still there");
    CHECK(exists(directory, "step-00000002.h5"), "step 2 is gone");
    expect_step(directory, 3);
}

static void fail(const char *directory, int64_t step) {
    char temporary[64];
    Sample sample;
    Error err = {0};
    sample_init(&sample, step, comm_rank(), comm_size(), large);
    bool ok = checkpoint_save(directory, &sample.checkpoint, (CheckpointKeep){.last = 1}, &err);
    sample_free(&sample);
    CHECK(!ok, "a save succeeded that had to fail");
    CHECK(err.exit_code == EXIT_IO && err.message[0], "exit code %d", err.exit_code);
    snprintf(temporary, sizeof temporary, "step-%08lld.h5.tmp", (long long)step);
    CHECK(!exists(directory, temporary), "the temporary file is still there");
    log_info("as expected: %s", err.message);
}

// The last rank may not write more than a few bytes: a full disk for one of many.
static void a_save_that_fails_on_one_rank_fails_on_all(const char *directory) {
    struct rlimit before, tiny;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    tiny = (struct rlimit){.rlim_cur = 1 << 16, .rlim_max = before.rlim_max};
    if (comm_rank() == comm_size() - 1) setrlimit(RLIMIT_FSIZE, &tiny);
    fail(directory, 4);
    setrlimit(RLIMIT_FSIZE, &before);
    expect_step(directory, 3);
    CHECK(exists(directory, "step-00000002.h5"), "a failed save has removed step 2");
}

static void ranks_agree_on_the_newest_that_is_intact(const char *directory) {
    damage(directory, "step-00000003.h5", -1);
    expect_step(directory, 2);
    save(directory, 3, 2); // replaces the damaged file
    expect_step(directory, 3);
}

static void only_damaged_checkpoints_are_an_error_everywhere(const char *directory) {
    char path[CHECKPOINT_PATH_BYTES];
    Error err = {0};
    damage(directory, "step-00000002.h5", 100);
    damage(directory, "step-00000003.h5", 1 << 20);
    CHECK(!checkpoint_find_latest(directory, INT64_MAX, VERIFY_ALL, path, &err) &&
              err.exit_code == EXIT_CHECKPOINT,
          "exit code %d", err.exit_code);
    CHECK(!path[0], "found %s", path);
}

static void remove_directory(const char *directory) {
    char command[CHECKPOINT_PATH_BYTES + 16];
    snprintf(command, sizeof command, "rm -r '%s'", directory);
    barrier(world);
    CHECK(comm_rank() != 0 || system(command) == 0, "cannot remove %s", directory);
}

static void check_all(void) {
    char directory[] = "/tmp/check_checkpoint.XXXXXX";
    CHECK(comm_rank() != 0 || mkdtemp(directory), "no temporary directory");
    broadcast(world, directory, sizeof directory, 0);
    a_new_directory_has_no_checkpoint(directory);
    the_newest_two_are_kept(directory);
    a_save_that_fails_on_one_rank_fails_on_all(directory);
    ranks_agree_on_the_newest_that_is_intact(directory);
    only_damaged_checkpoints_are_an_error_everywhere(directory);
    remove_directory(directory);
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    ProcessGroups groups = process_groups_open(1, NULL);
    world = groups.world;
    if (argc == 1) {
        check_all();
    } else {
        CHECK(argc >= 4, "usage: check_checkpoint [save|fail|load|intact|digest DIR STEP [large]]");
        int64_t step = strtoll(argv[3], NULL, 10);
        large = argc > 4;
        if (strcmp(argv[1], "save") == 0) save(argv[2], step, 2);
        if (strcmp(argv[1], "digest") == 0) print_digest(argv[2], step);
        if (strcmp(argv[1], "fail") == 0) fail(argv[2], step);
        if (strcmp(argv[1], "load") == 0) {
            expect_step(argv[2], step);
            for (int i = 5; i < argc; i++) expect_step(argv[i], step);
        }
        if (strcmp(argv[1], "intact") == 0)
            CHECK(load_latest(argv[2]) >= step, "checkpoints from step %lld on are gone",
                  (long long)step);
    }
    log_info("check_checkpoint: %d ranks: passed", comm_size());
    process_groups_close(&groups);
    comm_finalize();
    return EXIT_DONE;
}
