// What a checkpoint costs beside a plain file of the same bytes, written by the same ranks with
// pwrite and fsync and read with pread, in turn and several times: only the ratios travel. Run
// alone and under mpirun:
//   bench_checkpoint [DIR [MiB [rounds]]]      (default /tmp 1024 5)
// Three quarters of the bytes are experts' (each rank holds its own), the rest dense. Every save
// replaces an older file; a save counts until training may go on, the removal of the old file
// apart. Reading starts with an empty page cache, as after a restart elsewhere, and then with a
// full one, as after a crash.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "comm/process_groups.h"
#include "kernels/clock.h"
#include "worker/save_behind.h"

enum { TENSORS = 16, EXPERTS = 64, MOST_ROUNDS = 64, PIECE = 4 << 20 };
static const double STEP_SECONDS = 0.5;

typedef struct Bench {
    Group *world;
    char run_dir[CHECKPOINT_PATH_BYTES], plain[CHECKPOINT_PATH_BYTES + 16];
    SavedTensor tensors[TENSORS];
    Checkpoint checkpoint;
    SaveBehind behind;
    int64_t bytes; // of the tensors, over all ranks
} Bench;

// Of a phase: until all ranks are done, and what their main threads computed, system calls among
// it, which says more on a machine that others use as well.
typedef struct Times {
    double wall, cpu;
} Times;

typedef enum Figure {
    PLAIN_WRITE,
    SAVE,
    PLAIN_COLD,
    LOAD_COLD,
    PLAIN_WARM,
    LOAD_WARM,
    WRITE_BEHIND,
    STALL
} Figure;
enum { FIGURES = STALL + 1 };
static const char *const figure_names[FIGURES] = {
    "plain write + fsync",       "save",
    "plain read, cold cache",    "load, cold cache",
    "plain read, warm",          "load, warm cache",
    "checkpoint.async, writing", "and what training waits"};

static void fill(SavedTensor *tensor, uint32_t seed) {
    uint32_t *at = tensor->data;
    for (int64_t i = 0; i < tensor->elements; i++) at[i] = seed = seed * 1664525u + 1013904223u;
}

static void open_bench(Bench *b, int64_t bytes) {
    int64_t columns = bytes / TENSORS / EXPERTS / (int64_t)sizeof(float);
    b->bytes = columns * TENSORS * EXPERTS * (int64_t)sizeof(float);
    for (int i = 0; i < TENSORS; i++) {
        SavedTensor *tensor = &b->tensors[i];
        *tensor = (SavedTensor){.dtype = F32,
                                .rank = 2,
                                .shape = {EXPERTS, columns, 1},
                                .elements = EXPERTS * columns,
                                .replicated = i % 4 == 0,
                                .stays = STAYS_UNTIL_UPDATE};
        snprintf(tensor->name, sizeof tensor->name, "parameters/%02d", i);
        if (!tensor->replicated) {
            tensor->elements /= comm_size();
            tensor->first_element = comm_rank() * tensor->elements;
        }
        tensor->data = malloc((size_t)tensor->elements * sizeof(float));
        CHECK_MEMORY(tensor->data, "no memory for %lld elements", (long long)tensor->elements);
        fill(tensor, (uint32_t)i);
    }
    b->checkpoint = (Checkpoint){
        .tensors = b->tensors, .tensor_count = TENSORS, .config_yaml = "# of a benchmark\n"};
    b->checkpoint.state.run.healthy = 1;
}

static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static Times begin(const Bench *b) {
    barrier(b->world);
    return (Times){clock_seconds(), cpu_seconds()};
}

static Times elapsed(const Bench *b, Times begun) {
    Times took = {.cpu = cpu_seconds() - begun.cpu};
    barrier(b->world);
    took.wall = clock_seconds() - begun.wall;
    all_reduce_max(b->world, tensor_1d(&took.wall, F64, 1), TRAFFIC_OTHER);
    all_reduce_sum(b->world, tensor_1d(&took.cpu, F64, 1), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
    return took;
}

// What this rank writes, one after the other at its own place in one file.
static Times write_plain(const Bench *b) {
    if (comm_rank() == 0) unlink(b->plain);
    Times start = begin(b);
    int fd = open(b->plain, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    CHECK(fd >= 0, "cannot create %s", b->plain);
    int64_t share = b->bytes / TENSORS / comm_size();
    for (int i = 0; i < TENSORS; i++) {
        const SavedTensor *tensor = &b->tensors[i];
        const char *from =
            (const char *)tensor->data + (tensor->replicated ? comm_rank() * share : 0);
        int64_t to = (i * comm_size() + comm_rank()) * share;
        for (int64_t done = 0; done < share; done += PIECE) {
            size_t bytes = (size_t)(share - done < PIECE ? share - done : PIECE);
            CHECK(pwrite(fd, from + done, bytes, to + done) == (ssize_t)bytes, "cannot write %s",
                  b->plain);
        }
    }
    CHECK(fsync(fd) == 0, "cannot sync %s", b->plain);
    close(fd);
    return elapsed(b, start);
}

static void forget_pages(const Bench *b, const char *path) {
    if (comm_rank() == 0) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0, "cannot drop %s", path);
        close(fd);
    }
    barrier(b->world);
}

// What this rank holds, into its tensors.
static Times read_plain(const Bench *b) {
    Times start = begin(b);
    int fd = open(b->plain, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0, "cannot open %s", b->plain);
    for (int i = 0; i < TENSORS; i++) {
        const SavedTensor *tensor = &b->tensors[i];
        int64_t from = i * (b->bytes / TENSORS) + tensor->first_element * (int64_t)sizeof(float);
        int64_t own = tensor->elements * (int64_t)sizeof(float);
        for (int64_t done = 0; done < own; done += PIECE) {
            size_t bytes = (size_t)(own - done < PIECE ? own - done : PIECE);
            CHECK(pread(fd, (char *)tensor->data + done, bytes, from + done) == (ssize_t)bytes,
                  "cannot read %s", b->plain);
        }
    }
    close(fd);
    return elapsed(b, start);
}

static Times save(Bench *b) {
    Error err = {0};
    b->checkpoint.state.step++;
    Times start = begin(b);
    CHECK(checkpoint_save(b->run_dir, &b->checkpoint, (CheckpointKeep){.last = 1}, &err), "%s",
          err.message);
    return elapsed(b, start);
}

// What stands for the forward and backward pass of a step: STEP_SECONDS of reading parameters.
static float read_parameters(const Bench *b) {
    double end = clock_seconds() + STEP_SECONDS;
    float sum = 0;
    for (int64_t at = 0; clock_seconds() < end; at += 4096) {
        const SavedTensor *tensor = &b->tensors[at / 4096 % TENSORS];
        const float *values = (const float *)tensor->data + at % (tensor->elements - 4096);
        for (int64_t i = 0; i < 4096; i++) sum += values[i];
    }
    return sum;
}

// As with checkpoint.async, where the update comes STEP_SECONDS after the beginning.
static void save_behind(Bench *b, Times *writing, Times *stall) {
    Error err = {0};
    CheckpointSave *parts;
    b->checkpoint.state.step++;
    Times start = begin(b);
    CHECK(checkpoint_save_begin(&parts, b->run_dir, &b->checkpoint, &err), "%s", err.message);
    save_behind_start(&b->behind, parts, b->checkpoint.state.step, start.wall);
    *stall = elapsed(b, start);
    volatile float sum = read_parameters(b);
    (void)sum;
    Times update = begin(b);
    save_behind_before_update(&b->behind);
    Times copied = elapsed(b, update);
    CHECK(save_behind_written(&b->behind, true), "not written");
    *writing = elapsed(b, start);
    Times end = begin(b);
    CHECK(save_behind_finish(&b->behind, (CheckpointKeep){.last = 1}, &err), "%s", err.message);
    end = elapsed(b, end);
    stall->wall += copied.wall + end.wall;
    stall->cpu += copied.cpu + end.cpu;
}

static Times load(Bench *b, const char *path) {
    Error err = {0};
    char found[CHECKPOINT_PATH_BYTES];
    Times start = begin(b);
    CHECK(checkpoint_find_latest(b->run_dir, INT64_MAX, VERIFY_INDEX, found, &err), "%s",
          err.message);
    CHECK(strcmp(found, path) == 0, "found %s and not %s", found, path);
    b->checkpoint.verify_rest = true;
    CHECK(checkpoint_load(path, &b->checkpoint, &err), "%s", err.message);
    return elapsed(b, start);
}

static int compare_numbers(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct Median {
    double median, least, most;
} Median;

static Median median_of(const double *values, int count) {
    double sorted[MOST_ROUNDS];
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_numbers);
    return (Median){sorted[count / 2], sorted[0], sorted[count - 1]};
}

static void print_times(const char *name, const Times *times, int rounds, double mib) {
    double walls[MOST_ROUNDS], cpus[MOST_ROUNDS];
    for (int i = 0; i < rounds; i++) {
        walls[i] = times[i].wall;
        cpus[i] = times[i].cpu;
    }
    Median wall = median_of(walls, rounds), cpu = median_of(cpus, rounds);
    printf("%-25s %6.2f s [%.2f-%.2f], %.0f MiB/s | CPU %.2f s [%.2f-%.2f]\n", name, wall.median,
           wall.least, wall.most, mib / wall.median, cpu.median, cpu.least, cpu.most);
}

// What `above` is of `below`, in percent, round by round.
static void print_share(const char *name, const Times *above, const Times *below, int rounds) {
    double walls[MOST_ROUNDS], cpus[MOST_ROUNDS];
    for (int i = 0; i < rounds; i++) {
        walls[i] = 100 * above[i].wall / below[i].wall;
        cpus[i] = 100 * above[i].cpu / below[i].cpu;
    }
    Median wall = median_of(walls, rounds), cpu = median_of(cpus, rounds);
    printf("%25s %5.0f %% %s [%.0f-%.0f] | by CPU %.0f %% [%.0f-%.0f]\n", "", wall.median, name,
           wall.least, wall.most, cpu.median, cpu.least, cpu.most);
}

static void run(Bench *b, int rounds) {
    static Times times[FIGURES][MOST_ROUNDS];
    char path[CHECKPOINT_PATH_BYTES + 64];
    save(b); // the first file, which the first round removes
    for (int i = 0; i < rounds; i++) {
        times[PLAIN_WRITE][i] = write_plain(b);
        times[SAVE][i] = save(b);
        snprintf(path, sizeof path, "%s/checkpoints/step-%08lld.h5", b->run_dir,
                 (long long)b->checkpoint.state.step);
        forget_pages(b, b->plain);
        times[PLAIN_COLD][i] = read_plain(b);
        forget_pages(b, path);
        times[LOAD_COLD][i] = load(b, path);
        times[PLAIN_WARM][i] = read_plain(b);
        times[LOAD_WARM][i] = load(b, path);
        save_behind(b, &times[WRITE_BEHIND][i], &times[STALL][i]);
    }
    if (comm_rank() != 0) return;
    double mib = (double)b->bytes / 1048576.0;
    printf("%.0f MiB, %d rank%s, %d rounds: median [least-most]\n", mib, comm_size(),
           comm_size() == 1 ? "" : "s", rounds);
    for (Figure f = PLAIN_WRITE; f < WRITE_BEHIND; f += 2) {
        print_times(figure_names[f], times[f], rounds, mib);
        print_times(figure_names[f + 1], times[f + 1], rounds, mib);
        print_share("of the plain file's speed (wanted: at least 85)", times[f], times[f + 1],
                    rounds);
    }
    print_times(figure_names[WRITE_BEHIND], times[WRITE_BEHIND], rounds, mib);
    print_times(figure_names[STALL], times[STALL], rounds, mib);
    print_share("of the writing (wanted: at most 5)", times[STALL], times[WRITE_BEHIND], rounds);
}

static void close_bench(Bench *b) {
    char command[CHECKPOINT_PATH_BYTES + 16];
    for (int i = 0; i < TENSORS; i++) free(b->tensors[i].data);
    save_behind_close(&b->behind);
    snprintf(command, sizeof command, "rm -r '%s'", b->run_dir);
    barrier(b->world);
    CHECK(comm_rank() != 0 || system(command) == 0, "cannot remove %s", b->run_dir);
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    ProcessGroups groups = process_groups_open(1, NULL);
    Bench b = {.world = groups.world};
    int64_t mib = argc > 2 ? strtoll(argv[2], NULL, 10) : 1024;
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : 5;
    CHECK(mib >= 1 && rounds >= 1 && rounds <= MOST_ROUNDS && EXPERTS % comm_size() == 0,
          "usage: bench_checkpoint [DIR [MiB [rounds]]] on ranks that divide %d", EXPERTS);
    snprintf(b.run_dir, sizeof b.run_dir, "%s/bench_checkpoint.XXXXXX",
             argc > 1 ? argv[1] : "/tmp");
    CHECK(comm_rank() != 0 || mkdtemp(b.run_dir), "no folder %s", b.run_dir);
    broadcast(b.world, b.run_dir, sizeof b.run_dir, 0);
    snprintf(b.plain, sizeof b.plain, "%s/plain", b.run_dir);
    open_bench(&b, mib << 20);
    run(&b, rounds);
    close_bench(&b);
    process_groups_close(&groups);
    comm_finalize();
    return EXIT_DONE;
}
