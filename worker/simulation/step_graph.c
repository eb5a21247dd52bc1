#include "worker/simulation/step_graph.h"

#include <math.h>
#include <stdlib.h>

#include "model/chooser.h"
#include "model/moe_layer.h"
#include "worker/optimizer/optimizer.h"
#include "worker/session.h"

// ---- the model ----------------------------------------------------------------------------------

// Of all choices, as many as fit into one expert.
static double most_share(const Model *model, int64_t layer) {
    const Work *work = &model->work;
    const MoeConfig *moe = &model->config.moe;
    MoeShape shape = moe_shape(&model->config, layer);
    int64_t groups = routing_groups(work), N = work->shape.N;
    int64_t capacity = moe_capacity(moe, shape, N / groups);
    if (capacity < 0 || moe->routing_group == GROUP_DOCUMENT) return INFINITY;
    return (double)(capacity * groups) / (double)(N * shape.top_k);
}

static void read_half(GraphHalf *half, const Model *model, const Layer *of, int64_t layer) {
    const Work *work = &model->work;
    LayerCost cost = {0};
    of->kind->cost(of->state, work, &cost);
    int64_t ep = work->shape.ep_size;
    int64_t experts = of->kind->experts ? of->kind->experts(&model->config, layer) : 0;
    *half = (GraphHalf){.layer = layer,
                        .flops = cost.flops_per_token - cost.expert_flops,
                        .expert_flops = cost.expert_flops,
                        .experts = experts,
                        .most_share = INFINITY,
                        .counted = cost.sent_bytes[TRAFFIC_COUNTS] > 0,
                        .sums = cost.sent_bytes[TRAFFIC_STATISTICS] > 0};
    if (of->kind == &MOE_FEED_FORWARD) {
        const MoeConfig *moe = &model->config.moe;
        half->routed = moe->router.kind != EXPERT_CHOICE;
        half->most_share = most_share(model, layer);
        half->padded = moe->dispatch == DISPATCH_PADDED && isfinite(half->most_share);
    }
    if (experts == 0 || ep == 1) return;
    // This rank is the first of its group, and sends what the others' experts take.
    double away = 1 - (double)deal_count(deal_evenly(experts, ep), 0) / (double)experts;
    double passes = 2 * (double)work->shape.micro_batches, tokens = (double)work->shape.N;
    double sent = cost.sent_bytes[TRAFFIC_DISPATCH] + cost.sent_bytes[TRAFFIC_COMBINE];
    half->token_bytes = sent / away / passes / tokens;
    if (half->padded) half->token_bytes /= half->most_share * (double)experts; // as if exact
}

static void read_halves(StepGraph *graph, const Model *model) {
    int64_t layers = model->config.layers;
    graph->half_count = HALVES * layers;
    graph->halves = calloc((size_t)graph->half_count, sizeof *graph->halves);
    graph->sums = calloc((size_t)layers + 2, sizeof *graph->sums);
    CHECK_MEMORY(graph->halves && graph->sums, "no memory for the graph of %lld layers",
                 (long long)layers);
    double flops = model_cost(model).flops_per_token;
    for (int64_t layer = 0; layer < layers; layer++) {
        const Block *block = &model->blocks[layer];
        GraphHalf *halves = &graph->halves[HALVES * layer];
        read_half(&halves[MIXER_HALF], model, &block->mixer, layer);
        read_half(&halves[FEED_FORWARD_HALF], model, &block->feed_forward, layer);
        for (int i = 0; i < HALVES; i++) flops -= halves[i].flops + halves[i].expert_flops;
    }
    graph->head_flops = fmax(flops, 0);
}

// What follows the layers, with all further uses of a parameter, is ready with the output.
static void read_sums(StepGraph *graph, const Model *model) {
    const Gradients *gradients = &model->gradients;
    GraphSum *output = &graph->sums[model->config.layers + 1];
    for (int i = 0; i < gradients->count; i++) {
        GraphSum *sum = i <= model->config.layers ? &graph->sums[i] : output;
        sum->dense += (double)gradients->buckets[i].elements[RUN_DENSE];
        sum->expert += (double)gradients->buckets[i].elements[RUN_EXPERT];
    }
    for (int i = 0; i < gradients->share_count && graph->fixed_tree; i++)
        output->dense += (double)param_elements(&model->params.rows[gradients->shared[i]]);
}

static void read_bytes(StepGraph *graph, const Model *model, const Optimizer *optimizer) {
    const Work *work = &model->work;
    double elements =
        (double)(model->params.elements[RUN_DENSE] + model->params.elements[RUN_EXPERT]);
    graph->token_kept_bytes = (double)model->activation_arena.peak_bytes / (double)work->shape.N;
    graph->matrix_bytes = elements * (double)dtype_bytes(work->storage);
    graph->gradient_bytes = elements * sizeof(float);
    // States and values change; the norm and the update read the gradients.
    graph->update_bytes = 2 * (double)optimizer->arena.peak_bytes + 4 * graph->gradient_bytes;
    if (work->storage != F32) graph->update_bytes += graph->matrix_bytes;
}

bool step_graph_make(StepGraph *graph, const TrainConfig *config, int64_t ranks, Error *err) {
    Model model;
    Optimizer optimizer;
    ModelSplit split = session_split(config, ranks, 0, true);
    split.even_routing = true;
    model_measure(&model, &config->model, split, NULL);
    bool ok =
        model_check(&model, err) && update_groups_check(&model.params, &config->optimizer, err);
    if (ok) {
        const RankShape *shape = &model.work.shape;
        LayerCost cost = model_cost(&model);
        *graph = (StepGraph){
            .ranks = ranks,
            .expert_parallel = config->expert_parallel,
            .micro_batches = shape->micro_batches,
            .deal = shape->deal,
            .shard_tokens = (double)shape->N / (double)shape->shards,
            .chunks = shape->chunks,
            .fixed_tree = shape->reduce_order == REDUCE_FIXED_TREE,
            .flops = 3 * cost.flops_per_token * (double)(config->batch * config->context),
            .statistics = (double)shape->micro_batches * (double)model.stats.width,
        };
        read_halves(graph, &model);
        read_sums(graph, &model);
        optimizer_measure(&optimizer, &model, &config->optimizer);
        read_bytes(graph, &model, &optimizer);
        optimizer_free(&optimizer);
    }
    model_free(&model);
    return ok;
}

void step_graph_free(StepGraph *graph) {
    for (int64_t i = 0; i < graph->half_count; i++) free(graph->halves[i].load);
    free(graph->halves);
    free(graph->sums);
    *graph = (StepGraph){0};
}

// ---- loads --------------------------------------------------------------------------------------

static double *new_load(GraphHalf *half) {
    if (!half->load) half->load = calloc((size_t)half->experts, sizeof *half->load);
    CHECK_MEMORY(half->load, "no memory for the loads of %lld experts", (long long)half->experts);
    return half->load;
}

static double chosen(const double *weights, int64_t experts, double c) {
    double sum = 0;
    for (int64_t e = 0; e < experts; e++) sum += -expm1(-c * weights[e]);
    return sum;
}

// `load` from weights by which a token draws so many experts one after the other, none twice, to
// their shares of all choices: expert e is among them with a probability of nearly 1 - exp(-c·w),
// where c makes the sum as many (Rosén 1972).
static void shares_of_draw(double *load, int64_t experts, int64_t drawn) {
    double low = 0, high = 1, sum = 0;
    const int doublings = 200, halvings = 100;
    for (int i = 0; i < doublings && chosen(load, experts, high) < (double)drawn; i++) high *= 2;
    for (int i = 0; i < halvings; i++) {
        double c = (low + high) / 2;
        if (chosen(load, experts, c) < (double)drawn)
            low = c;
        else
            high = c;
    }
    for (int64_t e = 0; e < experts; e++) sum += load[e] = -expm1(-high * load[e]);
    for (int64_t e = 0; e < experts; e++) load[e] /= sum;
}

void step_graph_skew(StepGraph *graph, const TrainConfig *config) {
    for (int64_t i = 0; i < graph->half_count; i++) {
        GraphHalf *half = &graph->halves[i];
        if (!half->routed) continue;
        MoeShape shape = moe_shape(&config->model, half->layer);
        int32_t *ends = calloc((size_t)shape.scored, sizeof *ends);
        CHECK_MEMORY(ends, "no memory for %lld experts", (long long)shape.scored);
        forced_skew(ends, shape.scored, config->model.moe.force_sigma, (uint64_t)config->seed,
                    half->layer);
        double *load = new_load(half);
        for (int64_t e = 0; e < half->experts; e++)
            load[e] =
                (double)(ends[e] - (e > 0 ? ends[e - 1] : 0)) / (double)ends[half->experts - 1];
        shares_of_draw(load, half->experts, shape.top_k);
        free(ends);
    }
}

// The layer's place in a series of counts; -1: it has none of that many experts.
static int64_t place_of(const UtilizationSeries *series, const GraphHalf *half) {
    for (int64_t i = 0; series && series->kind == STATISTICS_COUNTS && i < series->layers; i++)
        if (series->of[i].number == half->layer && series->of[i].values == half->experts) return i;
    return -1;
}

// Of the newest row, or of the open one where none is closed.
static double count_of(const UtilizationHistory *history, const UtilizationSeries *series,
                       int64_t place, int64_t expert) {
    if (history->rows > 0)
        return (double)utilization_counts(series, history->rows - 1, place)[expert];
    return (double)((const int64_t *)series->open)[place * series->width + expert];
}

bool step_graph_recorded(StepGraph *graph, const UtilizationHistory *history, Error *err) {
    const UtilizationSeries *routed = utilization_find(history, "routed");
    const UtilizationSeries *dropped = utilization_find(history, "dropped");
    bool any = history->rows > 0 || history->open_steps > 0;
    for (int64_t i = 0; i < graph->half_count; i++) {
        GraphHalf *half = &graph->halves[i];
        if (!half->routed) continue;
        int64_t kept = place_of(routed, half), left = place_of(dropped, half);
        if (kept < 0 || !any)
            return error_set(err, EXIT_CHECKPOINT,
                             "its history has no loads of %lld experts in layer %lld; give a "
                             "checkpoint of this model",
                             (long long)half->experts, (long long)half->layer);
        double *load = new_load(half), sum = 0;
        for (int64_t e = 0; e < half->experts; e++) {
            load[e] = count_of(history, routed, kept, e);
            if (left >= 0) load[e] += count_of(history, dropped, left, e);
            sum += load[e];
        }
        for (int64_t e = 0; e < half->experts && sum > 0; e++) load[e] /= sum;
        if (sum > 0) continue;
        free(half->load);
        half->load = NULL;
    }
    return true;
}
