// Expert choice (Zhou et al., arXiv:2202.09368): each expert takes the C = ⌈cf·K·G/E⌉ tokens of a
// routing group that want it most, by their probability among all experts. As choices: every
// expert is a candidate of every token, and all candidates but an expert's best C are passed over,
// by the same rule that drops the smallest weights where capacity is short.
#include "model/chooser.h"

static bool chooses(const Work *work, int64_t layer) {
    (void)layer;
    return work->config->moe.router.kind == EXPERT_CHOICE;
}

static void choose(Router *router, Work *work) {
    choose_in_turn(work->dev, router->ids, router->shape.experts, 0); // with E slots a token: all
}

const Chooser EVERY_EXPERT = {.chooses = chooses, .choose = choose};
