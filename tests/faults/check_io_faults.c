// Every system call of a save fails in turn, on each rank in turn: the save says so on every rank
// and leaves no trace, the checkpoint before it is intact, and the next save works. Also what is
// tried before training, and what only HDF5 can fail at. Run on one rank, and under mpirun on two.
#include <errno.h>
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hdf5.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "tests/faults/inject/fault.h"
#include "tests/parallel/checkpoint_sample.h"

enum { OLD = 1, NEW = 2 };

static Group *world;
static char run_dir[] = "/dev/shm/check_io_faults.XXXXXX";

// ---- the fault ---------------------------------------------------------------------------------

static int calls, failing_call, failing_errno, failures_left;
static const char *failing_name; // NULL: any call

static int fault(const char *call) {
    if (failing_name && strcmp(call, failing_name) != 0) return 0;
    if (strcmp(call, "unlink") == 0) return 0; // what stays behind is looked for here
    if (++calls < failing_call || failures_left == 0) return 0;
    failures_left--;
    return failing_errno;
}

// Rank `rank` fails at its call number `call` of that name, `times` times in a row.
static void arm(int rank, const char *name, int call, int cause, int times) {
    failing_name = name;
    calls = 0;
    failing_call = call;
    failing_errno = cause;
    failures_left = comm_rank() == rank ? times : 0;
    fault_call_decides = fault;
}

// Whether it has come on some rank.
static bool disarm(int times) {
    double came = comm_rank() >= 0 && failures_left < times && calls >= failing_call;
    fault_call_decides = NULL;
    all_reduce_max(world, tensor_1d(&came, F64, 1), TRAFFIC_OTHER);
    return came > 0;
}

// ---- saves -------------------------------------------------------------------------------------

static bool in_parts = false; // as when training goes on meanwhile and changes everything

static void sample_clear_some(Sample *sample, int first) {
    for (int i = first; i < SAMPLE_TENSORS; i += 2)
        memset(sample->tensors[i].data, 0, sample_bytes(&sample->tensors[i]));
}

static bool save_in_parts(Sample *sample, Error *err) {
    CheckpointSave *parts;
    CheckpointCopy copy = {0};
    for (int i = 1; i < SAMPLE_TENSORS; i += 2) sample->tensors[i].stays = STAYS_UNTIL_UPDATE;
    if (!checkpoint_save_begin(&parts, run_dir, &sample->checkpoint, err)) return false;
    checkpoint_save_begin_copy(parts, &copy);
    sample_clear_some(sample, 0); // the next step changes what stays only briefly,
    checkpoint_save_copy(parts);
    sample_clear_some(sample, 1); // its update the rest
    bool ok = checkpoint_save_write(parts, err);
    ok = checkpoint_save_end(parts, ok, (CheckpointKeep){0}, err);
    free(copy.data);
    return ok;
}

static bool save(int64_t step, Error *err) {
    Sample sample;
    sample_init(&sample, step, comm_rank(), comm_size(), false);
    bool ok = in_parts ? save_in_parts(&sample, err)
                       : checkpoint_save(run_dir, &sample.checkpoint, (CheckpointKeep){0}, err);
    sample_free(&sample);
    return ok;
}

static void expect_newest(int64_t step, const char *when, int call) {
    char path[CHECKPOINT_PATH_BYTES];
    Sample sample;
    Error err = {0};
    CHECK(checkpoint_find_latest(run_dir, INT64_MAX, VERIFY_ALL, path, &err), "%s, call %d: %s",
          when, call, err.message);
    sample_init(&sample, 0, comm_rank(), comm_size(), false);
    sample_clear(&sample);
    CHECK(checkpoint_load(path, &sample.checkpoint, &err), "%s, call %d: %s", when, call,
          err.message);
    CHECK(sample.checkpoint.state.step == step && sample_equals(&sample, step, comm_rank()),
          "%s, call %d: step %lld and not %lld, or changed", when, call,
          (long long)sample.checkpoint.state.step, (long long)step);
    sample_free(&sample);
}

static int files_in_checkpoints(void) {
    char path[128];
    int count = 0;
    snprintf(path, sizeof path, "%s/checkpoints", run_dir);
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        count += entry->d_name[0] != '.';
    if (folder) closedir(folder);
    return count;
}

static void remove_newest(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/checkpoints/step-%08d.h5", run_dir, NEW);
    barrier(world);
    if (comm_rank() == 0) unlink(path);
    barrier(world);
}

static int injected; // faults that this rank has seen strike

// Returns how many calls a save has on this rank.
static int each_call_fails_once(int rank, int cause) {
    for (int call = 1;; call++) {
        Error err = {0};
        arm(rank, NULL, call, cause, 1);
        bool ok = save(NEW, &err);
        if (!disarm(1)) { // fewer calls than that
            CHECK(ok, "without a fault: %s", err.message);
            remove_newest();
            return call - 1;
        }
        injected++;
        // Making a folder that is there already may fail; so may only the last sync, of a finished
        // file.
        if (!ok) {
            CHECK(err.exit_code == EXIT_IO && err.message[0], "call %d: exit code %d", call,
                  err.exit_code);
            int files = files_in_checkpoints();
            bool finished = files == 2;
            CHECK(files == 1 || finished, "call %d leaves %d files", call, files);
            expect_newest(finished ? NEW : OLD, "after a fault", call);
            Error again = {0};
            CHECK(save(NEW, &again), "the next save after call %d: %s", call, again.message);
        }
        expect_newest(NEW, "after the next save", call);
        CHECK(files_in_checkpoints() == 2, "call %d: a file is left", call);
        remove_newest();
    }
}

static void every_failing_call_is_survived(void) {
    for (int rank = 0; rank < comm_size(); rank++) {
        int on_full_disk = each_call_fails_once(rank, ENOSPC);
        CHECK(on_full_disk > (rank == 0 ? 20 : 4), "only %d calls", on_full_disk);
        in_parts = true;
        each_call_fails_once(rank, EIO);
        in_parts = false;
    }
}

// ---- reading -----------------------------------------------------------------------------------

enum { FIND, LOAD, VERIFY, DIGEST, INFO, STATE, CONFIG, WAYS };
static const char *const way_names[WAYS] = {"find_latest", "load",       "verify",     "digest",
                                            "read_info",   "read_state", "read_config"};

static bool read_in_a_way(int way, const char *path, Error *err) {
    char found[CHECKPOINT_PATH_BYTES], digest[40], *config = NULL;
    Sample sample;
    CheckpointInfo info = {0};
    TrainState state;
    bool ok = false;
    switch (way) {
    case FIND:
        return checkpoint_find_latest(run_dir, INT64_MAX, VERIFY_ALL, found, err);
    case LOAD:
        sample_init(&sample, 0, comm_rank(), comm_size(), false);
        sample.checkpoint.verify_rest = true;
        ok = checkpoint_load(path, &sample.checkpoint, err);
        sample_free(&sample);
        return ok;
    case VERIFY:
        return checkpoint_verify(path, err);
    case DIGEST:
        return checkpoint_digest(path, digest, err);
    case INFO:
        ok = checkpoint_read_info(path, &info, err);
        checkpoint_free_info(&info);
        return ok;
    case STATE:
        return checkpoint_read_state(path, &state, err);
    case CONFIG:
        ok = checkpoint_read_config(path, &config, err);
        free(config);
        return ok;
    }
    return false;
}

// Of two sound files the newer cannot be read: nobody says that it is damaged, takes the older
// instead, or removes anything.
static void a_read_error_is_not_damage(void) {
    char path[128];
    Error err = {0};
    CHECK(save(NEW, &err), "%s", err.message);
    snprintf(path, sizeof path, "%s/checkpoints/step-%08d.h5", run_dir, NEW);
    for (int way = 0; way < WAYS; way++) {
        int call = 1;
        for (;; call++) {
            err = (Error){0};
            arm(0, NULL, call, EIO, 1);
            bool ok = read_in_a_way(way, path, &err);
            if (!disarm(1)) break;
            CHECK(comm_rank() != 0 || !ok, "%s: call %d fails unseen", way_names[way], call);
            CHECK(ok || err.exit_code == EXIT_IO, "%s, call %d: exit code %d: %s", way_names[way],
                  call, err.exit_code, err.message);
        }
        CHECK(call > 3, "%s has only %d calls", way_names[way], call - 1);
    }
    CHECK(files_in_checkpoints() == 2, "a file is gone");
    remove_newest();
}

// A network file system may deny a file for some seconds that another rank has just made.
static void a_file_that_is_hidden_for_a_moment_is_found(void) {
    for (int rank = 0; rank < comm_size(); rank++) {
        Error err = {0};
        int call = rank == 0 ? 2 : 1; // rank 0's first is the making
        arm(rank, "open", call, ENOENT, 2);
        CHECK(save(NEW, &err), "rank %d, hidden twice: %s", rank, err.message);
        CHECK(disarm(2), "rank %d did not open call %d", rank, call);
        remove_newest();
        if (rank < comm_size() - 1) continue; // waiting takes seconds
        arm(rank, "open", call, ENOENT, 1000);
        CHECK(!save(NEW, &err), "rank %d: a file that never comes was found", rank);
        disarm(1000);
        expect_newest(OLD, "after a hidden file", rank);
    }
}

static void the_trial_finds_what_a_save_would(void) {
    Error err = {0};
    CHECK(checkpoint_try_directory(run_dir, 1 << 20, &err), "%s", err.message);
    CHECK(checkpoint_try_directory(run_dir, INT64_MAX / 4, &err), "only a warning: %s",
          err.message);
    static const char *const calls_of_trial[] = {"mkdir", "open", "pwrite", "fsync"};
    for (int i = 0; i < 4; i++) {
        arm(0, calls_of_trial[i], 1, EACCES, 1);
        err = (Error){0};
        CHECK(!checkpoint_try_directory(run_dir, 1 << 20, &err) && err.exit_code == EXIT_IO,
              "%s fails and the trial does not", calls_of_trial[i]);
        disarm(1);
    }
    if (comm_size() > 1) {
        arm(1, "open", 1, EACCES, 1);
        CHECK(!checkpoint_try_directory(run_dir, 1 << 20, &err) && strstr(err.message, "rank 1"),
              "rank 1 cannot open and the trial does not say so: %s", err.message);
        disarm(1);
    }
    CHECK(files_in_checkpoints() == 1, "the trial leaves a file");
    expect_newest(OLD, "after trials", 0);
}

// ---- HDF5 --------------------------------------------------------------------------------------

herr_t __real_H5Pset_libver_bounds(hid_t list, H5F_libver_t low, H5F_libver_t high);
herr_t __wrap_H5Pset_libver_bounds(hid_t list, H5F_libver_t low, H5F_libver_t high);

static bool properties_fail = false;

// The linker puts it in the place of the library's (--wrap).
herr_t __wrap_H5Pset_libver_bounds(hid_t list, H5F_libver_t low, H5F_libver_t high) {
    return properties_fail ? -1 : __real_H5Pset_libver_bounds(list, low, high);
}

static int layouts_in_memory(void) {
    int count = 0;
    DIR *folder = opendir("/dev/shm");
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        count += strncmp(entry->d_name, "moetrain-layout-", 16) == 0;
    if (folder) closedir(folder);
    return count;
}

static void a_failing_library_leaves_no_file_in_memory(void) {
    Error err = {0};
    barrier(world);
    int before = layouts_in_memory();
    properties_fail = true;
    for (int i = 0; i < 20; i++) CHECK(!save(NEW, &err), "HDF5 failed and the save did not");
    properties_fail = false;
    // Other programs on this machine may be saving at this moment, but not twenty of them.
    CHECK(layouts_in_memory() < before + 10, "files stay in /dev/shm");
    expect_newest(OLD, "after a failing library", 0);
}

int main(int argc, char **argv) {
    Error err = {0};
    char command[64];
    comm_init(&argc, &argv);
    ProcessGroups groups = process_groups_open(1, NULL);
    world = groups.world;
    CHECK(comm_rank() != 0 || mkdtemp(run_dir), "no temporary directory");
    broadcast(world, run_dir, sizeof run_dir, 0);
    CHECK(save(OLD, &err), "%s", err.message);
    every_failing_call_is_survived();
    a_read_error_is_not_damage();
    a_file_that_is_hidden_for_a_moment_is_found();
    the_trial_finds_what_a_save_would();
    a_failing_library_leaves_no_file_in_memory();
    barrier(world);
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    CHECK(comm_rank() != 0 || system(command) == 0, "cannot remove %s", run_dir);
    process_groups_close(&groups);
    log_info("ok      every call of a save that fails is survived (%d faults)", injected);
    comm_finalize();
    return 0;
}
