#include "worker/upcycle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_file.h"
#include "checkpoint/checkpoint_stream.h"
#include "kernels/integers.h"
#include "model/shared_experts.h"
#include "worker/optimizer/optimizer.h"

// ---- whether it is the same function ------------------------------------------------------------

static bool is_new(const ModelConfig *dense, const ModelConfig *model, int64_t layer) {
    return model_feed_forward(model, layer) == FEED_FORWARD_MOE &&
           model_feed_forward(dense, layer) == FEED_FORWARD_DENSE;
}

// G, of a layer that was checked.
static int64_t slices_of(const ModelConfig *model, int64_t layer) {
    return model->d_ff / moe_shape(model, layer).d_ff;
}

// What the gate weights of a token sum to; 0 where that depends on the token.
static double weight_sum(const MoeConfig *moe, MoeShape shape) {
    if (moe->renormalize_after_drop) return 1;
    switch (router_weighing(moe->router, shape.top_k)) {
    case WEIGH_OVER_CHOSEN:
        return router_scales(moe->router.kind) ? moe->router.scaling_factor : 1;
    case WEIGH_OVER_ALL:
        return shape.top_k == shape.experts ? 1 : 0;
    case WEIGH_ALONE:
        return 0;
    }
    CHECK(false, "weighing of router %d", (int)moe->router.kind);
}

static bool check_weights(const MoeConfig *moe, MoeShape shape, long long layer, Error *err) {
    if (moe->router.kind == EXPERT_CHOICE)
        return error_set(
            err, EXIT_CONFIG,
            "layer %lld: with moe.router=expert_choice as many experts work on a token "
            "as choose it, so that it is not the dense model's; take another router, "
            "and train with expert_choice from there",
            layer);
    if (weight_sum(moe, shape) == 0)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: the gate weights of a token do not sum to 1 with this "
                         "moe.router and moe.top_k (%lld), so that experts add up to less than the "
                         "dense layer; set moe.router=softmax_topk and moe.top_k to 2 or more",
                         layer, (long long)shape.top_k);
    if (shape.zero > 0)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: moe.zero_experts (%lld) take a share of the gate weights and "
                         "compute nothing, so that experts add up to less than the dense layer; "
                         "set moe.zero_experts=0",
                         layer, (long long)shape.zero);
    if (shared_experts_width(moe, shape) > 0)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: moe.shared_experts (%lld) would be added to what the dense "
                         "layer was; set moe.shared_experts=0",
                         layer, (long long)moe->shared_experts);
    return true;
}

// Whether tokens always choose virtual groups whole.
static bool check_slices(const ModelConfig *model, MoeShape shape, long long layer, Error *err) {
    const RouterRule *rule = &model->moe.router;
    if (shape.d_ff > model->d_ff || model->d_ff % shape.d_ff != 0)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: moe.d_ff (%lld) does not divide model.d_ff (%lld), of which "
                         "an expert is a copy or a slice; set it to %lld, or a divisor of that",
                         layer, (long long)shape.d_ff, (long long)model->d_ff,
                         (long long)model->d_ff);
    int64_t G = model->d_ff / shape.d_ff;
    if (G == 1) return true;
    if (shape.experts % G != 0 || shape.top_k % G != 0)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: %lld experts of moe.d_ff (%lld) make up one dense layer of "
                         "model.d_ff (%lld), and a token needs all of them; set moe.experts (%lld) "
                         "and moe.top_k (%lld) to multiples of %lld",
                         layer, (long long)G, (long long)shape.d_ff, (long long)model->d_ff,
                         (long long)shape.experts, (long long)shape.top_k, (long long)G);
    if (rule->kind == HASH || rule->kind == NOISY_TOPK)
        return error_set(err, EXIT_CONFIG,
                         "layer %lld: %lld experts of moe.d_ff (%lld) make up one dense layer, and "
                         "with moe.router=%s a token would not choose them together; take another "
                         "router, or copies: moe.d_ff=%lld",
                         layer, (long long)G, (long long)shape.d_ff,
                         choice_row(ROUTER_CHOICES, (int)rule->kind)->word, (long long)model->d_ff);
    return rule->groups == 1 || shape.experts / rule->groups % G == 0 ||
           error_set(err, EXIT_CONFIG,
                     "layer %lld: %lld experts of moe.d_ff (%lld) make up one dense layer, and "
                     "moe.groups (%lld) would part them; set it to a divisor of %lld",
                     layer, (long long)G, (long long)shape.d_ff, (long long)rule->groups,
                     (long long)(shape.experts / G));
}

bool upcycle_check(const ModelConfig *dense, const ModelConfig *model, Error *err) {
    bool any = false;
    for (int64_t layer = 0; layer < model->layers; layer++) {
        FeedForwardKind was = model_feed_forward(dense, layer);
        if (model_is_routed(dense, layer))
            return error_set(err, EXIT_CONFIG,
                             "layer %lld has experts already, and upcycling begins from a dense "
                             "model; to train this one further, give it as init",
                             (long long)layer);
        if (!is_new(dense, model, layer)) {
            if (was == model_feed_forward(model, layer)) continue;
            return error_set(err, EXIT_CONFIG,
                             "layer %lld is %s, and upcycling makes moe of dense layers alone; say "
                             "so in model.feed_forward",
                             (long long)layer, choice_row(FEED_FORWARD_CHOICES, (int)was)->word);
        }
        MoeShape shape = moe_shape(model, layer);
        if (!check_weights(&model->moe, shape, (long long)layer, err) ||
            !check_slices(model, shape, (long long)layer, err))
            return false;
        any = true;
    }
    return any || error_set(err, EXIT_CONFIG,
                            "no layer gets experts; set moe.experts to how many each shall have, "
                            "and of layers of several kinds say moe for dense ones in "
                            "model.feed_forward");
}

// ---- where a tensor's numbers come from ---------------------------------------------------------

typedef enum OriginOfTensor {
    FROM_SAME,   // the dataset of its name
    FROM_DENSE,  // experts, of the layer's dense feed-forward
    FROM_SEED,   // as a new model begins, with one row for each virtual group
    FROM_NOTHING // zeros
} OriginOfTensor;

typedef struct Origin {
    OriginOfTensor kind;
    const Dataset *dataset; // FROM_SAME, FROM_DENSE
    const Param *row;       // FROM_DENSE, FROM_SEED
    int64_t slices;         // G of its layer
} Origin;

typedef struct Upcycle {
    const Upcycling *wanted;
    Model model; // measured
    Optimizer optimizer;
    CheckpointFile file; // the dense one
    // What is written.
    SavedTensor *tensors;
    Origin *origins;
    int count;
    // Of the tensor at work: all of what it comes from, and one expert's part.
    int prepared;
    float *whole, *part;
    int64_t expert;
} Upcycle;

// The shape of a dense feed-forward's tensor, of which `row` has slices: experts go, and the width
// is the whole one.
static void dense_shape(const Param *row, int64_t slices, int64_t shape[3]) {
    bool down = strstr(row->name, "experts.down");
    for (int axis = 0; axis < 3; axis++) shape[axis] = axis < 2 ? row->shape[axis + 1] : 1;
    if (!down) shape[0] *= slices;
    if (down && row->rank == 3) shape[1] *= slices;
}

// Part `number` of the whole: rows of each of the fused matrices, or columns.
static void take_part(const Upcycle *u, const Origin *origin, int64_t number) {
    const Param *row = origin->row;
    int64_t G = origin->slices, slice = number % G, rows = row->shape[1], columns = row->shape[2];
    const float *whole = u->whole;
    if (!strstr(row->name, "experts.down")) {
        int64_t inner = activation_input_width(u->model.config.activation, 1);
        int64_t piece = rows / inner * columns; // of one of the fused matrices
        for (int64_t i = 0; i < inner; i++)
            memcpy(u->part + i * piece, whole + (i * G + slice) * piece,
                   (size_t)piece * sizeof *whole);
        return;
    }
    const MoeConfig *moe = &u->model.config.moe;
    double sum = moe->renormalize_after_drop ? 1 : moe->router.scaling_factor;
    bool bias = row->rank == 2; // which all experts add, each weighed by its gate
    float factor = (float)((bias ? 1.0 : (double)G) / sum);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            u->part[i * columns + j] = factor * whole[bias ? i : (i * G + slice) * columns + j];
}

// Reads or makes what the tensor comes from.
static bool prepare(Upcycle *u, int tensor, Error *err) {
    const Origin *origin = &u->origins[tensor];
    if (u->prepared == tensor) return true;
    u->prepared = -1;
    u->expert = -1;
    free(u->whole);
    free(u->part);
    u->part = NULL;
    int64_t elements = param_elements(origin->row);
    if (origin->dataset) elements = origin->dataset->bytes / (int64_t)sizeof *u->whole;
    u->whole = malloc((size_t)elements * sizeof *u->whole);
    CHECK_MEMORY(u->whole, "no memory for a tensor of %lld elements", (long long)elements);
    if (origin->kind == FROM_SEED) {
        param_init_row(origin->row, u->whole, (uint64_t)u->wanted->config->seed);
    } else {
        int64_t part = origin->row->shape[1] * origin->row->shape[2];
        u->part = malloc((size_t)part * sizeof *u->part);
        CHECK_MEMORY(u->part, "no memory for an expert of %lld elements", (long long)part);
        if (!checkpoint_file_read(&u->file, origin->dataset, 0, origin->dataset->bytes, u->whole,
                                  err))
            return false;
    }
    u->prepared = tensor;
    return true;
}

// Elements of experts, one after the other.
static void give_experts(Upcycle *u, const Origin *origin, int64_t first, int64_t elements,
                         float *out) {
    int64_t size = origin->row->shape[1] * origin->row->shape[2];
    for (int64_t done = 0; done < elements;) {
        int64_t expert = (first + done) / size, within = (first + done) % size;
        int64_t some = smaller(size - within, elements - done);
        if (u->expert != expert) take_part(u, origin, expert);
        u->expert = expert;
        memcpy(out + done, u->part + within, (size_t)some * sizeof *out);
        done += some;
    }
}

// Elements of rows, each of which is the first of its virtual group.
static void give_grouped(const Upcycle *u, const Origin *origin, int64_t first, int64_t elements,
                         float *out) {
    int64_t columns = origin->row->shape[1];
    for (int64_t i = 0; i < elements; i++) {
        int64_t row = (first + i) / columns, column = (first + i) % columns;
        out[i] = u->whole[(row - row % origin->slices) * columns + column];
    }
}

// What the new checkpoint asks for.
static bool give_elements(void *context, int tensor, int64_t first, int64_t elements, void *out,
                          Error *err) {
    Upcycle *u = context;
    const Origin *origin = &u->origins[tensor];
    int64_t width = (int64_t)dtype_bytes(u->tensors[tensor].dtype);
    switch (origin->kind) {
    case FROM_NOTHING:
        memset(out, 0, (size_t)(elements * width));
        return true;
    case FROM_SAME:
        return checkpoint_file_read(&u->file, origin->dataset, first * width, elements * width, out,
                                    err);
    case FROM_DENSE:
        if (!prepare(u, tensor, err)) return false;
        give_experts(u, origin, first, elements, out);
        return true;
    case FROM_SEED:
        if (!prepare(u, tensor, err)) return false;
        give_grouped(u, origin, first, elements, out);
        return true;
    }
    CHECK(false, "a tensor comes from %d", (int)origin->kind);
}

// ---- what is written ----------------------------------------------------------------------------

static void add_tensor(Upcycle *u, Origin origin, SavedTensor tensor, const int64_t shape[3],
                       const char *folder, const char *name) {
    u->tensors = realloc(u->tensors, (size_t)(u->count + 1) * sizeof *u->tensors);
    u->origins = realloc(u->origins, (size_t)(u->count + 1) * sizeof *u->origins);
    CHECK_MEMORY(u->tensors && u->origins, "no memory for a list of tensors");
    memcpy(tensor.shape, shape, sizeof tensor.shape);
    snprintf(tensor.name, sizeof tensor.name, "%.24s%.96s", folder, name);
    u->origins[u->count] = origin;
    u->tensors[u->count++] = tensor;
}

static SavedTensor like(const Param *row) {
    return (SavedTensor){.dtype = F32, .rank = row->rank, .replicated = row->kind == PARAM_DENSE};
}

// Finds what a parameter comes from, and that it has the shape the configuration says.
static bool find_origin(const Upcycle *u, const Param *row, Origin *origin, Error *err) {
    char name[DATASET_NAME_BYTES], part[PARAM_NAME_BYTES];
    long long number = -1;
    int64_t shape[3];
    bool of_module = sscanf(row->name, "mtp.%lld.moe.%95s", &number, part) == 2;
    bool of_layer = of_module || sscanf(row->name, "layers.%lld.moe.%95s", &number, part) == 2;
    int64_t block = of_module ? u->model.config.layers + number : number;
    bool made = of_layer && is_new(u->wanted->dense, &u->model.config, block); // not soft_moe
    bool experts = made && strncmp(part, "experts.", 8) == 0;
    *origin = (Origin){.kind = FROM_SAME, .row = row};
    memcpy(shape, row->shape, sizeof shape);
    snprintf(name, sizeof name, "parameters/%.96s", row->name);
    if (made) {
        origin->kind = experts ? FROM_DENSE : FROM_SEED;
        origin->slices = slices_of(&u->model.config, block);
        if (!experts) return true;
        snprintf(name, sizeof name, "parameters/%s.%lld.ffn.%.80s", of_module ? "mtp" : "layers",
                 number, part + 8);
        dense_shape(row, origin->slices, shape);
    }
    origin->dataset = manifest_find(&u->file.manifest, name);
    return (origin->dataset && origin->dataset->dtype == F32 &&
            memcmp(origin->dataset->shape, shape, sizeof shape) == 0) ||
           error_set(err, EXIT_CHECKPOINT,
                     "%s: %s is missing, or has another shape than its configuration says",
                     u->wanted->from, name);
}

// Parameters, the states of an optimizer that has done nothing, and what tokens are.
static bool list_tensors(Upcycle *u, Error *err) {
    const ParamTable *params = &u->model.params;
    Origin origin;
    for (int i = 0; i < params->count; i++) {
        const Param *row = &params->rows[i];
        if (!find_origin(u, row, &origin, err)) return false;
        add_tensor(u, origin, like(row), row->shape, "parameters/", row->name);
    }
    for (int s = 0; s < u->optimizer.state_count; s++)
        for (int i = 0; i < params->count; i++) {
            char folder[32];
            if (s == u->optimizer.average || !optimizer_has_state(&u->optimizer, s, i)) continue;
            snprintf(folder, sizeof folder, "%s/", u->optimizer.states[s].name);
            add_tensor(u, (Origin){.kind = FROM_NOTHING}, like(&params->rows[i]),
                       params->rows[i].shape, folder, params->rows[i].name);
        }
    for (int64_t i = 0; i < u->file.manifest.count; i++) {
        const Dataset *dataset = &u->file.manifest.datasets[i];
        SavedTensor tensor = {.dtype = dataset->dtype, .rank = dataset->rank, .replicated = true};
        if (strncmp(dataset->name, "data/", 5) == 0)
            add_tensor(u, (Origin){.kind = FROM_SAME, .dataset = dataset}, tensor, dataset->shape,
                       "", dataset->name);
    }
    return true;
}

// Of step 0, on the data of the dense model.
static bool first_state(const Upcycling *wanted, TrainState *state, Error *err) {
    TrainState dense;
    if (!checkpoint_read_state(wanted->from, &dense, err)) return false;
    *state = (TrainState){.run = {.parent_step = dense.step, .healthy = 1}};
    memcpy(state->data_id, dense.data_id, sizeof state->data_id);
    memcpy(state->run.parent_run, dense.run.run, sizeof state->run.parent_run);
    snprintf(state->run.began_from, sizeof state->run.began_from, "%s", wanted->from);
    return true;
}

static bool write_file(Upcycle *u, Error *err) {
    const Upcycling *wanted = u->wanted;
    Checkpoint checkpoint = {.config_yaml = wanted->config_yaml};
    if (!first_state(wanted, &checkpoint.state, err) || !list_tensors(u, err)) return false;
    checkpoint.tensors = u->tensors;
    checkpoint.tensor_count = u->count;
    u->prepared = -1;
    return checkpoint_stream(wanted->to, &checkpoint, give_elements, u, err);
}

bool upcycle_write(const Upcycling *wanted, Error *err) {
    Upcycle *u = calloc(1, sizeof *u);
    ModelConfig *model = malloc(sizeof *model);
    int64_t embedding[3];
    CHECK_MEMORY(u && model, "no memory for upcycling");
    *model = wanted->config->model;
    u->wanted = wanted;
    bool ok = checkpoint_read_shape(wanted->from, "parameters/embedding", embedding, err) &&
              checkpoint_file_open(&u->file, wanted->from, err);
    if (ok) {
        model->vocab_size = embedding[0];
        model_measure(&u->model, model, model_split_alone(1), NULL);
        optimizer_measure(&u->optimizer, &u->model, &wanted->config->optimizer);
        ok = write_file(u, err);
        if (ok)
            printf("%s: a model of %lld parameters from %s\n", wanted->to,
                   (long long)model_total_params(&u->model), wanted->from);
        checkpoint_file_close(&u->file);
    }
    optimizer_free(&u->optimizer);
    model_free(&u->model);
    free(u->tensors);
    free(u->origins);
    free(u->whole);
    free(u->part);
    free(model);
    free(u);
    return ok;
}
