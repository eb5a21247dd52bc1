#include "worker/outcome.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernels/check.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/json_file.h"

enum { MOST_WAIT_SECONDS = 2 };

static char path[OUTCOME_PATH_BYTES];
static atomic_bool begun;
static atomic_llong last_step = -1;

const char *outcome_attempt(void) {
    const char *attempt = getenv("MOETRAIN_ATTEMPT");
    return attempt ? attempt : "";
}

void outcome_write(int exit_code, const char *message) {
    char host[256] = "?", now[CLOCK_UTC_BYTES];
    if (!atomic_load(&begun)) return;
    gethostname(host, sizeof host - 1);
    json_file_create(
        path, json_pack("{s:i, s:o, s:I, s:i, s:o, s:I, s:o, s:s}", "exit_code", exit_code,
                        "message", json_text(message), "step", (json_int_t)atomic_load(&last_step),
                        "rank", log_rank(), "host", json_text(host), "pid", (json_int_t)getpid(),
                        "attempt", json_text(outcome_attempt()), "time", clock_utc(now)));
}

typedef struct End {
    int exit_code;
    const char *message;
} End;

static void *write_end(void *end) {
    outcome_write(((End *)end)->exit_code, ((End *)end)->message);
    return NULL;
}

void outcome_write_soon(int exit_code, const char *message) {
    End end = {exit_code, message};
    struct timespec deadline;
    pthread_t writer;
    if (!atomic_load(&begun) || pthread_create(&writer, NULL, write_end, &end) != 0) return;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += MOST_WAIT_SECONDS;
    pthread_timedjoin_np(writer, NULL, &deadline);
}

// A folder that has become another job's takes no word of this one.
static void note_death(int exit_code, const char *message) {
    if (exit_code != EXIT_LOCKED && exit_code != EXIT_REQUEUE)
        outcome_write_soon(exit_code, message);
}

void outcome_begin(const char *run_dir) {
    snprintf(path, sizeof path, "%s/outcome.json", run_dir);
    if (log_rank() == 0) unlink(path);
    atomic_store(&last_step, -1);
    atomic_store(&begun, true);
    die_witness = note_death;
}

void outcome_step(int64_t step) {
    atomic_store(&last_step, step);
}

void outcome_end(void) {
    atomic_store(&begun, false);
    die_witness = NULL;
}
