#include "worker/resume.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/run_dir.h"
#include "worker/save.h"

// The checkpoint that `resume` asks for; empty: begin at zero. Collective over all ranks.
static bool choose_checkpoint(const TrainConfig *config, char path[CHECKPOINT_PATH_BYTES],
                              Error *err) {
    path[0] = 0;
    if (strcmp(config->resume, "never") == 0) {
        bool empty = comm_rank() != 0 || !run_dir_has_checkpoints(config->run_dir);
        if (!empty)
            error_set(err, EXIT_CONFIG,
                      "resume: never, but %s/checkpoints holds checkpoints, which would be "
                      "overwritten; choose another run.dir or resume: auto",
                      config->run_dir);
        return comm_follow(empty, err);
    }
    bool automatic = strcmp(config->resume, "auto") == 0,
         must = strcmp(config->resume, "must") == 0;
    if (!automatic && !must) {
        snprintf(path, CHECKPOINT_PATH_BYTES, "%s", config->resume);
        return checkpoint_verify(path, err);
    }
    if (!checkpoint_find_latest(config->run_dir, path, err)) return false;
    if (must && path[0] == 0)
        return error_set(err, EXIT_CHECKPOINT,
                         "resume: must, but %s/checkpoints holds no checkpoint; check run.dir or "
                         "use resume: auto to begin at step 0",
                         config->run_dir);
    return true;
}

bool resume_run(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    char path[CHECKPOINT_PATH_BYTES], data_id[sizeof trainer->state.data_id];
    memcpy(data_id, trainer->state.data_id, sizeof data_id);
    if (!choose_checkpoint(config, path, err)) return false;
    if (path[0] == 0) return true;

    HostState host;
    host_state_open(&host, &trainer->model, &trainer->optimizer);
    Checkpoint checkpoint = save_describe(trainer, &host);
    bool ok = checkpoint_load(path, &checkpoint, err);
    if (ok) host_state_upload(&host);
    free(checkpoint.tensors);
    host_state_close(&host);
    if (!ok) return false;
    trainer->state = checkpoint.state;
    if (strcmp(data_id, trainer->state.data_id) != 0)
        return error_set(err, EXIT_DATA,
                         "%s: not the data that %s was trained on (identity %s, then %s); restore "
                         "the file, or choose another run.dir to begin anew",
                         config->data.train, path, data_id, trainer->state.data_id);
    trainer->saved_step = trainer->state.step;
    log_info("resumed from %s at step %lld", path, (long long)trainer->state.step);
    return true;
}
