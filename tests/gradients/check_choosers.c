// Who chooses a layer's experts, and when: routers' random numbers, experts drawn by token id or by
// force, and experts that choose, in a whole model of one rank. Every bit is a matter of the words
// of each rule; the scores of a layer are the model's own.
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "gradient_check.h"
#include "model/moe_layer.h"

enum { SEQUENCES = 4, T = 6, N = SEQUENCES * T, SHARDS = 2, E = 5, K = 2, LAYERS = 2 };

static int wrong;

static void expect(bool ok, const char *what) {
    if (ok) return;
    wrong++;
    printf("FAILED %s\n", what);
}

static Device dev;

// N·K is no multiple of E, so that a turn that began anew would be seen.
static ModelConfig model_of_five(void) {
    ModelConfig config = tiny_model();
    config.moe.experts.values[0] = E;
    return config;
}

// A pass over the same tokens.
typedef struct Pass {
    bool training;
    uint64_t seed;
    uint32_t step;
    int64_t micro_batch; // of two, of a step of training
    int64_t counted;     // of an evaluation: tokens whose choices it counts
} Pass;

// What the routers have made of it.
typedef struct Routed {
    float logits[LAYERS][N * E], weights[LAYERS][N * E], router[E * 10];
    int32_t ids[LAYERS][N * E]; // (N, slots)
    uint8_t kept[LAYERS][N * E];
    int32_t ends[E];               // of layer 0, of a skewed draw
    int64_t counts[E], dropped[E]; // of layer 0, routed and dropped
    int32_t tokens[N];
} Routed;

static void keep(Routed *to, const Model *model, int64_t layer) {
    const Router *router = &((const MoeLayer *)model->blocks[layer].feed_forward.state)->router;
    memcpy(to->logits[layer], router->logits.data, tensor_bytes(router->logits));
    memcpy(to->weights[layer], router->weights.data, tensor_bytes(router->weights));
    memcpy(to->ids[layer], router->ids.data, tensor_bytes(router->ids));
    memcpy(to->kept[layer], router->kept.data, tensor_bytes(router->kept));
    if (layer == 0 && router->forced.ends.data)
        memcpy(to->ends, router->forced.ends.data, sizeof to->ends);
    if (layer == 0 && router->weight >= 0)
        memcpy(to->router, work_value(&model->work, router->weight).data, sizeof to->router);
}

static Routed *pass_of(ModelConfig config, Pass pass) {
    Model model = {0};
    ModelSplit split = {.ranks = 1,
                        .expert_parallel = 1,
                        .shards = SHARDS,
                        .sequences = SEQUENCES,
                        .context = T,
                        .micro_batches = pass.training ? 2 : 1,
                        .training = pass.training};
    model_measure(&model, &config, split, &dev);
    model_allocate(&model, process_groups_open(1, &dev), pass.seed);
    param_init(&model.params, &dev, model.values, 3); // the same weights, whatever the seed
    static Routed all[64];
    static int count;
    CHECK(count < 64, "more than 64 passes");
    Routed *routed = &all[count++];
    for (int64_t n = 0; n < N; n++) routed->tokens[n] = (int32_t)(n * n % 7);
    Tensor tokens = tensor_1d(routed->tokens, I32, N);
    for (int64_t m = 0; m <= pass.micro_batch && pass.training; m++)
        model_train_micro_batch(&model, tokens, tokens, m, pass.step);
    if (pass.training) {
        statistics_reduce(&model.stats, &model.work);
    } else {
        model.work.step.counted_tokens = pass.counted;
        statistics_clear(&model.stats, &dev);
        model_token_losses(&model, tokens, tokens, 0);
        statistics_reduce_counts(&model.stats, &model.work);
    }
    memcpy(routed->counts, statistics_count_values(&model.stats, "routed", 0),
           sizeof routed->counts);
    memcpy(routed->dropped, statistics_count_values(&model.stats, "dropped", 0),
           sizeof routed->dropped);
    for (int64_t layer = 0; layer < LAYERS; layer++) keep(routed, &model, layer);
    process_groups_close(&model.work.groups);
    model_free(&model);
    return routed;
}

static const Pass TRAINING = {.training = true, .seed = 5}, EVALUATION = {.seed = 5};

static bool same_ids(const Routed *a, const Routed *b, int64_t layer) {
    return memcmp(a->ids[layer], b->ids[layer], N * K * sizeof **a->ids) == 0;
}
static bool same_logits(const Routed *a, const Routed *b) {
    return memcmp(a->logits[0], b->logits[0], sizeof a->logits[0]) == 0;
}

// Whether the ids are those of the largest keys, best first; tokens whose order hangs on less than
// f32 can tell are passed over, of which there are few.
static bool are_largest(const Routed *of, int64_t layer, const double *bias) {
    int64_t undecided = 0;
    for (int64_t n = 0; n < N; n++) {
        double keys[E], last = INFINITY;
        for (int64_t e = 0; e < E; e++)
            keys[e] =
                (double)of->logits[layer][n * E + e] + (bias ? bias[n / (N / SHARDS) * E + e] : 0);
        for (int64_t k = 0; k < K; k++) {
            int32_t id = of->ids[layer][n * K + k];
            bool best = keys[id] <= last;
            for (int64_t e = 0; e < E; e++)
                best = best && !(keys[e] > keys[id] + 1e-5 && keys[e] < last);
            undecided += !best && fabs(keys[id] - last) < 1e-5;
            if (!best && fabs(keys[id] - last) >= 1e-5) return false;
            last = keys[id];
        }
    }
    return undecided < N / 4;
}

// ---- by token id --------------------------------------------------------------------------------

static bool by_token(const Routed *of, int64_t layer) {
    for (int64_t n = 0; n < N; n++)
        for (int64_t m = 0; m < n; m++)
            if (of->tokens[n] == of->tokens[m] &&
                memcmp(of->ids[layer] + n * K, of->ids[layer] + m * K, K * sizeof **of->ids) != 0)
                return false;
    return true;
}

static void check_hash(void) {
    ModelConfig config = model_of_five();
    config.moe.router.kind = HASH;
    Routed *train = pass_of(config, TRAINING), *evaluated = pass_of(config, EVALUATION);
    Routed *other =
        pass_of(config, (Pass){.training = true, .seed = 6, .step = 9, .micro_batch = 1});
    expect(by_token(train, 0) && by_token(train, 1), "hash: equal tokens have equal experts");
    expect(!same_ids(train, pass_of(model_of_five(), TRAINING), 0),
           "hash: the scores do not choose");
    expect(memcmp(train->ids[0], train->ids[1], sizeof train->ids[0]) != 0,
           "hash: another layer draws other experts");
    expect(same_ids(train, other, 0) && same_ids(train, other, 1),
           "hash: seed, step and micro-batch change nothing");
    expect(same_ids(train, evaluated, 0) && same_ids(train, evaluated, 1),
           "hash: an evaluation routes as training does");
    for (int64_t i = 0; i < N * K; i++)
        if (train->weights[0][i] != 1.0f / K) expect(false, "hash: each expert weighs 1/K");

    ModelConfig first = model_of_five();
    first.moe.hash_layers = 1;
    Routed *mixed = pass_of(first, TRAINING);
    expect(same_ids(mixed, train, 0), "hash_layers: the first layer is by token id");
    expect(are_largest(mixed, 1, NULL), "hash_layers: the second layer is by scores");
    first.moe.force = FORCE_BALANCED;
    expect(!same_ids(pass_of(first, TRAINING), train, 0), "hash_layers: force comes first");
    expect(same_ids(pass_of(first, EVALUATION), train, 0), "hash_layers: no evaluation is forced");
}

// ---- by force -----------------------------------------------------------------------------------

static Routed *forced(ForceKind force, double sigma, Pass pass) {
    ModelConfig config = model_of_five();
    config.moe.force = force;
    config.moe.force_sigma = sigma;
    config.moe.hot_experts = force == FORCE_HOT_RANK ? 3 : 0;
    return pass_of(config, pass);
}

static double log_weight(const Routed *of, int64_t e) {
    return log((double)(of->ends[e] - (e > 0 ? of->ends[e - 1] : 0)));
}

static void check_force(void) {
    Routed *free = pass_of(model_of_five(), EVALUATION);
    for (int kind = FORCE_BALANCED; kind < FORCE_CHOICES.count; kind++) {
        Routed *train = forced((ForceKind)kind, 1, TRAINING);
        expect(same_ids(free, forced((ForceKind)kind, 1, EVALUATION), 0),
               "force: an evaluation is not forced");
        expect(!are_largest(train, 0, NULL), "force: the scores do not choose");
        for (int64_t i = 0; i < N * K; i++)
            if (train->ids[0][i] == train->ids[0][i / K * K + (i + 1) % K])
                expect(false, "force: a token has different experts");
        Pass later = TRAINING;
        later.step = 1;
        if (kind != FORCE_BALANCED)
            expect(!same_ids(train, forced((ForceKind)kind, 1, later), 0),
                   "force: each step draws anew");
    }
    Pass second = TRAINING;
    second.micro_batch = 1;
    Routed *balanced = forced(FORCE_BALANCED, 1, second);
    for (int64_t i = 0; i < N * K; i++)
        if (balanced->ids[0][i] != (N * K + i) % E)
            expect(false, "balanced: experts come in turn through all micro-batches");
    Routed *hot = forced(FORCE_HOT_RANK, 1, TRAINING), *random = forced(FORCE_RANDOM, 1, TRAINING);
    int64_t cold = 0;
    for (int64_t i = 0; i < N * K; i++) {
        if (hot->ids[0][i] >= 3) expect(false, "hot_rank: no other expert is chosen");
        cold += random->ids[0][i] >= 3;
    }
    expect(cold > 0, "random: every expert is chosen");

    Pass later = TRAINING;
    later.step = 7;
    Routed *one = forced(FORCE_SKEWED, 0.5, TRAINING), *two = forced(FORCE_SKEWED, 1, later);
    Pass reseeded = TRAINING;
    reseeded.seed = 6;
    Routed *other = forced(FORCE_SKEWED, 0.5, reseeded);
    expect(memcmp(one->ends, other->ends, sizeof one->ends) != 0, "skewed: the seed draws weights");
    // Of 2^24 units weights are whole numbers, here of 10^5 at least.
    for (int64_t e = 1; e < E; e++)
        expect(fabs(log_weight(two, e) - log_weight(two, 0) -
                    2 * (log_weight(one, e) - log_weight(one, 0))) < 1e-4,
               "skewed: log-weights are sigma times the same numbers at any step");
}

// ---- experts that choose ------------------------------------------------------------------------

// Every expert keeps the C tokens of each group that want it most.
static bool best_are_kept(const Routed *of, int64_t group, int64_t C) {
    for (int64_t n = 0; n < N; n++)
        for (int64_t e = 0; e < E; e++) {
            int64_t better = 0;
            for (int64_t m = n / group * group; m < (n / group + 1) * group; m++) {
                float w = of->weights[0][m * E + e], own = of->weights[0][n * E + e];
                better += w > own || (w == own && m < n);
            }
            if (of->kept[0][n * E + e] != (better < C) || of->ids[0][n * E + e] != e) return false;
        }
    return true;
}

static void check_expert_choice(void) {
    ModelConfig config = model_of_five();
    config.moe.router.kind = EXPERT_CHOICE;
    Routed *train = pass_of(config, TRAINING);
    expect(best_are_kept(train, N / SHARDS, 5), "expert_choice: K·G/E of a shard");
    for (int64_t e = 0; e < E; e++)
        expect(train->counts[e] == 5 * SHARDS && train->dropped[e] == 0,
               "expert_choice: what was not taken was no choice");
    config.moe.capacity_factor = (Rational){2, 3};
    config.moe.routing_group = GROUP_SEQUENCE;
    config.moe.drop = DROP_POSITION; // whatever it says
    expect(best_are_kept(pass_of(config, TRAINING), T, 2), "expert_choice: two of a sequence");
    Pass whole = EVALUATION, part = EVALUATION;
    whole.counted = N;
    part.counted = 8;
    Routed *all = pass_of(config, whole), *some = pass_of(config, part);
    for (int64_t e = 0; e < E; e++) {
        int64_t kept = 0;
        for (int64_t n = 0; n < part.counted; n++) kept += some->kept[0][n * E + e];
        expect(all->counts[e] == 2 * SEQUENCES,
               "expert_choice: an evaluation counts what was taken");
        expect(some->counts[e] == kept,
               "expert_choice: of what fills a window up nothing is counted");
    }
}

// ---- random numbers of scores -------------------------------------------------------------------

static void check_noise(void) {
    Routed *plain = pass_of(model_of_five(), EVALUATION);
    ModelConfig config = model_of_five();
    config.moe.router.kind = NOISY_TOPK;
    Routed *train = pass_of(config, TRAINING);
    expect(same_logits(pass_of(config, EVALUATION), plain), "noise: none in an evaluation");
    expect(!same_logits(train, plain), "noise: while training");
    config.moe.noise_in_evaluation = true;
    Routed *evaluated = pass_of(config, EVALUATION);
    expect(!same_logits(evaluated, plain), "noise_in_evaluation: noise");
    expect(!same_logits(evaluated, train), "noise_in_evaluation: its own numbers");

    config = model_of_five();
    config.moe.jitter = 0.5;
    expect(same_logits(pass_of(config, EVALUATION), plain), "jitter: none in an evaluation");
    train = pass_of(config, TRAINING);
    expect(!same_logits(train, plain), "jitter: while training");
    Pass later = TRAINING;
    later.step = 1;
    expect(!same_logits(train, pass_of(config, later)), "jitter: each step draws anew");

    config = model_of_five();
    config.moe.router_init_scale = 0.25;
    Routed *small = pass_of(config, EVALUATION);
    for (int64_t i = 0; i < E * 10; i++)
        if (small->router[i] != 0.25f * plain->router[i])
            expect(false, "router_init_scale: multiplies initial weights");
}

// ---- sinkhorn -----------------------------------------------------------------------------------

static void check_sinkhorn(void) {
    ModelConfig config = model_of_five();
    config.moe.router = (RouterRule){.kind = SINKHORN, .scaling_factor = 1};
    config.moe.sinkhorn_iterations = 5;
    enum { ROWS = N / SHARDS };
    Routed *train = pass_of(config, TRAINING);
    double bias[SHARDS * E];
    for (int64_t p = 0; p < SHARDS; p++) {
        double *d = bias + p * E, column[E];
        for (int64_t e = 0; e < E; e++) d[e] = 1;
        for (int64_t i = 0; i < config.moe.sinkhorn_iterations; i++) {
            for (int64_t e = 0; e < E; e++) column[e] = 0;
            for (int64_t n = p * ROWS; n < (p + 1) * ROWS; n++) {
                double sum = 0;
                for (int64_t e = 0; e < E; e++)
                    sum += d[e] * exp((double)train->logits[0][n * E + e]);
                for (int64_t e = 0; e < E; e++)
                    column[e] += exp((double)train->logits[0][n * E + e]) / (ROWS * sum);
            }
            for (int64_t e = 0; e < E; e++) d[e] = 1 / (E * column[e]);
        }
        for (int64_t e = 0; e < E; e++) d[e] = log(d[e]);
    }
    expect(are_largest(train, 0, bias), "sinkhorn: the iterations choose");
    expect(!are_largest(train, 0, NULL), "sinkhorn: logits alone do not");
    expect(are_largest(pass_of(config, EVALUATION), 0, NULL), "sinkhorn: in evaluation they do");
}

int main(int argc, char **argv) {
    comm_init(&argc, &argv);
    Error err = {0};
    CHECK(device_open(&dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    check_hash();
    check_force();
    check_expert_choice();
    check_noise();
    check_sinkhorn();
    comm_finalize();
    if (!wrong) printf("ok\n");
    return wrong > 0;
}
