// What watching a run costs, piece by piece, on this rank (mpirun -np N bench_watch FOLDER): lines
// of a name and a number for tests/bench/run.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "comm/flight_recorder.h"
#include "comm/group.h"
#include "kernels/clock.h"
#include "worker/metrics.h"
#include "worker/watch/rank_health.h"

enum { RECORDS = 100000, GATHERS = 300, ROWS = 200, FILES = 50, ROUNDS = 10 }; // a round each

// Of this thread alone, however busy the machine is.
static double cpu_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static double record_seconds(const char *unused) {
    (void)unused;
    const Group pair = {.name = "pair", .size = 2};
    double begin = cpu_seconds();
    for (int i = 0; i < RECORDS; i++)
        flight_recorder_end(
            flight_recorder_begin(&pair, "all_reduce_sum", "gradients", 4096, ON_HOST));
    return (cpu_seconds() - begin) / RECORDS;
}

static double gather_seconds(const char *unused) {
    (void)unused;
    double own = comm_rank(), all[64] = {0};
    CHECK(comm_size() <= 64, "%d ranks are too many here", comm_size());
    barrier(comm_world());
    double begin = clock_seconds();
    for (int i = 0; i < GATHERS; i++)
        all_gather(comm_world(), tensor_1d(all, F64, comm_size()), tensor_1d(&own, F64, 1),
                   TRAFFIC_OTHER);
    return (clock_seconds() - begin) / GATHERS;
}

static double row_seconds(const char *folder) {
    RowFile *rows = NULL;
    Error err = {0};
    StepMetrics row = {.loss = 1.2345678901234567, .gradient_norm = 0.1, .slowest_score = 0.9};
    CHECK(metrics_open(&rows, folder, 0, &err), "%s", err.message);
    double begin = cpu_seconds();
    for (row.step = 1; row.step <= ROWS; row.step++) metrics_write_step(rows, &row);
    double seconds = (cpu_seconds() - begin) / ROWS;
    row_file_close(rows);
    return seconds;
}

static double health_seconds(const char *folder) {
    rank_health_begin(folder);
    double begin = cpu_seconds();
    for (int i = 0; i < FILES; i++) rank_health_beat();
    double seconds = (cpu_seconds() - begin) / FILES;
    rank_health_end();
    return seconds;
}

// The best of some rounds: what other programs of the machine take is not ours.
static double best(double (*measure)(const char *folder), const char *folder) {
    double seconds = measure(folder);
    for (int i = 1; i < ROUNDS; i++) seconds = fmin(seconds, measure(folder));
    return seconds;
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    CHECK(argc == 2, "bench_watch FOLDER");
    double record = best(record_seconds, argv[1]), gather = best(gather_seconds, argv[1]);
    double health = best(health_seconds, argv[1]);
    if (comm_rank() == 0)
        printf("record_ns %.1f\ngather_us %.2f\nhealth_us %.1f\nrow_us %.1f\n", 1e9 * record,
               1e6 * gather, 1e6 * health, 1e6 * best(row_seconds, argv[1]));
    comm_finalize();
    return 0;
}
