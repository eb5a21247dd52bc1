// AdamW with decoupled weight decay (arXiv:1711.05101).
#include <math.h>

#include "worker/optimizer/optimizer_rule.h"

static void update_range(const OptimizerUpdate *update) {
    const OptimizerConfig *config = update->config;
    AdamW rule = {
        .beta1 = (float)config->beta1,
        .beta2 = (float)config->beta2,
        .eps = (float)config->eps,
        .bias_correction1 = (float)(1 - pow(config->beta1, (double)update->t)),
        .bias_correction2 = (float)(1 - pow(config->beta2, (double)update->t)),
        .grad_scale = (float)update->grad_scale,
    };
    update_rates(update, rule.lr, rule.weight_decay);
    adamw_update(update->dev, update->values, update->copy, update->gradients, update->states[0],
                 update->states[1], update->groups, rule);
}

const OptimizerRule ADAMW = {.states = {"optimizer/m", "optimizer/v"}, .update = update_range};
