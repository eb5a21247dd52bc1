// Lion (arXiv:2302.06675): every element moves by the learning rate, in the direction of the
// momentum's sign; decoupled decay. The authors take a rate 3 to 10 times smaller than AdamW's, and
// a decay as many times larger.
#include "worker/optimizer/optimizer_rule.h"

static void update_range(const OptimizerUpdate *update) {
    const OptimizerConfig *config = update->config;
    Lion rule = {
        .beta1 = (float)config->beta1,
        .beta2 = (float)config->beta2,
        .grad_scale = (float)update->grad_scale,
    };
    update_rates(update, rule.lr, rule.weight_decay);
    lion_update(update->dev, update->values, update->copy, update->gradients, update->states[0],
                update->groups, rule);
}

const OptimizerRule LION = {.states = {"optimizer/m"}, .update = update_range};
