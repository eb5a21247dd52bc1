#include "worker/save.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/checkpoint_list.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/run_lock.h"
#include "worker/run/run_status.h"
#include "worker/run/run_watch.h"
#include "worker/run/time_limit.h"
#include "worker/watch/watchdog.h"

// A save is tried again after RETRY_SECONDS, or later: attempts that fail take at most a fifth of
// the time. While training goes on nothing is given up within PATIENCE_SECONDS; before leaving,
// WAIT_SECONDS stay below the 30 that schedulers grant.
enum { RETRY_SECONDS = 5, PATIENCE_SECONDS = 30, WAIT_SECONDS = 20 };

// Whether training may go on from here: the last step was finite, and its loss hardly above that of
// guessing.
static bool is_healthy(const Trainer *trainer) {
    double guessing = log((double)trainer->config.model.vocab_size);
    return trainer->state.skipped_in_row == 0 && trainer->last_loss <= guessing + 0.25;
}

Checkpoint save_describe(Trainer *trainer, const HostState *host) {
    Checkpoint checkpoint = {.state = trainer->state,
                             .config_yaml = trainer->config_yaml,
                             .utilization = &trainer->utilization,
                             .before_publish = run_lock_confirm};
    checkpoint.state.run.healthy = is_healthy(trainer);
    checkpoint.tensors = saved_tensors(host, &trainer->data.vocabulary, &checkpoint.tensor_count);
    size_t most = (size_t)checkpoint.tensor_count + DEAD_EXPERTS_TENSORS + STEP_OUTLIERS_TENSORS +
                  MIX_PLACE_TENSORS;
    checkpoint.tensors = realloc(checkpoint.tensors, most * sizeof *checkpoint.tensors);
    CHECK_MEMORY(checkpoint.tensors, "no memory for the list of saved tensors");
    SavedTensor *next = checkpoint.tensors + checkpoint.tensor_count;
    next += dead_experts_tensors(&trainer->dead_experts, next);
    next += step_outliers_tensors(&trainer->outliers, next);
    next += data_mix_tensors(&trainer->data.training, next);
    checkpoint.tensor_count = (int)(next - checkpoint.tensors);
    return checkpoint;
}

bool save_prepare(Trainer *trainer, Error *err) {
    int64_t bytes = trainer->plan.saved_bytes;
    time_limit_expect_save(bytes);
    return checkpoint_try_directory(trainer->config.run_dir, bytes, err);
}

// Before each attempt: the run's folder is still ours. Collective over all ranks.
static bool look_at_folder(Trainer *trainer, Error *err) {
    run_lock_confirm();
    watchdog_beat("saving a checkpoint");
    bool ok = comm_rank() != 0 || run_watch_look(&trainer->run_watch, trainer->config.run_dir,
                                                 trainer->config_yaml, err);
    return comm_follow(ok, err);
}

static void tell_saved(Trainer *trainer, int64_t step, double seconds, double stalled) {
    char name[CHECKPOINT_NAME_BYTES], waited[64] = "";
    trainer->saved_step = step;
    trainer->retry = (SaveRetry){0};
    checkpoint_name(step, name);
    run_status_saved(step, seconds);
    time_limit_save(seconds);
    if (stalled < seconds) snprintf(waited, sizeof waited, ", training waited %.2f s", stalled);
    log_info("saved %s/checkpoints/%s in %.2f s%s", trainer->config.run_dir, name, seconds, waited);
}

// What pruning leaves: with train.spike_policy: rollback also what spikes may lead back to.
static CheckpointKeep what_to_keep(const Trainer *trainer) {
    const TrainConfig *config = &trainer->config;
    CheckpointKeep keep = config->keep;
    if (config->optimizer.spike_policy == SPIKE_ROLLBACK)
        keep.from = rollback_target(config, &trainer->outliers, trainer->state.step + 1);
    return keep;
}

// The state as it is now, in the host's memory.
static Checkpoint describe_present(Trainer *trainer) {
    HostState *host = &trainer->host;
    if (!host->model) host_state_open(host, &trainer->model, &trainer->optimizer);
    host_state_download(host);
    return save_describe(trainer, host);
}

// One attempt. Collective over all ranks.
static bool try_save(Trainer *trainer, Error *err) {
    double begin = clock_seconds();
    if (!look_at_folder(trainer, err)) return false;
    Checkpoint checkpoint = describe_present(trainer);
    bool ok = checkpoint_save(trainer->config.run_dir, &checkpoint, what_to_keep(trainer), err);
    free(checkpoint.tensors);
    double seconds = clock_seconds() - begin;
    if (ok) tell_saved(trainer, trainer->state.step, seconds, seconds);
    return ok;
}

// One that is written while training goes on; how it ends comes later. begin: of this attempt.
// Collective over all ranks.
static bool start_save(Trainer *trainer, double begin, Error *err) {
    SaveBehind *behind = &trainer->behind;
    CheckpointSave *save = NULL;
    double here = clock_seconds();
    if (!look_at_folder(trainer, err)) return false;
    Checkpoint checkpoint = describe_present(trainer);
    bool ok = checkpoint_save_begin(&save, trainer->config.run_dir, &checkpoint, err);
    if (ok) save_behind_start(behind, save, trainer->state.step, begin);
    behind->updates = trainer->state.adam_steps;
    free(checkpoint.tensors);
    behind->stalled = clock_seconds() - here;
    return ok;
}

// Rank 0's clock, on every rank: what depends on it is decided alike. Collective over all ranks.
static double shared_seconds(const Trainer *trainer) {
    double now = clock_seconds();
    broadcast(trainer->session.groups.world, &now, sizeof now, 0);
    return now;
}

static bool give_up(const Trainer *trainer, double seconds, const Error *cause, Error *err) {
    *err = *cause;
    return error_prefix(err, "not saved at step %lld, after trying for %.0f s",
                        (long long)trainer->state.step, seconds);
}

// The attempt to save a step that began at `begin` has failed. While training goes on the next
// comes some seconds later. Collective over all ranks.
static void note_failure(Trainer *trainer, int64_t step, double begin, const Error *cause) {
    SaveRetry *retry = &trainer->retry;
    double now = shared_seconds(trainer);
    double next = now + RETRY_SECONDS + 4 * (now - begin);
    if (retry->pending) {
        retry->next = next;
        return;
    }
    // One that nobody was waiting for (checkpoint.every: 0) is no reason to end the run.
    int64_t every = trainer->config.checkpoint_every;
    int64_t patience = every > 0 ? every : trainer->config.steps;
    *retry = (SaveRetry){
        .pending = true, .since = begin, .next = next, .last_step = trainer->state.step + patience};
    log_warn("step %lld is not saved: %s; training goes on and tries again until step %lld, for "
             "%d s at least",
             (long long)step, cause->message, (long long)retry->last_step, PATIENCE_SECONDS);
}

// Commits the one in flight if there is one and all ranks have written it; with `wait` after they
// have. Collective over all ranks.
static void settle(Trainer *trainer, bool wait) {
    SaveBehind *behind = &trainer->behind;
    Error cause = {0};
    if (!behind->save) return;
    if (wait) watchdog_beat("waiting for the checkpoint that is being written");
    if (!save_behind_written(behind, wait)) return;
    CHECK(behind->copied || behind->updates == trainer->state.adam_steps,
          "an update came before the copy of step %lld's checkpoint", (long long)behind->step);
    if (save_behind_finish(behind, what_to_keep(trainer), &cause))
        tell_saved(trainer, behind->step, shared_seconds(trainer) - behind->begin, behind->stalled);
    else
        note_failure(trainer, behind->step, behind->begin, &cause);
}

void save_settle(Trainer *trainer) {
    settle(trainer, true);
}

// False, with exit 6, when ranks differ in what they hold alike: that is not to be saved.
// Collective over all ranks.
static bool is_fit_to_save(Trainer *trainer, Error *err) {
    return replica_check_compare(&trainer->replicas, trainer->state.step, err);
}

bool save_checkpoint(Trainer *trainer, Error *err) {
    double begin = 0;
    settle(trainer, true);
    if (trainer->saved_step != trainer->state.step && !is_fit_to_save(trainer, err)) return false;
    while (trainer->saved_step != trainer->state.step) {
        Error cause = {0};
        if (try_save(trainer, &cause)) return true;
        double now = shared_seconds(trainer);
        if (begin == 0) {
            begin = now;
            log_warn("step %lld is not saved: %s; trying again for %d s",
                     (long long)trainer->state.step, cause.message, WAIT_SECONDS);
        }
        if (now - begin >= WAIT_SECONDS) return give_up(trainer, now - begin, &cause, err);
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    }
    return true;
}

static bool attempt(Trainer *trainer, Error *err) {
    Error cause = {0};
    if (!is_fit_to_save(trainer, err)) return false;
    double begin = shared_seconds(trainer);
    bool ok = trainer->config.checkpoint_async ? start_save(trainer, begin, &cause)
                                               : try_save(trainer, &cause);
    if (!ok) note_failure(trainer, trainer->state.step, begin, &cause);
    return true;
}

bool save_now(Trainer *trainer, Error *err) {
    settle(trainer, true);
    return trainer->saved_step == trainer->state.step || trainer->retry.pending ||
           attempt(trainer, err);
}

static bool another_attempt(Trainer *trainer, Error *err) {
    SaveRetry *retry = &trainer->retry;
    Error cause = {0};
    double begin = shared_seconds(trainer);
    bool last = trainer->state.step >= retry->last_step && begin - retry->since >= PATIENCE_SECONDS;
    if (last && !is_fit_to_save(trainer, err)) return false;
    if (last) {
        double since = retry->since;
        return try_save(trainer, &cause) || give_up(trainer, begin - since, &cause, err);
    }
    return begin < retry->next || attempt(trainer, err);
}

bool save_when_due(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    int64_t step = trainer->state.step;
    if (step == config->steps) return save_checkpoint(trainer, err);
    bool due = config->checkpoint_every > 0 && step % config->checkpoint_every == 0;
    settle(trainer, due);
    if (trainer->behind.save) return true;
    if (trainer->retry.pending) return another_attempt(trainer, err);
    return !due || trainer->saved_step == step || attempt(trainer, err);
}
