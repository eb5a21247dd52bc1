#include "worker/run/outcome.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/check.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/deadline.h"
#include "worker/run/json_file.h"

enum { MOST_WAIT_SECONDS = 2, OUTCOME_MESSAGE_BYTES = 1536 };

static char path[OUTCOME_PATH_BYTES];
static atomic_bool begun, out_of_time;
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
        path, json_pack("{s:i, s:o, s:b, s:I, s:i, s:o, s:I, s:o, s:s}", "exit_code", exit_code,
                        "message", json_text(message), "out_of_time",
                        (int)atomic_load(&out_of_time), "step", (json_int_t)atomic_load(&last_step),
                        "rank", log_rank(), "host", json_text(host), "pid", (json_int_t)getpid(),
                        "attempt", json_text(outcome_attempt()), "time", clock_utc(now)));
}

typedef struct End {
    int exit_code;
    char message[OUTCOME_MESSAGE_BYTES];
} End;

static void *write_end(void *end) {
    outcome_write(((End *)end)->exit_code, ((End *)end)->message);
    return NULL;
}

void outcome_write_soon(int exit_code, const char *message) {
    static End end; // the writer may outlive this call
    if (!atomic_load(&begun)) return;
    end.exit_code = exit_code;
    snprintf(end.message, sizeof end.message, "%s", message);
    deadline_run(write_end, &end, MOST_WAIT_SECONDS);
}

// A folder that has become another job's takes no word of this one.
static void note_death(int exit_code, const char *message) {
    if (exit_code != EXIT_LOCKED && exit_code != EXIT_REQUEUE)
        outcome_write_soon(exit_code, message);
}

void outcome_begin(const char *run_dir) {
    snprintf(path, sizeof path, "%s/outcome.json", run_dir);
    Error ignored;
    if (log_rank() == 0) file_remove(path, &ignored);
    atomic_store(&last_step, -1);
    atomic_store(&begun, true);
    die_witness = note_death;
}

void outcome_step(int64_t step) {
    atomic_store(&last_step, step);
}

void outcome_out_of_time(void) {
    atomic_store(&out_of_time, true);
}

void outcome_end(void) {
    atomic_store(&begun, false);
    die_witness = NULL;
}
