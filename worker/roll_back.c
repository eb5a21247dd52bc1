#include "worker/roll_back.h"

#include <stdio.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "checkpoint/going_back.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/resume.h"
#include "worker/run/run_status.h"
#include "worker/save.h"
#include "worker/watch/watchdog.h"

// Whether rank 0 sees the file. Collective over all ranks.
static bool is_there(const char *path) {
    Error ignored = {0};
    return comm_follow(comm_rank() != 0 || access(path, F_OK) == 0, &ignored);
}

// What came after the step goes, on disk. Rank 0.
static bool give_up_rest(Trainer *trainer, int64_t step, Error *err) {
    const char *run_dir = trainer->config.run_dir;
    if (!going_back_to(run_dir, trainer->state.run.run, step, err)) return false;
    row_file_close(trainer->report.metrics);
    trainer->report.metrics = NULL;
    return metrics_open(&trainer->report.metrics, run_dir, step, err) &&
           step_digests_open_file(&trainer->digests, run_dir, step, err);
}

static bool go_back(Trainer *trainer, const char *path, int64_t spike, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState *state = &trainer->state;
    int64_t times = trainer->outliers.rollbacks[ROLLBACK_TIMES] + 1;
    if (!resume_load(trainer, path, err)) return false;
    int64_t target = state->step, batches = rollback_batches(config, spike, target);
    trainer->outliers.rollbacks[ROLLBACK_TIMES] = times;
    trainer->outliers.rollbacks[ROLLBACK_STEP] = target;
    trainer->replicas.checked_step = -1;
    DataCursor cursor = {state->data_epoch, state->data_index};
    cursor = data_mix_advance(&trainer->data.training, cursor, batches * config->batch);
    state->data_epoch = cursor.epoch;
    state->data_index = cursor.index;
    bool ok = comm_rank() != 0 || give_up_rest(trainer, target, err);
    if (!comm_follow(ok, err)) return false;
    log_warn(
        "step %lld: back to step %lld, without the next %lld batches of data (rollback %lld of "
        "%lld at most)",
        (long long)spike, (long long)target, (long long)batches, (long long)times,
        (long long)config->rollback_limit);
    metrics_write_rollback(trainer->report.metrics, target, spike, batches, times);
    run_status_resumed(target, target);
    trainer->saved_step = -1; // the file of this step has the data still before it
    return save_checkpoint(trainer, err);
}

bool roll_back(Trainer *trainer, bool *done, Error *err) {
    const TrainConfig *config = &trainer->config;
    int64_t spike = trainer->state.step + 1, times = trainer->outliers.rollbacks[ROLLBACK_TIMES];
    int64_t target = rollback_target(config, &trainer->outliers, spike);
    char path[CHECKPOINT_PATH_BYTES + 64], name[CHECKPOINT_NAME_BYTES];
    *done = false;
    watchdog_beat("going back");
    save_settle(trainer);
    checkpoint_name(target, name);
    snprintf(path, sizeof path, "%s/checkpoints/%s", config->run_dir, name);
    if (target == 0 || !is_there(path)) {
        log_warn(
            "step %lld: there is no checkpoint of step %lld to go back to; the step is skipped",
            (long long)spike, (long long)target);
        return true;
    }
    if (times >= config->rollback_limit)
        return error_set(err, EXIT_NUMERIC,
                         "step %lld: a spike after %lld rollbacks, which are all that "
                         "train.rollback_limit allows. Lower train.lr, or raise train.skip_z, and "
                         "resume",
                         (long long)spike, (long long)times);
    *done = true;
    return go_back(trainer, path, spike, err);
}
