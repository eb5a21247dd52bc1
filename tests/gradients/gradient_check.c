#include "gradient_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "model/moa.h"
#include "model/moe_layer.h"
#include "model/peer.h"
#include "model/router_balance.h"
#include "model/switchhead.h"
#include "worker/data/tokens_ahead.h"

enum { SEQUENCES = 4, T = 6, DIRECTIONS = 2, TRIES = 40, LEVELS = 8, SEEDS = 40 };

// The first step: a share of the tensor's own norm, along a direction of norm 1. It is halved, and
// Richardson's extrapolation takes away the errors h², h⁴, …, until the derivative settles
// (Ridders 1982). With ReLU the loss has kinks, whose error falls only with h, so the step is
// smaller there.
static const double STEP = 0.005, STEP_RELU = 0.0002;
// Errors allowed, as a share of the tensor's gradient norm: five times the largest seen over all
// cases (each line prints its own). A forgotten term, a wrong factor or a wrong index are of the
// order of 1.
static const double TOLERANCE = 1e-3, TOLERANCE_RELU = 5e-3;
// What rounding of the f32 forward pass can pretend on top, also where the gradient is zero: 4 ulp
// of L over h.
static const double ROUNDING = 4 * 1.2e-7;

typedef struct Check {
    const GradientCase *the_case;
    Model model;
    Device dev;
    int32_t *tokens, *targets; // (micro_batches, N)
    // of multi-token prediction: (micro_batches, modules, N)
    int32_t *ahead_tokens, *ahead_targets;
    int32_t *positions; // likewise; zeros without documents
    int64_t counted;    // targets; 0: all
    uint8_t *choices;   // ids and kept of every MoE layer and micro-batch of the latest evaluation
    size_t choices_bytes;
    double margin; // of the latest evaluation: how close the closest choice was
} Check;

ModelConfig tiny_model(void) {
    return (ModelConfig){.vocab_size = 13,
                         .d_model = 10,
                         .layers = 2,
                         .d_ff = 9,
                         .tied_embeddings = true,
                         .activation = SWIGLU,
                         .norm_eps = 1e-5,
                         .init_std = 0.4, // large enough that every part bends the loss
                         .attention = {{4, 2, 4, 4}, 100},
                         .moe = {.experts = {1, {4}},
                                 .top_k = {1, {2}},
                                 .d_ff = {1, {7}},
                                 .every = 1,
                                 .first = true,
                                 .router = {.kind = SOFTMAX_TOPK},
                                 .capacity_factor = {0, 1},
                                 .min_capacity = 1,
                                 .balance = {1, {{.factor = 0.02}}},
                                 .z_loss = 0.01,
                                 .max_expert_replicas = 1},
                         .peer = {.keys = 4, .heads = 2, .top_k = 3, .d_key = 5}};
}

static void *zeroed(size_t bytes) {
    void *memory = calloc(1, bytes + 1);
    CHECK(memory, "no memory");
    return memory;
}

static const Block *block_of(const Model *model, int64_t layer) {
    int64_t module = layer - model->config.layers;
    return module < 0 ? &model->blocks[layer] : &model->mtp.modules[module].block;
}

// The routers of the halves of blocks, two of each block, or NULL.
static int64_t halves(const Model *model) {
    return 2 * model_blocks(&model->config);
}
static const Router *router_of(const Model *model, int64_t half) {
    const Layer *mixer = &block_of(model, half / 2)->mixer;
    const Layer *feed_forward = &block_of(model, half / 2)->feed_forward;
    if (half % 2 == 0 && mixer->kind == &MOA) return &((const MoaLayer *)mixer->state)->router;
    if (half % 2 == 1 && feed_forward->kind == &MOE_FEED_FORWARD)
        return &((const MoeLayer *)feed_forward->state)->router;
    return NULL;
}

// The experts that each query of a PEER layer has found, or each head of SwitchHead's values or
// outputs, (N·H, top_k) i32; no data: of none. Three of each block.
enum { FINDERS = 3 };
static Tensor found_by(const Model *model, int64_t finder) {
    const Layer *feed_forward = &block_of(model, finder / FINDERS)->feed_forward;
    const Layer *mixer = &block_of(model, finder / FINDERS)->mixer;
    if (finder % FINDERS > 0) {
        if (mixer->kind != &SWITCHHEAD) return (Tensor){0};
        const SwitchHeadLayer *of = mixer->state;
        return finder % FINDERS == 1 ? of->values.gate.chosen : of->outputs.gate.chosen;
    }
    if (feed_forward->kind != &PEER_FEED_FORWARD) return (Tensor){0};
    const PeerLayer *peer = feed_forward->state;
    int64_t queries = tensor_elements(peer->ids) / peer->top_k;
    return tensor_reshape_2d(peer->ids, queries, peer->top_k);
}

static void open_check(Check *check, const GradientCase *the_case) {
    *check = (Check){.the_case = the_case};
    Error err = {0};
    CHECK(device_open(&check->dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = the_case->shards,
                        .sequences = SEQUENCES,
                        .context = T,
                        .micro_batches = the_case->micro_batches,
                        .fixed_tree = true,
                        .training = true};
    model_measure(&check->model, &the_case->model, split, &check->dev);
    model_allocate(&check->model, process_groups_open(1, &check->dev), 0);
    int64_t count = the_case->micro_batches * check->model.work.shape.N;
    check->tokens = zeroed((size_t)count * sizeof *check->tokens);
    check->targets = zeroed((size_t)count * sizeof *check->targets);
    check->positions = zeroed((size_t)count * sizeof *check->positions);
    for (int64_t n = 0; n < count; n++) {
        uint32_t words[4];
        rng_words((RngStream){3, RNG_TEST, 0, 0}, (uint64_t)n, words);
        check->tokens[n] = (int32_t)(words[0] % (uint32_t)the_case->model.vocab_size);
        check->targets[n] = (int32_t)(words[1] % (uint32_t)the_case->model.vocab_size);
        if (n % T > 0 && words[2] % 3 > 0) { // the document of the row before goes on
            check->positions[n] = check->positions[n - 1] + 1;
        } else if (the_case->documents && n % T > 0) {
            check->targets[n - 1] = NO_TARGET;
        }
    }
    int64_t modules = the_case->model.mtp.layers;
    check->ahead_tokens = zeroed((size_t)(count * modules) * sizeof *check->tokens);
    check->ahead_targets = zeroed((size_t)(count * modules) * sizeof *check->tokens);
    for (int64_t n = 0; n < count; n += SEQUENCES * T)
        tokens_ahead(modules, SEQUENCES, T, check->targets + n,
                     the_case->documents ? check->positions + n : NULL,
                     check->ahead_tokens + n * modules, check->ahead_targets + n * modules);
    for (int64_t n = 0; n < count; n++) check->counted += check->targets[n] != NO_TARGET;
    for (int64_t half = 0; half < halves(&check->model); half++) {
        const Router *router = router_of(&check->model, half);
        if (router)
            check->choices_bytes += (size_t)(count * router->shape.slots) * (sizeof(int32_t) + 1);
    }
    for (int64_t i = 0; i < FINDERS * model_blocks(&the_case->model); i++) {
        Tensor found = found_by(&check->model, i);
        if (found.data)
            check->choices_bytes += (size_t)the_case->micro_batches * tensor_bytes(found);
    }
    check->choices = zeroed(check->choices_bytes);
}

static void close_check(Check *check) {
    process_groups_close(&check->model.work.groups);
    model_free(&check->model);
    free(check->tokens);
    free(check->targets);
    free(check->ahead_tokens);
    free(check->ahead_targets);
    free(check->positions);
    free(check->choices);
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

// In the order of their numbers: which of two that are found comes first changes nothing.
static uint8_t *note_found(Tensor found, uint8_t *at) {
    size_t row_bytes = (size_t)found.shape[1] * sizeof(int32_t);
    for (int64_t r = 0; r < found.shape[0]; r++, at += row_bytes) {
        memcpy(at, tensor_i32(found) + r * found.shape[1], row_bytes);
        qsort(at, (size_t)found.shape[1], sizeof(int32_t), ascending);
    }
    return at;
}

static uint8_t *note_choices(Check *check, uint8_t *at) {
    for (int64_t i = 0; i < FINDERS * model_blocks(&check->model.config); i++) {
        Tensor found = found_by(&check->model, i);
        if (found.data) at = note_found(found, at);
    }
    for (int64_t half = 0; half < halves(&check->model); half++) {
        const Router *router = router_of(&check->model, half);
        if (!router) continue;
        memcpy(at, router->ids.data, tensor_bytes(router->ids));
        at += tensor_bytes(router->ids);
        memcpy(at, router->kept.data, tensor_bytes(router->kept));
        at += tensor_bytes(router->kept);
    }
    return at;
}

static void set_weights(Model *model, uint64_t seed) {
    param_init(&model->params, model->work.dev, model->values, seed);
    // Norm weights begin at one and biases at zero, where what is missing would not show.
    for (int i = 0; i < model->params.count; i++) {
        Tensor w = param_tensor(&model->params, model->values, i);
        if (model->params.rows[i].init == INIT_NORMAL) continue;
        RngStream stream = rng_named(seed, RNG_TEST, model->params.rows[i].name);
        for (int64_t k = 0; k < tensor_elements(w); k++)
            tensor_f32(w)[k] += 0.3f * (float)rng_normal(stream, (uint64_t)k);
    }
}

// The smallest distance between the logits of a chosen expert and the next lower one, over all
// tokens.
static double choice_margin(const Router *router) {
    int64_t choices = tensor_elements(router->ids);
    int64_t E = router->shape.scored, K = router->shape.slots;
    double margin = INFINITY;
    for (int64_t i = 0; i < choices; i++) {
        const float *logits = tensor_f32(router->logits) + i / K * E;
        double mine = (double)logits[tensor_i32(router->ids)[i]];
        for (int64_t e = 0; e < E; e++)
            if ((double)logits[e] < mine) margin = fmin(margin, mine - (double)logits[e]);
    }
    return margin;
}

// Where drops go by weight: the smallest distance between a choice that was kept and one that was
// dropped for the same expert. Weights move at most a quarter as far as logits do.
static double drop_margin(const Router *router, int64_t groups) {
    int64_t choices = tensor_elements(router->ids);
    double margin = INFINITY;
    const int32_t *ids = tensor_i32(router->ids);
    const uint8_t *kept = tensor_u8(router->kept);
    const float *weights = tensor_f32(router->weights);
    int64_t in_group = choices / groups;
    for (int64_t i = 0; i < choices; i++)
        for (int64_t j = i / in_group * in_group; j < (i / in_group + 1) * in_group; j++)
            if (!kept[i] && kept[j] && ids[i] == ids[j])
                margin = fmin(margin, 4 * fabs((double)weights[j] - (double)weights[i]));
    return margin;
}

// The smaller of the two margins over all layers with experts, for the latest micro-batch.
static double router_margin(const Check *check) {
    const Model *model = &check->model;
    double margin = INFINITY;
    for (int64_t half = 0; half < halves(model); half++) {
        const Router *router = router_of(model, half);
        if (!router) continue;
        if (!router->rule.given) margin = fmin(margin, choice_margin(router));
        if (model->config.moe.drop == DROP_PROBABILITY)
            margin = fmin(margin, drop_margin(router, routing_groups(&model->work)));
    }
    return margin;
}

// Of all terms, and the z-loss.
static double router_losses(const Check *check, const Router *router) {
    const MoeConfig *moe = &check->the_case->model.moe;
    const Statistics *stats = &check->model.stats;
    double loss =
        moe->z_loss * statistics_value(stats, ROUTER_NAMES[router->place].z, router->layer);
    for (int64_t i = 0; i < moe->balance.count; i++)
        loss += moe->balance.maps[i].factor *
                statistics_value(stats, router_balance_column(router->place, &moe->balance, i),
                                 router->layer);
    return loss;
}

// Of the terms of heads' experts.
static double head_losses(const Check *check) {
    const BalanceTerms *terms = &check->the_case->model.moe.balance;
    const Statistics *stats = &check->model.stats;
    double loss = 0;
    for (int64_t layer = 0; layer < model_blocks(&check->model.config); layer++)
        for (int place = ROUTER_OF_VALUES; place <= ROUTER_OF_OUTPUTS; place++)
            for (int64_t i = 0; i < terms->count; i++) {
                const char *name = head_balance_column((RouterPlace)place, terms->maps[i]);
                if (name && statistics_find(stats, name, layer))
                    loss += terms->maps[i].factor * statistics_value(stats, name, layer);
            }
    return loss;
}

// One step's loss; gradients in model->gradients.sum, choices noted.
static double evaluate(Check *check) {
    Model *model = &check->model;
    int64_t N = model->work.shape.N;
    uint8_t *at = check->choices;
    check->margin = INFINITY;
    for (int64_t m = 0; m < check->the_case->micro_batches; m++) {
        if (check->the_case->documents)
            model_set_documents(model, tensor_1d(check->positions + m * N, I32, N), check->counted);
        int64_t modules = model->config.mtp.layers, ahead = m * modules * N;
        model_set_ahead(model, tensor_1d(check->ahead_tokens + ahead, I32, modules * N),
                        tensor_1d(check->ahead_targets + ahead, I32, modules * N));
        model_train_micro_batch(model, tensor_1d(check->tokens + m * N, I32, N),
                                tensor_1d(check->targets + m * N, I32, N), m, 0);
        at = note_choices(check, at);
        check->margin = fmin(check->margin, router_margin(check));
    }
    statistics_reduce(&model->stats, &model->work);
    double loss = check->the_case->router_terms_only ? 0 : statistics_loss(&model->stats);
    for (int64_t k = 0; k < model->config.mtp.layers; k++)
        loss += model->config.mtp.loss_factor / (double)model->config.mtp.layers *
                statistics_value(&model->stats, "mtp_nats", model->config.layers + k) /
                (double)step_targets(&model->work);
    for (int64_t half = 0; half < halves(model); half++)
        if (router_of(model, half)) loss += router_losses(check, router_of(model, half));
    return loss + head_losses(check);
}

// Weights under which no choice is a close one, so that few of them flip.
static void find_decided_weights(Check *check) {
    double widest = -1;
    uint64_t best = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        set_weights(&check->model, seed);
        evaluate(check);
        if (check->margin > widest) best = seed;
        widest = fmax(widest, check->margin);
    }
    set_weights(&check->model, best);
}

// The analytic gradient of every parameter, in double, in the order of the two runs.
static double *analytic_gradient(Check *check) {
    Model *model = &check->model;
    int64_t dense = model->params.elements[RUN_DENSE],
            all = dense + model->params.elements[RUN_EXPERT];
    double *gradient = zeroed((size_t)all * sizeof *gradient);
    MoeConfig *moe = &model->config.moe;
    MoeConfig kept = *moe;
    for (int without = 0; without <= (int)check->the_case->router_terms_only; without++) {
        if (without) moe->balance.count = 0, moe->z_loss = 0;
        evaluate(check);
        for (int64_t i = 0; i < all; i++) {
            float g = i < dense ? tensor_f32(model->gradients.sum.run[RUN_DENSE])[i]
                                : tensor_f32(model->gradients.sum.run[RUN_EXPERT])[i - dense];
            gradient[i] += without ? -(double)g : (double)g;
        }
    }
    *moe = kept;
    return gradient;
}

// A direction of norm 1: partly along the gradient with every element weighted anew, so that the
// derivative is large, partly anywhere, so that elements whose gradient is wrongly zero are seen.
static void choose_direction(double *v, const double *g, int64_t n, double g_norm,
                             RngStream stream) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        v[i] = 0.5 * rng_normal(stream, (uint64_t)i) / sqrt((double)n);
        if (g_norm > 0) v[i] += 2 * (double)rng_uniform(stream, (uint64_t)(n + i)) * g[i] / g_norm;
        sum += v[i] * v[i];
    }
    for (int64_t i = 0; i < n; i++) v[i] /= sqrt(sum);
}

// L(w + h v) - L(w - h v) over 2h. False when a choice flips. The steps really taken are f32, so
// v·h is replaced by what was added.
static bool central_difference(Check *check, Tensor w, const float *w0, const double *v, double h,
                               const uint8_t *choices, double *slope) {
    int64_t n = tensor_elements(w);
    double loss[2];
    bool same = true;
    for (int side = 0; side < 2 && same; side++) {
        for (int64_t i = 0; i < n; i++)
            tensor_f32(w)[i] = (float)((double)w0[i] + (side ? -h : h) * v[i]);
        loss[side] = evaluate(check);
        same = memcmp(choices, check->choices, check->choices_bytes) == 0;
    }
    memcpy(tensor_f32(w), w0, tensor_bytes(w));
    if (same) *slope = (loss[0] - loss[1]) / (2 * h);
    return same;
}

typedef struct Derivative {
    double slope;
    double noise; // what rounding can pretend in it
} Derivative;

// The derivative of L along v at w0, from steps h, h/2, … None where a choice flips at all of them;
// steps at which one flips are left out. Stops when extrapolations differ by less than `enough`.
static bool derivative(Check *check, Tensor w, const float *w0, const double *v, double h,
                       const uint8_t *choices, double loss, double enough, Derivative *result) {
    double row[LEVELS], error = INFINITY;
    for (int level = 0, known = 0; level < LEVELS && error > enough; level++, h /= 2) {
        double slope, noise = fabs(loss) * ROUNDING / h;
        if (!central_difference(check, w, w0, v, h, choices, &slope)) {
            known = 0;
            continue;
        }
        // `row` holds the extrapolations up to the step before, and becomes those up to this one.
        double power = 4, best = slope, differs = INFINITY;
        for (int k = 0; k < known; k++, power *= 4) {
            double better = slope + (slope - row[k]) / (power - 1);
            double change = fmax(fabs(better - slope), fabs(better - row[k]));
            if (change < differs) best = better, differs = change;
            row[k] = slope;
            slope = better;
        }
        row[known++] = slope;
        if (differs + noise < error) {
            *result = (Derivative){best, noise};
            error = differs + noise;
        }
    }
    return error < INFINITY;
}

typedef struct Worst {
    double share; // of the allowed error
    double error; // relative to the tensor's gradient norm
    int failures, flips;
} Worst;

static void check_tensor(Check *check, int param, const double *gradient, const uint8_t *choices,
                         double loss, Worst *worst) {
    Model *model = &check->model;
    const Param *row = &model->params.rows[param];
    Tensor w = param_tensor(&model->params, model->values, param);
    int64_t n = tensor_elements(w);
    const double *g =
        gradient + row->offset + (row->run == RUN_EXPERT ? model->params.elements[RUN_DENSE] : 0);
    double g_norm = 0, w_norm = 0;
    for (int64_t i = 0; i < n; i++) {
        g_norm += g[i] * g[i];
        w_norm += (double)tensor_f32(w)[i] * (double)tensor_f32(w)[i];
    }
    g_norm = sqrt(g_norm);
    w_norm = sqrt(w_norm);
    float *w0 = zeroed(tensor_bytes(w));
    double *v = zeroed((size_t)n * sizeof *v);
    memcpy(w0, w.data, tensor_bytes(w));
    bool relu = check->the_case->model.activation == RELU;
    int done = 0;
    for (int attempt = 0; attempt < TRIES && done < DIRECTIONS; attempt++) {
        choose_direction(v, g, n, g_norm, rng_named(4 + (uint64_t)attempt, RNG_TEST, row->name));
        double tolerance = g_norm * (relu ? TOLERANCE_RELU : TOLERANCE), expected = 0;
        double h = w_norm * (relu ? STEP_RELU : STEP);
        Derivative found;
        if (!derivative(check, w, w0, v, h, choices, loss, tolerance / 10, &found)) {
            worst->flips++;
            continue;
        }
        done++;
        for (int64_t i = 0; i < n; i++) expected += g[i] * v[i];
        double allowed = tolerance + found.noise;
        double error = fabs(found.slope - expected);
        if (g_norm > 0 && error / g_norm > worst->error) worst->error = error / g_norm;
        if (error / allowed > worst->share) worst->share = error / allowed;
        if (error <= allowed) continue;
        worst->failures++;
        printf("  %s: derivative %.9g, gradient · v %.9g, gradient norm %.3g, noise %.2g\n",
               row->name, found.slope, expected, g_norm, found.noise);
    }
    if (done < DIRECTIONS) {
        worst->failures++;
        printf("  %s: choices flip in all but %d of %d directions\n", row->name, done, TRIES);
    }
    free(w0);
    free(v);
}

static bool run_case(const GradientCase *the_case) {
    Check check;
    open_check(&check, the_case);
    find_decided_weights(&check);
    double *gradient = analytic_gradient(&check);
    double loss = evaluate(&check);
    uint8_t *choices = zeroed(check.choices_bytes);
    memcpy(choices, check.choices, check.choices_bytes);
    Worst worst = {0};
    int64_t dropped = 0;
    for (int i = 0; i < check.model.stats.column_count; i++) {
        const StatisticsColumn *column = &check.model.stats.columns[i];
        for (int64_t e = 0; strcmp(column->name, "dropped") == 0 && e < column->count; e++)
            dropped += statistics_counts_of(&check.model.stats, column)[e];
    }
    bool bounded = the_case->model.moe.capacity_factor.numerator > 0 &&
                   the_case->model.moe.router.kind != EXPERT_CHOICE;
    if ((dropped > 0) != bounded) {
        worst.failures++;
        printf("  %lld choices dropped\n", (long long)dropped);
    }
    for (int i = 0; i < check.model.params.count; i++)
        if (check.model.params.rows[i].run < GRADIENT_RUNS)
            check_tensor(&check, i, gradient, choices, loss, &worst);
    printf("%s  %s (%d tensors, largest error %.1e of the gradient, %.2f of the allowed; %d "
           "directions thrown away)\n",
           worst.failures ? "FAILED" : "ok    ", the_case->sentence, check.model.params.count,
           worst.error, worst.share, worst.flips);
    free(choices);
    free(gradient);
    close_check(&check);
    return worst.failures == 0;
}

int gradient_cases_run(int argc, char **argv, const GradientCase *cases, int count) {
    comm_init(&argc, &argv);
    int failed = 0, run = 0, every = 0;
    if (argc > 1) sscanf(argv[1], "every=%d", &every);
    for (int i = 0; i < count; i++) {
        if (every > 0 ? i % every != 0 : argc > 1 && !strstr(cases[i].sentence, argv[1])) continue;
        run++;
        if (!run_case(&cases[i])) failed++;
    }
    printf("%d cases, %d failed\n", run, failed);
    comm_finalize();
    return failed > 0 || run == 0;
}
