#include "model/model_config.h"

static const Choice ROUTING_GROUPS[] = {
    [GROUP_SHARD] = {"shard", "the tokens of one of train.shards"},
    [GROUP_SEQUENCE] = {"sequence", "the tokens of one sequence"},
};
const ChoiceTable ROUTING_GROUP_CHOICES = CHOICE_TABLE(ROUTING_GROUPS);

static const Choice BALANCE_SCOPES[] = {
    [BALANCE_SHARD] = {"shard", "the tokens of one of train.shards"},
    [BALANCE_SEQUENCE] = {"sequence", "the tokens of one sequence"},
    [BALANCE_BATCH] = {"batch", "the tokens of a whole micro-batch, on all ranks"},
};
const ChoiceTable BALANCE_SCOPE_CHOICES = CHOICE_TABLE(BALANCE_SCOPES);

static const Choice DISPATCHES[] = {
    [DISPATCH_EXACT] = {"exact", "kept choices travel, after their counts"},
    [DISPATCH_PADDED] = {"padded",
                         "every expert takes its whole capacity from every shard, so that "
                         "no rank waits for counts (GPUs); needs moe.capacity_factor"},
};
const ChoiceTable DISPATCH_CHOICES = CHOICE_TABLE(DISPATCHES);
