// SGD with momentum, as torch.optim.SGD with dampening 0. Weight decay is coupled, as there: it is
// added to the gradient and so passes through the momentum.
#include "worker/optimizer/optimizer_rule.h"

static void update_range(const OptimizerUpdate *update) {
    const OptimizerConfig *config = update->config;
    Sgd rule = {
        .momentum = (float)config->momentum,
        .nesterov = config->nesterov,
        .grad_scale = (float)update->grad_scale,
    };
    update_rates(update, rule.lr, rule.weight_decay);
    sgd_update(update->dev, update->values, update->copy, update->gradients, update->states[0],
               update->groups, rule);
}

const OptimizerRule SGD = {.states = {"optimizer/m"}, .update = update_range};
