#include "kernels/option_rows.h"
#include "worker/train_config.h"

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    PATH("moe.record", FREE, routing_record, DEFAULT(""),
        "HDF5 file of the experts that every token of every training step chooses: layers/L (step, micro-batch, token, slot); "
        "a resume goes on in it"),
    PATH("moe.replay", COURSE, routing_replay, DEFAULT(""),
        "such a file whose experts are chosen in training, step by step, on any ranks and micro-batches; the gate weights are "
        "those of the live logits (routing replay, R3, arXiv:2510.11370)"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *train = section;
    bool replay = train->routing_replay[0];
    if (replay && train->routing_record[0])
        return option_broken(rules, "moe.record", "moe.replay",
                             "moe.record would write what moe.replay reads; leave one of them out");
    if ((replay || train->routing_record[0]) && train->model.moe.router.kind == EXPERT_CHOICE)
        return option_broken(rules, replay ? "moe.replay" : "moe.record", "moe.router",
                             "%s is of tokens that choose, and moe.router is expert_choice; leave "
                             "it out",
                             replay ? "moe.replay" : "moe.record");
    if (replay && train->model.moe.force != FORCE_NONE)
        return option_broken(rules, "moe.replay", "moe.force",
                             "moe.replay and moe.force both say who is chosen; leave one of them "
                             "out");
    if (!replay && !train->routing_record[0]) return true;
    for (int64_t layer = 0; layer < train->model.layers; layer++)
        if (model_is_routed(&train->model, layer)) return true;
    return option_broken(rules, replay ? "moe.replay" : "moe.record", "moe.experts",
                         "no layer has experts, so there is no routing to keep; leave %s out, or "
                         "set moe.experts above 0",
                         replay ? "moe.replay" : "moe.record");
}

const OptionSection ROUTING_OPTIONS = SECTION(ROWS, check);
