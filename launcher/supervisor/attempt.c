#include "launcher/supervisor/attempt.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "launcher/supervisor/process_tree.h"
#include "launcher/supervisor/rank_launcher.h"
#include "worker/run/json_file.h"
#include "worker/run/signals.h"

static const double POLL_SECONDS = 0.1;
static const double ASK_SECONDS = 0.5; // between requests to stop: ranks may just be starting
static const double LOOK_SECONDS = 1;
// After the outcome is known ranks and launcher end by themselves, or never.
static const double LEAVE_SECONDS = 10;
// A launcher that has ended leaves ranks that die within a second.
static const double LEFTOVER_SECONDS = 5;
// The holder of the run's lock touches it every second, also on a full disk. Whoever has not done
// so for run.hang_timeout and this is past saying so itself; before the lock there are hosts to
// reach, libraries to load and data to read, which nobody sees from outside.
static const double SILENCE_SECONDS = 10;
enum { START_TIMES = 6 };

// What is seen of the start while it lives.
typedef struct Watch {
    Attempt *attempt;
    RankLauncher launcher;
    bool began; // a rank holds the lock
    pid_t *pids;
    int pid_count; // the ranks of this host
    double asked, looked, outcome_since, sign_of_life;
    struct timespec touched; // the lock
    bool killed;
} Watch;

static json_t *read_own(const Attempt *attempt, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", attempt->run_dir, name);
    json_t *object = json_file_read(path);
    const char *of = json_string_value(json_object_get(object, "attempt"));
    if (of && strcmp(of, attempt->name) == 0) return object;
    json_decref(object);
    return NULL;
}

static int64_t whole(json_t *object, const char *key) {
    json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
}

// ---- ending it ----------------------------------------------------------------------------------

static void kill_all(Watch *watch, const char *why) {
    if (!watch->killed) log_warn("supervise: %s; it is killed", why);
    watch->killed = true;
    process_tree_signal(SIGKILL);
}

// Any rank that is told tells the others.
static void ask_to_stop(Watch *watch) {
    if (process_tree_signal_these(watch->pids, watch->pid_count, SIGUSR1) == 0)
        rank_launcher_ask(&watch->launcher);
    watch->asked = clock_seconds();
}

// ---- looking ------------------------------------------------------------------------------------

static void look_at_status(Watch *watch) {
    char host[256] = "?";
    json_t *status = watch->began ? NULL : read_own(watch->attempt, "status.json");
    if (!status) return;
    gethostname(host, sizeof host - 1);
    json_t *pids = json_object_get(json_object_get(status, "hosts"), host);
    watch->began = true;
    watch->pid_count = (int)json_array_size(pids);
    watch->pids = calloc((size_t)watch->pid_count + 1, sizeof *watch->pids);
    CHECK_MEMORY(watch->pids, "no memory for the processes of %d ranks", watch->pid_count);
    for (int i = 0; i < watch->pid_count; i++)
        watch->pids[i] = (pid_t)json_integer_value(json_array_get(pids, (size_t)i));
    json_decref(status);
}

static void look_at_lock(Watch *watch) {
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof path, "%s/lock", watch->attempt->run_dir);
    if (stat(path, &info) != 0) return;
    bool same = info.st_mtim.tv_sec == watch->touched.tv_sec &&
                info.st_mtim.tv_nsec == watch->touched.tv_nsec;
    if (!same) watch->sign_of_life = clock_seconds();
    watch->touched = info.st_mtim;
}

static void look(Watch *watch) {
    double now = clock_seconds(), timeout = watch->attempt->hang_timeout;
    watch->looked = now;
    look_at_status(watch);
    look_at_lock(watch);
    json_t *outcome = read_own(watch->attempt, "outcome.json");
    if (outcome && watch->outcome_since == 0) watch->outcome_since = now;
    json_decref(outcome);
    if (watch->outcome_since > 0 && now - watch->outcome_since > LEAVE_SECONDS)
        kill_all(watch, "the run has ended and its launcher does not");
    double patience = (watch->began ? timeout : START_TIMES * timeout) + SILENCE_SECONDS;
    if (timeout > 0 && now - watch->sign_of_life > patience)
        kill_all(watch, "the ranks have given no sign of life for longer than run.hang_timeout");
}

static void watch_until_end(Watch *watch) {
    watch->sign_of_life = clock_seconds();
    while (!watch->launcher.ended) {
        rank_launcher_serve(&watch->launcher, POLL_SECONDS);
        watch->attempt->serve(watch->attempt->context);
        double now = clock_seconds();
        if (now - watch->looked > LOOK_SECONDS) look(watch);
        if (signals_received() && now - watch->asked > ASK_SECONDS) ask_to_stop(watch);
    }
    double begin = clock_seconds();
    while (process_tree_signal(0) > 0) {
        rank_launcher_serve(&watch->launcher, POLL_SECONDS);
        if (clock_seconds() - begin > LEFTOVER_SECONDS)
            kill_all(watch, "the launcher has ended and processes of it have not");
    }
    while (watch->launcher.streams[0] >= 0 || watch->launcher.streams[1] >= 0)
        rank_launcher_serve(&watch->launcher, POLL_SECONDS); // the last lines
}

// ---- how it ended -------------------------------------------------------------------------------

int64_t newest_checkpoint(const char *run_dir) {
    char folder[PATH_MAX];
    CheckpointList list;
    Error ignored = {0};
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    if (!checkpoint_list_read(&list, folder, &ignored)) return -1;
    int64_t newest = list.count > 0 ? list.steps[0] : -1;
    checkpoint_list_free(&list);
    return newest;
}

// The step of the last row of metrics, which is there before the next heartbeat, if it was written
// after `since` (both are UTC as clock_utc has it); otherwise -1.
static int64_t last_row_step(const char *run_dir, const char *since) {
    char path[PATH_MAX], tail[16384];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    Error ignored;
    int fd = file_open_to_read(path, &ignored);
    if (fd < 0) return -1;
    off_t end = lseek(fd, 0, SEEK_END), most = (off_t)sizeof tail - 1;
    int64_t got = file_read_some(fd, tail, sizeof tail - 1, end > most ? end - most : 0, &ignored);
    close(fd);
    while (got > 0 && tail[got - 1] == '\n') got--;
    tail[got > 0 ? got : 0] = 0;
    char *line = strrchr(tail, '\n');
    json_t *row = json_loads(line ? line + 1 : tail, 0, NULL);
    const char *time = json_string_value(json_object_get(row, "time"));
    int64_t step = time && since && strcmp(time, since) >= 0 ? whole(row, "step") : -1;
    json_decref(row);
    return step;
}

static void describe_end(Attempt *attempt, const Watch *watch, json_t *outcome) {
    int code = attempt->launcher_code;
    const char *message = json_string_value(json_object_get(outcome, "message"));
    if (outcome)
        snprintf(attempt->message, sizeof attempt->message, "%s", message ? message : "?");
    else if (watch->killed)
        snprintf(attempt->message, sizeof attempt->message, "no sign of life from its ranks");
    else if (code > 128 && code < 128 + 64)
        snprintf(attempt->message, sizeof attempt->message, "a rank or the launcher: %s",
                 strsignal(code - 128));
    else
        snprintf(attempt->message, sizeof attempt->message, "no rank said why");
}

static void judge(Attempt *attempt, const Watch *watch) {
    AttemptEnd *end = &attempt->end;
    json_t *outcome = read_own(attempt, "outcome.json");
    json_t *status = read_own(attempt, "status.json");
    int code = attempt->launcher_code = watch->launcher.exit_code;
    *end = (AttemptEnd){.exit_code = code,
                        .first = attempt->first,
                        .asked = signals_received() != 0,
                        .told = outcome != NULL,
                        .first_step = whole(status, "first_step"),
                        .step = whole(status, "step"),
                        .saved_step = newest_checkpoint(attempt->run_dir)};
    int64_t row =
        last_row_step(attempt->run_dir, json_string_value(json_object_get(status, "started")));
    if (row > end->step) end->step = row;
    if (outcome) {
        end->exit_code = (int)whole(outcome, "exit_code");
        end->out_of_time = json_is_true(json_object_get(outcome, "out_of_time"));
        if (whole(outcome, "step") > end->step) end->step = whole(outcome, "step");
    } else if (watch->killed) {
        end->exit_code = EXIT_HANG;
    } else if (code == EXIT_DONE) {
        end->exit_code = EXIT_COMMUNICATION; // of a launcher that did not wait for its ranks
    } else if (end->asked && code == 128 + SIGUSR1) {
        end->exit_code = EXIT_REQUEUE; // asked before it could note that: nothing was begun
    }
    describe_end(attempt, watch, outcome);
    json_decref(status);
    json_decref(outcome);
}

void attempt_run(Attempt *attempt) {
    Watch watch = {.attempt = attempt};
    Error err = {0};
    if (!rank_launcher_start(&watch.launcher, attempt->command, attempt->ranks, attempt->hosts,
                             attempt->nodes, attempt->words, attempt->name, &err)) {
        snprintf(attempt->message, sizeof attempt->message, "%s", err.message);
        attempt->launcher_code = 127;
        attempt->end = (AttemptEnd){.exit_code = err.exit_code,
                                    .first_step = -1,
                                    .step = -1,
                                    .saved_step = newest_checkpoint(attempt->run_dir)};
        return;
    }
    watch_until_end(&watch);
    judge(attempt, &watch);
    rank_launcher_close(&watch.launcher);
    free(watch.pids);
}
