#include "worker/save.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/watchdog.h"

// Whether training may go on from here: the last step was finite, and its loss hardly above that of guessing.
static bool is_healthy(const Trainer *trainer) {
    double guessing = log((double)trainer->config.model.vocab_size);
    return trainer->state.skipped_in_row == 0 && trainer->last_loss <= guessing + 0.25;
}

Checkpoint save_describe(Trainer *trainer, const HostState *host) {
    Checkpoint checkpoint = {.state = trainer->state,
                             .config_yaml = trainer->config_yaml,
                             .utilization = &trainer->utilization};
    checkpoint.state.run.healthy = is_healthy(trainer);
    checkpoint.tensors = saved_tensors(host, &trainer->vocabulary, &checkpoint.tensor_count);
    return checkpoint;
}

bool save_checkpoint(Trainer *trainer, Error *err) {
    if (trainer->saved_step == trainer->state.step) return true;
    double begin = clock_seconds();
    watchdog_beat("saving a checkpoint");
    HostState host;
    host_state_open(&host, &trainer->model, &trainer->optimizer);
    host_state_download(&host);
    Checkpoint checkpoint = save_describe(trainer, &host);
    bool ok =
        checkpoint_save(trainer->config.run_dir, &checkpoint, (int)trainer->config.keep_last, err);
    free(checkpoint.tensors);
    host_state_close(&host);
    if (!ok) return false;
    trainer->saved_step = trainer->state.step;
    log_info("saved %s/checkpoints/step-%08lld.h5 in %.2f s", trainer->config.run_dir,
             (long long)trainer->state.step, clock_seconds() - begin);
    return true;
}
