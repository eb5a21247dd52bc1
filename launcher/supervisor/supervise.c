#include "launcher/supervisor/supervise.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_list.h"
#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "launcher/config_rules.h"
#include "launcher/supervisor/attempt.h"
#include "launcher/supervisor/attempt_journal.h"
#include "launcher/supervisor/detach.h"
#include "launcher/supervisor/live_hosts.h"
#include "launcher/supervisor/process_tree.h"
#include "launcher/supervisor/rank_launcher.h"
#include "launcher/supervisor/supervisor.h"
#include "worker/run/json_file.h"
#include "worker/run/run_dir.h"
#include "worker/run/run_lock.h"
#include "worker/run/signals.h"

enum { ROOM_SECONDS = 5, BEAT_SECONDS = 1 };
static const int64_t LEAST_ROOM_BYTES = 64 << 20; // for a first checkpoint of unknown size

// ---- before a start -----------------------------------------------------------------------------

// The most ranks up to `most` that the configuration allows; 0: none.
static int most_ranks(Supervisor *supervisor, int most) {
    Error ignored;
    for (int ranks = most; ranks > 0; ranks--)
        if (config_check_ranks(supervisor->config, ranks, &supervisor->train, &ignored))
            return ranks;
    return 0;
}

// The slots of the hosts that answer, or of the nodes that a Slurm job still has; where nothing is
// known of either, as many as wanted. Notes their names, or how many they are.
static int find_slots(Supervisor *supervisor) {
    const SuperviseOptions *options = supervisor->options;
    if (options->hosts)
        return hosts_find_live(options->hosts, supervisor->hosts, sizeof supervisor->hosts);
    int nodes = supervisor->first_nodes > 0 ? slurm_nodes_left() : 0;
    if (nodes == 0) return (int)options->ranks;
    supervisor->nodes = nodes;
    snprintf(supervisor->hosts, sizeof supervisor->hosts, "%d of %d nodes", nodes,
             supervisor->first_nodes);
    int on_a_node = ((int)options->ranks + supervisor->first_nodes - 1) / supervisor->first_nodes;
    return nodes * on_a_node;
}

// After a failure hosts may be gone. False when too few are left.
static bool find_hosts(Supervisor *supervisor, Error *err) {
    int slots = find_slots(supervisor), most = (int)supervisor->options->ranks;
    int ranks = most_ranks(supervisor, most < slots ? most : slots);
    if (ranks == 0)
        return error_set(err, EXIT_COMMUNICATION,
                         "%d slots are left on the hosts that answer, and no number of ranks up to "
                         "that fits the configuration",
                         slots);
    if (ranks != supervisor->ranks)
        log_warn("supervise: %d ranks from now on, on %s", ranks, supervisor->hosts);
    supervisor->ranks = ranks;
    return true;
}

// srun warns of nodes without a rank.
static int nodes_taken(const Supervisor *supervisor) {
    int nodes = supervisor->nodes > 0 ? supervisor->nodes : 1;
    return nodes < supervisor->ranks ? nodes : supervisor->ranks;
}

// ---- after a start ------------------------------------------------------------------------------

// What a supervisor does all the time.
static void serve(void *context) {
    Supervisor *supervisor = context;
    if (clock_seconds() - supervisor->beaten > BEAT_SECONDS) {
        run_lock_beat();
        supervisor->beaten = clock_seconds();
    }
    control_socket_serve(&supervisor->control, supervisor_answer, supervisor);
}

// Whether there is time for nothing more; says so.
static bool is_over(const Supervisor *supervisor, double seconds) {
    bool over = clock_seconds() + seconds >= supervisor->end.at;
    if (over)
        log_info("supervise: the time is over before the next start, says %s; run the same command "
                 "again to go on",
                 supervisor->end.source);
    return over;
}

// Waits, unless a signal asks to stop meanwhile or the job's time is over: then false.
static bool wait_seconds(Supervisor *supervisor, double seconds) {
    double begin = clock_seconds();
    if (is_over(supervisor, seconds)) return false;
    while (!signals_received() && clock_seconds() - begin < seconds) {
        serve(supervisor);
        signals_wait(0.2);
    }
    return !signals_received();
}

// Of the newest checkpoint that was healthy and is whole; -1: none.
static int64_t newest_healthy(const char *run_dir, char path[CHECKPOINT_PATH_BYTES]) {
    char folder[PATH_MAX], name[CHECKPOINT_NAME_BYTES], digest[40];
    CheckpointList list;
    TrainState state;
    Error ignored = {0};
    int64_t found = -1;
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    if (!checkpoint_list_read(&list, folder, &ignored)) return -1;
    for (int64_t i = 0; i < list.count && found < 0; i++) {
        checkpoint_name(list.steps[i], name);
        if (snprintf(path, CHECKPOINT_PATH_BYTES, "%s/%s", folder, name) < CHECKPOINT_PATH_BYTES &&
            checkpoint_read_state(path, &state, &ignored) && state.run.healthy &&
            checkpoint_digest(path, digest, &ignored))
            found = list.steps[i];
    }
    checkpoint_list_free(&list);
    return found;
}

// The next start begins at the last good checkpoint; false when there is none.
static bool go_back(Supervisor *supervisor) {
    char path[CHECKPOINT_PATH_BYTES];
    int64_t step = newest_healthy(supervisor->train.run_dir, path);
    if (step < 0) {
        log_warn("supervise: there is no healthy checkpoint to go back to");
        return false;
    }
    snprintf(supervisor->resume, sizeof supervisor->resume, "resume=%s", path);
    supervisor->progress.saved_step = step;
    log_info("supervise: going back to %s", path);
    return true;
}

// Until there is room for a checkpoint; false as wait_seconds.
static bool wait_for_space(Supervisor *supervisor) {
    const char *run_dir = supervisor->train.run_dir;
    char path[PATH_MAX], name[CHECKPOINT_NAME_BYTES];
    struct stat info;
    int64_t bytes = LEAST_ROOM_BYTES, newest = newest_checkpoint(run_dir);
    checkpoint_name(newest, name);
    snprintf(path, sizeof path, "%s/checkpoints/%s", run_dir, name);
    if (newest >= 0 && stat(path, &info) == 0) bytes = info.st_size + info.st_size / 10;
    Error full = {0};
    for (bool said = false; !directory_check_room(run_dir, bytes, &full); said = true) {
        if (!said) log_warn("supervise: %s: %s; waiting for room", run_dir, full.message);
        if (!wait_seconds(supervisor, ROOM_SECONDS)) return false;
    }
    return true;
}

// What must be so before the next start. False: there is none; *exit_code, that of the start
// before, becomes EXIT_REQUEUE where the same command may go on later.
static bool prepare_restart(Supervisor *supervisor, const Decision *decision, int *exit_code) {
    Error err = {0};
    bool go_on = true;
    if (decision->action != ACTION_LEAVE) job_end_ask(&supervisor->end);
    switch (decision->action) {
    case ACTION_LEAVE:
        return false;
    case ACTION_RESTART:
        break;
    case ACTION_WAIT_FOR_SPACE:
        go_on = wait_for_space(supervisor);
        break;
    case ACTION_GO_BACK:
        if (!go_back(supervisor)) return false;
        break;
    }
    // The folder holds checkpoints now, of this run.
    if (strcmp(supervisor->train.resume, "never") == 0 && !supervisor->resume[0])
        snprintf(supervisor->resume, sizeof supervisor->resume, "resume=auto");
    if (!go_on || !wait_seconds(supervisor, decision->wait_seconds)) {
        *exit_code = EXIT_REQUEUE;
        return false;
    }
    if (find_hosts(supervisor, &err)) return true;
    log_error("supervise: %s", err.message);
    return false;
}

static void report(const Attempt *attempt, int number, const Decision *decision,
                   const char *began) {
    const AttemptEnd *end = &attempt->end;
    char now[CLOCK_UTC_BYTES], next[96] = "", where[96] = "before it knew its step";
    if (decision->action != ACTION_LEAVE)
        snprintf(next, sizeof next, "; %s, in %.0f s", action_name(decision->action),
                 decision->wait_seconds);
    if (end->step >= 0)
        snprintf(where, sizeof where, "after step %lld%s", (long long)end->step,
                 end->saved_step < 0 ? ", without a checkpoint" : "");
    log_info("supervise: start %d ended %s with exit code %d (%s): %s%s", number, where,
             end->exit_code, decision->reason, attempt->message, next);
    attempt_journal_add(
        attempt->run_dir,
        json_pack("{s:s, s:i, s:s, s:s, s:i, s:o, s:I, s:I, s:I, s:i, s:i, s:o, s:s, s:s, s:f}",
                  "attempt", attempt->name, "number", number, "began", began, "ended",
                  clock_utc(now), "ranks", attempt->ranks, "hosts", json_text(attempt->hosts),
                  "first_step", (json_int_t)end->first_step, "last_step", (json_int_t)end->step,
                  "checkpoint", (json_int_t)end->saved_step, "exit_code", end->exit_code,
                  "launcher_code", attempt->launcher_code, "message", json_text(attempt->message),
                  "action", action_name(decision->action), "reason", decision->reason,
                  "wait_seconds", decision->wait_seconds));
}

// ---- the loop -----------------------------------------------------------------------------------

// The program's words, for this start.
static void list_words(Supervisor *supervisor, const char *self, const char **words) {
    *words++ = self;
    *words++ = supervisor->path;
    for (int i = 0; i < supervisor->override_count; i++) *words++ = supervisor->overrides[i];
    for (int i = 0; i < supervisor->set_count; i++) *words++ = supervisor->sets[i];
    if (supervisor->resume[0]) *words++ = supervisor->resume; // the last of a key holds
    *words = NULL;
}

static int start_until_done(Supervisor *supervisor, const char *self) {
    char began[CLOCK_UTC_BYTES], first[CLOCK_UTC_BYTES];
    clock_utc(first);
    for (int number = 1;; number++) {
        const char *words[SUPERVISOR_WORDS];
        list_words(supervisor, self, words);
        Attempt attempt = {.run_dir = supervisor->train.run_dir,
                           .command =
                               launcher_command(supervisor->launcher, supervisor->options->hosts,
                                                supervisor->nodes > 0),
                           .first = number == 1,
                           .ranks = supervisor->ranks,
                           .hosts = supervisor->hosts,
                           .nodes = nodes_taken(supervisor),
                           .words = (char *const *)words,
                           .hang_timeout = supervisor->train.hang_timeout,
                           .serve = serve,
                           .context = supervisor};
        snprintf(attempt.name, sizeof attempt.name, "%s/%d", first, number);
        clock_utc(began);
        log_info("supervise: start %d on %d rank%s", number, attempt.ranks,
                 attempt.ranks == 1 ? "" : "s");
        supervisor->number = number;
        supervisor->alive = true;
        job_end_hand_on(&supervisor->end);
        attempt_run(&attempt);
        supervisor->alive = false;
        Decision decision =
            restart_decide(&supervisor->progress, &attempt.end, supervisor->options->wait_seconds);
        report(&attempt, number, &decision, began);
        int exit_code = attempt.end.exit_code;
        if (!prepare_restart(supervisor, &decision, &exit_code)) return exit_code;
    }
}

// What is the supervisor's: its lock, its socket, the number of ranks.
static bool set_up(Supervisor *supervisor, char self[PATH_MAX], Error *err) {
    const SuperviseOptions *options = supervisor->options;
    supervisor->ranks = (int)options->ranks;
    supervisor->launcher = options->launcher ? options->launcher
                           : options->hosts  ? "mpirun"
                                             : launcher_here();
    if (options->hosts) snprintf(supervisor->hosts, sizeof supervisor->hosts, "%s", options->hosts);
    if (!config_check_ranks(supervisor->config, supervisor->ranks, &supervisor->train, err))
        return false;
    ssize_t length = readlink("/proc/self/exe", self, PATH_MAX - 1);
    if (length <= 0)
        return error_set(err, EXIT_IO, "cannot find this program: /proc/self/exe cannot be read");
    self[length] = 0;
    supervisor->end = job_end_find(supervisor->train.max_minutes);
    supervisor->nodes = supervisor->first_nodes = slurm_nodes_left();
    const char *run_dir = supervisor->train.run_dir;
    char log[CONFIG_PATH_BYTES + 32];
    snprintf(log, sizeof log, "%s/supervise.log", run_dir);
    supervisor->progress = (Progress){.saved_step = newest_checkpoint(run_dir), .failed_step = -1};
    return run_dir_open(run_dir, err) &&
           run_lock_take(run_dir, "supervisor", supervisor->ranks, err) &&
           control_socket_open(&supervisor->control, run_dir, err) && detach_ready(log, err);
}

int supervise_run(const SuperviseOptions *options, const Config *config, const char *path,
                  const char *const *overrides, int override_count, Error *err) {
    char self[PATH_MAX];
    Supervisor *supervisor = calloc(1, sizeof *supervisor);
    CHECK_MEMORY(supervisor, "no memory for the supervisor");
    *supervisor = (Supervisor){.options = options,
                               .path = path,
                               .overrides = overrides,
                               .override_count = override_count,
                               .config = config_copy(config),
                               .control = {-1, -1}};
    log_show_time();
    if (options->daemon) detach();
    process_tree_adopt();
    int exit_code =
        set_up(supervisor, self, err) ? start_until_done(supervisor, self) : err->exit_code;
    control_socket_close(&supervisor->control);
    run_lock_release();
    free(supervisor->config);
    free(supervisor);
    return exit_code;
}
