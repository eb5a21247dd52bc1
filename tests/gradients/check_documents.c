// A sequence of two documents is as each of them alone: every token's loss, and the sum over
// targets of every parameter's gradient, whatever attention is made of.
#include "gradient_check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

enum { FIRST = 50, SECOND = 90, BOTH = FIRST + SECOND };

typedef struct Case {
    const char *sentence;
    ModelConfig model;
    DType storage;
} Case;

typedef struct Run {
    Model model;
    int64_t targets;
    float losses[BOTH];
} Run;

static int32_t token_at(int64_t i) {
    return (int32_t)(rng_u32((RngStream){5, RNG_TEST, 0, 0}, (uint64_t)i) % 13);
}

// Rows [first, first + T) of the sequence, whose second document begins at row FIRST.
static void train(Run *run, const Case *c, Device *dev, int64_t first, int64_t T) {
    int32_t tokens[BOTH], targets[BOTH], positions[BOTH];
    ModelSplit split = model_split_alone(T);
    split.positions = BOTH;
    split.storage = c->storage;
    split.training = true;
    model_measure(&run->model, &c->model, split, dev);
    model_allocate(&run->model, process_groups_open(1, dev), 7);
    model_init_parameters(&run->model);
    run->targets = 0;
    for (int64_t t = 0; t < T; t++) {
        int64_t at = first + t, next = at + 1;
        tokens[t] = token_at(at);
        targets[t] = next == FIRST || next == BOTH ? NO_TARGET : token_at(next);
        positions[t] = (int32_t)(at < FIRST ? at : at - FIRST);
        run->targets += targets[t] != NO_TARGET;
    }
    model_set_documents(&run->model, T == BOTH ? tensor_1d(positions, I32, T) : (Tensor){0},
                        run->targets);
    model_train_micro_batch(&run->model, tensor_1d(tokens, I32, T), tensor_1d(targets, I32, T), 0,
                            0);
    memcpy(run->losses, model_trained_losses(&run->model).data, (size_t)T * sizeof(float));
}

static void close_run(Run *run) {
    process_groups_close(&run->model.work.groups);
    model_free(&run->model);
}

// The largest difference of losses and of gradients, as shares of what they are of.
static bool check(const Case *c, Device *dev) {
    static Run both, parts[2];
    train(&both, c, dev, 0, BOTH);
    train(&parts[0], c, dev, 0, FIRST);
    train(&parts[1], c, dev, FIRST, SECOND);
    double losses = 0, gradients = 0;
    for (int t = 0; t < BOTH; t++) {
        double alone = (double)(t < FIRST ? parts[0].losses[t] : parts[1].losses[t - FIRST]);
        losses = fmax(losses, fabs((double)both.losses[t] - alone));
    }
    const ParamTable *params = &both.model.params;
    for (int i = 0; i < params->count; i++) {
        const float *sum = tensor_f32(param_tensor(params, both.model.gradients.sum, i));
        double norm = 0, error = 0;
        for (int64_t k = 0; k < tensor_elements(param_tensor(params, both.model.gradients.sum, i));
             k++) {
            double wanted = 0;
            for (int p = 0; p < 2; p++)
                wanted +=
                    (double)tensor_f32(param_tensor(params, parts[p].model.gradients.sum, i))[k] *
                    (double)parts[p].targets;
            double found = (double)sum[k] * (double)both.targets;
            norm += wanted * wanted;
            error += (found - wanted) * (found - wanted);
        }
        if (norm > 0) gradients = fmax(gradients, sqrt(error / norm));
    }
    // Blocks of keys begin elsewhere, so that sums run in another order: in f32 some hundred
    // roundings of 6e-8; in bf16 what is stored is rounded by up to 2^-9 here and there.
    double most = c->storage == F32 ? 2e-5 : 2e-2;
    bool ok = losses < most && gradients < most && both.targets == BOTH - 2;
    printf("%s %s: losses within %.1e, gradients within %.1e\n", ok ? "ok    " : "FAILED",
           c->sentence, losses, gradients);
    close_run(&both);
    for (int p = 0; p < 2; p++) close_run(&parts[p]);
    return ok;
}

// Experts alone: the balance of two sets of tokens is not that of both.
static Case new_case(const char *sentence) {
    Case c = {.sentence = sentence, .model = tiny_model()};
    c.model.moe.balance.count = 0;
    c.model.moe.z_loss = 0;
    return c;
}

int main(int argc, char **argv) {
    Case cases[12];
    int count = 0;
    comm_init(&argc, &argv);
    cases[count++] = new_case("rope");
    cases[count] = new_case("learned positions");
    cases[count++].model.attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    cases[count] = new_case("slopes and a cap");
    cases[count].model.attention.positions = (PerLayer){1, {POSITIONS_ALIBI}};
    cases[count++].model.attention.softcap = 2;
    cases[count] = new_case("no positions, windows and sinks");
    cases[count].model.attention.positions = (PerLayer){1, {POSITIONS_NONE}};
    cases[count].model.attention.softmax = SOFTMAX_SINK;
    cases[count++].model.attention.window = (PerLayer){2, {9, 0}};
    cases[count] = new_case("a denominator off by one, of yarn's angles");
    cases[count].model.attention.softmax = SOFTMAX_OFF_BY_ONE;
    cases[count++].model.attention.rope = (RopeConfig){.scaling = ROPE_YARN,
                                                       .factor = 4,
                                                       .original_context = 16,
                                                       .beta_fast = 32,
                                                       .beta_slow = 1,
                                                       .attention_factor = 1.1};
    cases[count] = new_case("latent attention");
    cases[count].model.mixer = (PerLayer){1, {MIXER_LATENT_ATTENTION}};
    cases[count].model.attention.shape = (AttentionShape){2, 2, 6, 4};
    cases[count].model.attention.d_rope = 2;
    cases[count].model.attention.q_rank = 3;
    cases[count++].model.attention.kv_rank = 5;
    cases[count] = new_case("norms of queries and keys, gated heads, bf16");
    cases[count].model.attention.qk_norm = QK_NORM_HEAD;
    cases[count].model.attention.gate = GATE_HEAD;
    cases[count++].storage = BF16;
    cases[count] = new_case("attention to both sides");
    cases[count++].model.objective = OBJECTIVE_MASKED;
    Device dev;
    Error err = {0};
    bool ok = true;
    CHECK(device_open(&dev, "cpu", 1, 0, 1, &err), "%s", err.message);
    for (int i = 0; i < count; i++) ok = check(&cases[i], &dev) && ok;
    comm_finalize();
    return ok ? 0 : 1;
}
