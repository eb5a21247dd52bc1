#include "worker/run/run_status.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/heartbeat.h"
#include "kernels/host_memory.h"
#include "kernels/log.h"
#include "worker/run/json_file.h"
#include "worker/run/outcome.h"
#include "worker/run/rank_places.h"
#include "worker/run/time_limit.h"

// What the file tells, beside the phase.
typedef struct RunStatus {
    int64_t first_step, steps; // where this start began (-1: not known yet), and the last of all
    StepMetrics row;           // of the step done last; row.step is -1 before
    int64_t steps_done;        // by this start
    double seconds_a_step;     // running mean
    int slowest_rank;
    double slowest_score;   // 0: not known
    bool has_straggler;     // that one
    int64_t evaluated_step; // -1: none by this start
    double evaluation_loss;
    int64_t saved_step; // -1: no checkpoint
    double save_seconds;
    char saved_utc[CLOCK_UTC_BYTES]; // empty: before this start
} RunStatus;

static struct {
    pthread_mutex_t mutex;
    bool begun;
    RunStatus status;
    // Written once, before `begun`.
    char path[CONFIG_PATH_BYTES + 32], started[CLOCK_UTC_BYTES];
    json_t *hosts;
} shared = {.mutex = PTHREAD_MUTEX_INITIALIZER};

// {"host": [process ids]} in the order of the ranks.
static json_t *processes_of_hosts(const RankPlace *places, int ranks) {
    json_t *hosts = json_object();
    for (int rank = 0; rank < ranks; rank++) {
        json_t *name = json_text(places[rank].host);
        const char *host = json_string_value(name);
        if (!json_object_get(hosts, host)) json_object_set_new(hosts, host, json_array());
        json_array_append_new(json_object_get(hosts, host),
                              json_integer((json_int_t)places[rank].pid));
        json_decref(name);
    }
    return hosts;
}

void run_status_begin(const TrainConfig *config) {
    const RankPlace *places = rank_places();
    if (log_rank() == 0) {
        snprintf(shared.path, sizeof shared.path, "%s/status.json", config->run_dir);
        clock_utc(shared.started);
        shared.hosts = processes_of_hosts(places, comm_size());
        shared.status = (RunStatus){.first_step = -1,
                                    .steps = config->steps,
                                    .row = {.step = -1},
                                    .evaluated_step = -1,
                                    .saved_step = -1};
        pthread_mutex_lock(&shared.mutex);
        shared.begun = true;
        pthread_mutex_unlock(&shared.mutex);
        run_status_beat();
    }
}

// ---- what the main thread tells -----------------------------------------------------------------

static RunStatus *status_lock(void) {
    pthread_mutex_lock(&shared.mutex);
    return &shared.status;
}
static void status_unlock(void) {
    pthread_mutex_unlock(&shared.mutex);
}

void run_status_resumed(int64_t step, int64_t saved_step) {
    outcome_step(step);
    RunStatus *status = status_lock();
    status->first_step = step;
    status->saved_step = saved_step;
    status_unlock();
}

void run_status_step(const StepMetrics *row) {
    outcome_step(row->step);
    RunStatus *status = status_lock();
    status->row = *row;
    status->steps_done++; // the mean is that of the last twenty or so
    status->seconds_a_step +=
        (row->step_seconds - status->seconds_a_step) / fmin((double)status->steps_done, 20);
    status_unlock();
}

void run_status_stragglers(const Stragglers *stragglers) {
    RunStatus *status = status_lock();
    status->slowest_rank = stragglers->slowest;
    status->slowest_score = stragglers->score;
    status->has_straggler = stragglers_has_one(stragglers);
    status_unlock();
}

void run_status_evaluation(int64_t step, double loss) {
    RunStatus *status = status_lock();
    status->evaluated_step = step;
    status->evaluation_loss = loss;
    status_unlock();
}

void run_status_saved(int64_t step, double seconds) {
    RunStatus *status = status_lock();
    status->saved_step = step;
    status->save_seconds = seconds;
    clock_utc(status->saved_utc);
    status_unlock();
}

// ---- the file -----------------------------------------------------------------------------------

// JSON has no NaN.
static json_t *number(double x) {
    return isfinite(x) ? json_real(x) : json_null();
}
static json_t *count_or_null(int64_t n) {
    return n >= 0 ? json_integer((json_int_t)n) : json_null();
}

static void add_step(json_t *object, const RunStatus *status) {
    const StepMetrics *row = &status->row;
    double seconds = status->seconds_a_step;
    double tokens_per_second = row->tokens_per_second * row->step_seconds / seconds;
    json_t *figures = json_object();
    for (int i = 0; i < row->figures.count; i++)
        json_object_set_new(figures, row->figures.of[i].summary->field,
                            number(row->figures.of[i].value));
    json_object_set_new(object, "loss", number(row->loss));
    json_object_set_new(object, "lr", number(row->lr));
    json_object_set_new(object, "step_ms", number(1e3 * seconds));
    json_object_set_new(object, "tokens_per_second", number(tokens_per_second));
    json_object_set_new(object, "eta_seconds",
                        number(seconds * (double)(status->steps - row->step)));
    json_object_set_new(object, "tokens", json_integer((json_int_t)row->tokens));
    json_object_set_new(object, "skipped_steps", json_integer((json_int_t)row->skipped_steps));
    json_object_set_new(object, "figures", figures);
}

static void add_time_limit(json_t *object) {
    JobEnd end = time_limit_end();
    if (isfinite(end.at))
        json_object_set_new(object, "time_limit",
                            json_pack("{s:f, s:o}", "seconds_left",
                                      fmax(end.at - clock_seconds(), 0), "source",
                                      json_text(end.source)));
}

static json_t *describe(const RunStatus *status) {
    char now[CLOCK_UTC_BYTES];
    int64_t step = status->row.step >= 0 ? status->row.step : status->first_step;
    json_t *object = json_pack("{s:s, s:s, s:s, s:o, s:o, s:I}", "time", clock_utc(now), "started",
                               shared.started, "phase", heartbeat_phase(), "first_step",
                               count_or_null(status->first_step), "step", count_or_null(step),
                               "steps", (json_int_t)status->steps);
    if (object && status->row.step >= 0) add_step(object, status);
    if (object && status->slowest_score > 0)
        json_object_set_new(object, "slowest",
                            json_pack("{s:i, s:o, s:f, s:b}", "rank", status->slowest_rank, "host",
                                      json_text(rank_places()[status->slowest_rank].host), "score",
                                      status->slowest_score, "straggler", status->has_straggler));
    if (object && status->evaluated_step >= 0)
        json_object_set_new(object, "evaluation",
                            json_pack("{s:I, s:o}", "step", (json_int_t)status->evaluated_step,
                                      "loss", number(status->evaluation_loss)));
    if (object && status->saved_step >= 0)
        json_object_set_new(object, "checkpoint",
                            json_pack("{s:I, s:f, s:s}", "step", (json_int_t)status->saved_step,
                                      "seconds", status->save_seconds, "time", status->saved_utc));
    json_object_set_new(object, "peak_memory_mib",
                        json_real((double)peak_resident_bytes() / 1048576.0));
    add_time_limit(object);
    json_object_set_new(object, "attempt", json_text(outcome_attempt()));
    json_object_set(object, "hosts", shared.hosts);
    return object;
}

void run_status_beat(void) {
    RunStatus status = *status_lock();
    bool begun = shared.begun;
    status_unlock();
    if (begun) json_file_replace(shared.path, describe(&status));
}

void run_status_end(void) {
    if (!shared.begun) return;
    watchdog_beat("ended");
    run_status_beat();
    shared.begun = false;
    json_decref(shared.hosts);
}
