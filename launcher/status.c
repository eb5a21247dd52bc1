#include "launcher/status.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/clock.h"
#include "kernels/utf8.h"
#include "launcher/supervisor/attempt_journal.h"
#include "worker/run/json_file.h"

static const double SILENT_SECONDS = 10; // ten beats

// ---- what is known ------------------------------------------------------------------------------

static double age_seconds(const char *path) {
    struct stat info;
    struct timespec now;
    if (stat(path, &info) != 0) return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    double age = (double)(now.tv_sec - info.st_mtim.tv_sec) +
                 1e-9 * (double)(now.tv_nsec - info.st_mtim.tv_nsec);
    return age > 0 ? age : 0; // a server's clock may go before ours
}

// Whether rank 0 ran on this host and its process is gone.
static bool is_gone(json_t *status) {
    char host[256] = "?", path[64];
    gethostname(host, sizeof host - 1);
    json_t *hosts = json_object_get(status, "hosts");
    const char *first = json_object_iter_key(json_object_iter(hosts));
    json_t *pid = json_array_get(json_object_get(hosts, first), 0);
    if (!first || strcmp(first, host) != 0 || !json_is_integer(pid)) return false;
    snprintf(path, sizeof path, "/proc/%lld", (long long)json_integer_value(pid));
    return access(path, F_OK) != 0;
}

static const char *state_of(json_t *status, json_t *outcome, double age) {
    if (outcome) {
        json_int_t code = json_integer_value(json_object_get(outcome, "exit_code"));
        return code == EXIT_DONE ? "done" : code == EXIT_REQUEUE ? "saved" : "failed";
    }
    if (is_gone(status)) return "killed";
    return age <= SILENT_SECONDS ? "running" : "silent";
}

json_t *status_read(const char *run_dir, Error *err) {
    char path[PATH_MAX], ending[PATH_MAX];
    snprintf(path, sizeof path, "%s/status.json", run_dir);
    snprintf(ending, sizeof ending, "%s/outcome.json", run_dir);
    json_t *status = json_file_read(path);
    if (!status) {
        error_set(err, EXIT_CONFIG,
                  "%s: no run directory of a run that has begun: there is no status.json in it; "
                  "name the run.dir of its configuration, such as runs/quickstart",
                  run_dir);
        return NULL;
    }
    json_t *outcome = json_file_read(ending);
    double age = age_seconds(path);
    return json_pack("{s:s, s:f, s:o, s:o, s:o}", "state", state_of(status, outcome, age),
                     "age_seconds", age, "status", status, "outcome",
                     outcome ? outcome : json_null(), "attempts", attempt_journal_read(run_dir));
}

// ---- for people ---------------------------------------------------------------------------------

static long long whole(json_t *object, const char *key) {
    return (long long)json_integer_value(json_object_get(object, key));
}
static double real(json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}
// A file may say anything: a terminal obeys control characters. Up to four at once.
static const char *printable(const char *text) {
    static char shown[4][1024];
    static int next;
    next = (next + 1) % 4;
    utf8_make_printable(text, shown[next], sizeof shown[next]);
    return shown[next];
}
static const char *text(json_t *object, const char *key) {
    const char *value = json_string_value(json_object_get(object, key));
    return printable(value ? value : "?");
}

static void print_state(const char *run_dir, json_t *all) {
    json_t *status = json_object_get(all, "status"), *outcome = json_object_get(all, "outcome");
    const char *state = text(all, "state");
    char age[CLOCK_DURATION_BYTES];
    clock_duration(real(all, "age_seconds"), age);
    printf("%s: %s", run_dir, state);
    if (strcmp(state, "running") == 0)
        printf(", in: %s", text(status, "phase"));
    else if (strcmp(state, "silent") == 0)
        printf(" for %s, last in: %s; stopped, cut off, or killed on another host", age,
               text(status, "phase"));
    else if (strcmp(state, "killed") == 0)
        printf(" in: %s, %s ago; no rank could say why", text(status, "phase"), age);
    else if (strcmp(state, "done") != 0)
        printf(" with exit code %lld: %s", whole(outcome, "exit_code"), text(outcome, "message"));
    printf("\n");
}

static void print_progress(json_t *status) {
    json_t *step = json_object_get(status, "step");
    if (json_is_null(step)) {
        printf("  before the first step\n");
        return;
    }
    printf("  step %lld of %lld", whole(status, "step"), whole(status, "steps"));
    if (json_object_get(status, "loss")) {
        char eta[CLOCK_DURATION_BYTES];
        printf(" | loss %.4f | lr %.2e | %.1f ms a step, %.0f tokens/s | eta %s",
               real(status, "loss"), real(status, "lr"), real(status, "step_ms"),
               real(status, "tokens_per_second"), clock_duration(real(status, "eta_seconds"), eta));
        long long skipped = whole(status, "skipped_steps");
        if (skipped) printf(" | %lld steps skipped", skipped);
    }
    printf("\n");
    json_t *evaluation = json_object_get(status, "evaluation");
    if (evaluation)
        printf("  validation at step %lld | loss %.4f\n", whole(evaluation, "step"),
               real(evaluation, "loss"));
}

static void print_checkpoint(json_t *status) {
    json_t *checkpoint = json_object_get(status, "checkpoint");
    if (!checkpoint)
        printf("  no checkpoint yet\n");
    else if (!text(checkpoint, "time")[0])
        printf("  checkpoint of step %lld\n", whole(checkpoint, "step"));
    else
        printf("  checkpoint of step %lld, saved in %.2f s at %s\n", whole(checkpoint, "step"),
               real(checkpoint, "seconds"), text(checkpoint, "time"));
}

static void print_time_limit(json_t *status) {
    json_t *limit = json_object_get(status, "time_limit");
    char left[CLOCK_DURATION_BYTES];
    if (limit)
        printf("  time limit in %s, says %s\n", clock_duration(real(limit, "seconds_left"), left),
               text(limit, "source"));
}

static void print_figures(json_t *status) {
    json_t *figures = json_object_get(status, "figures"), *value;
    const char *name, *between = "  ";
    // clang-format off
    json_object_foreach(figures, name, value) {
        printf("%s%s %.4g", between, printable(name), json_number_value(value));
        between = " | ";
    }
    // clang-format on
    if (json_object_size(figures)) printf("\n");
}

static void print_slowest(json_t *status) {
    json_t *slowest = json_object_get(status, "slowest");
    if (slowest)
        printf("  slowest rank %lld on %s, score %.2f (the fastest's time over its own)%s\n",
               whole(slowest, "rank"), text(slowest, "host"), real(slowest, "score"),
               json_is_true(json_object_get(slowest, "straggler")) ? ": a straggler" : "");
}

static void print_attempts(json_t *attempts) {
    size_t count = json_array_size(attempts), first = count > 5 ? count - 5 : 0;
    for (size_t i = first; i < count; i++) {
        json_t *row = json_array_get(attempts, i);
        if (json_object_get(row, "set"))
            printf("  set %s at %s\n", text(row, "set"), text(row, "time"));
        else
            printf("  start %lld ended at %s after step %lld with exit code %lld: %s\n",
                   whole(row, "number"), text(row, "ended"), whole(row, "last_step"),
                   whole(row, "exit_code"), text(row, "message"));
    }
}

static void print_hosts(json_t *status) {
    json_t *hosts = json_object_get(status, "hosts"), *pids;
    const char *host;
    // clang-format off
    json_object_foreach(hosts, host, pids) {
        printf("  %s:", printable(host));
        for (size_t i = 0; i < json_array_size(pids); i++)
            printf(" %lld", (long long)json_integer_value(json_array_get(pids, i)));
        printf("\n");
    }
    // clang-format on
}

bool status_print(const char *run_dir, bool json, Error *err) {
    json_t *all = status_read(run_dir, err);
    if (!all) return false;
    if (json) {
        json_dumpf(all, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
        printf("\n");
    } else {
        json_t *status = json_object_get(all, "status");
        print_state(run_dir, all);
        print_progress(status);
        print_figures(status);
        print_checkpoint(status);
        if (strcmp(text(all, "state"), "running") == 0) print_time_limit(status);
        print_hosts(status);
        print_slowest(status);
        print_attempts(json_object_get(all, "attempts"));
    }
    json_decref(all);
    return true;
}
