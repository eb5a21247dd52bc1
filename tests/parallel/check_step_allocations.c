// A training step allocates nothing: between the reading of its first tokens and the report of its
// row no part of the program asks for memory, once the first steps have grown what threads keep.
// Counted by the linker's --wrap (CMakeLists.txt), which sees the program's own calls and leaves
// those that libraries make inside.
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/comm.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "rank_test.h"
#include "worker/report.h"
#include "worker/train.h"

enum { WARM_UP = 2, STEPS = 40 }; // more than the first room of anything that grows by steps

// Of the thread that trains: the watchdog's write files meanwhile, once a second.
static _Thread_local bool inside_a_step;
static int steps_seen, allocations, all_allocations;

static void count(void) {
    all_allocations++;
    if (inside_a_step && steps_seen >= WARM_UP) allocations++;
}

#define WRAP(type, name, parameters, arguments)                                                    \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        count();                                                                                   \
        return __real_##name arguments;                                                            \
    }
WRAP(void *, malloc, (size_t bytes), (bytes))
WRAP(void *, calloc, (size_t items, size_t bytes), (items, bytes))
WRAP(void *, realloc, (void *memory, size_t bytes), (memory, bytes))
WRAP(void *, aligned_alloc, (size_t alignment, size_t bytes), (alignment, bytes))
WRAP(void *, mmap, (void *at, size_t bytes, int rights, int flags, int file, off_t offset),
     (at, bytes, rights, flags, file, offset))

bool __real_batch_read_training(BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
                                Error *err);
bool __wrap_batch_read_training(BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
                                Error *err);
bool __wrap_batch_read_training(BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
                                Error *err) {
    inside_a_step = true;
    return __real_batch_read_training(batch, mix, cursor, err);
}

void __real_report_step(Trainer *trainer, StepMetrics *row);
void __wrap_report_step(Trainer *trainer, StepMetrics *row);
void __wrap_report_step(Trainer *trainer, StepMetrics *row) {
    inside_a_step = false;
    steps_seen++;
    __real_report_step(trainer, row);
}

static char folder[64]; // of a case, on every rank

static void write_text(void) {
    char path[128];
    snprintf(path, sizeof path, "%s/train.txt", folder);
    FILE *file = fopen(path, "w");
    for (int i = 0; file && i < 200; i++) fprintf(file, "the %d lines of a text, ", i * i % 83);
    if (file) fclose(file);
}

static bool train(const char *changes, Error *err) {
    snprintf(folder, sizeof folder, "/tmp/moetrain-allocations-XXXXXX");
    if (comm_rank() == 0 && mkdtemp(folder)) write_text();
    MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    Config *config = config_new();
    static TrainConfig resolved;
    char text[1024], path[128];
    snprintf(path, sizeof path, "%s/run.yaml", folder);
    int bytes = snprintf(text, sizeof text,
                         "data.train: train.txt\nrun.dir: run\nresume: never\ntrain.steps: %d\n"
                         "train.batch: 8\ntrain.context: 16\nmodel.d_model: 16\nmodel.layers: 2\n"
                         "attention.heads: 2\nmoe.d_ff: 16\nlog.every: 1\n"
                         "train.shards: 8\ncheckpoint.every: 0\n%s",
                         STEPS, changes);
    if (!config_read(config, path, text, (size_t)bytes, NULL, 0, err) ||
        !config_check_ranks(config, comm_size(), &resolved, err))
        return false;
    char *yaml = config_to_yaml(config, false);
    KeyRule *rules = config_key_rules(config);
    int code = train_run(&resolved, yaml, rules, err);
    free(rules);
    free(yaml);
    free(config);
    snprintf(text, sizeof text, "rm -r %s", folder);
    MPI_Barrier(MPI_COMM_WORLD); // every rank has removed its own files of the run
    if (comm_rank() == 0 && system(text) != 0) return error_set(err, EXIT_IO, "%s fails", text);
    return code == EXIT_DONE;
}

static void check_case(const char *changes) {
    Error err = {0};
    allocations = steps_seen = all_allocations = 0;
    bool done = train(changes, &err);
    EXPECT(done, "%s", err.message);
    EXPECT(steps_seen == STEPS, "%d steps", steps_seen);
    EXPECT(all_allocations > 10, "only %d allocations were seen: the counter does not count",
           all_allocations);
    // A debug build compares the arguments of collectives over ranks, and takes memory for it.
    EXPECT(MOETRAIN_DEBUG || allocations == 0, "%d allocations inside the steps", allocations);
}

static void check_dropless(void) {
    check_case("moe.capacity_factor: 0\n");
}
static void check_padded(void) {
    check_case("moe.capacity_factor: 1\nmoe.dispatch: padded\nmoe.drop: random\n");
}
static void check_bf16(void) {
    check_case("train.precision: bf16\nmoe.balance_scope: batch\nmoe.drop: probability\n"
               "moe.capacity_factor: 1.25\n");
}
static void check_accumulation(void) {
    check_case("train.micro_batches: 2\n");
}
static void check_dense(void) {
    check_case("moe.experts: 0\nmodel.tied_embeddings: false\n");
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"a step of a dropless model allocates nothing", check_dropless},
        {"a step with a padded exchange allocates nothing", check_padded},
        {"a step in bf16 allocates nothing", check_bf16},
        {"a step of two micro-batches allocates nothing", check_accumulation},
        {"a step of a dense model allocates nothing", check_dense},
    };
    return rank_tests_run(argc, argv, tests, sizeof tests / sizeof *tests);
}
