#include "tiny_model.h"

#include "comm/comm.h"

ModelConfig tiny_model_config(void) {
    return (ModelConfig){.vocab_size = TINY_VOCABULARY,
                         .d_model = TINY_WIDTH,
                         .layers = 2,
                         .d_ff = 7,
                         .tied_embeddings = true,
                         .activation = SWIGLU,
                         .norm_eps = 1e-5,
                         .init_std = 0.3,
                         .attention = {{1, 1, 4, 3}, 10000},
                         .moe = {.experts = {1, {TINY_EXPERTS}},
                                 .top_k = {1, {2}},
                                 .d_ff = {1, {5}},
                                 .every = 1,
                                 .first = true,
                                 .router = {.kind = TOPK_SOFTMAX},
                                 .capacity_factor = {0, 1},
                                 .min_capacity = 1,
                                 .max_expert_replicas = 8}};
}

void tiny_model_measure(Model *model, Device *dev, ProcessGroups *groups, const ModelConfig *config,
                        TinySplit split) {
    Error err = {0};
    CHECK(device_open(dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    *groups = process_groups_open(split.expert_parallel, dev);
    ModelSplit of = {.ranks = comm_size(),
                     .rank = comm_rank(),
                     .expert_parallel = split.expert_parallel,
                     .shards = TINY_SHARDS,
                     .sequences = split.sequences,
                     .context = split.context,
                     .micro_batches = 1,
                     .fixed_tree = true,
                     .chunks = split.chunks,
                     .training = true};
    model_measure(model, config, of, dev);
}

void tiny_model_begin(Model *model, ProcessGroups groups) {
    model_allocate(model, groups, 5);
    model_init_parameters(model);
}

void tiny_model_close(Model *model, Device *dev, ProcessGroups *groups) {
    model_free(model);
    process_groups_close(groups);
    device_close(dev);
}
