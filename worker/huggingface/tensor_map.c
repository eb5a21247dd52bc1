#include "worker/huggingface/tensor_map.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"

// ---- rows ---------------------------------------------------------------------------------------

SliceShape slice_shape(const Param *row) {
    bool experts = row->kind == PARAM_EXPERT;
    int rank = experts ? row->rank - 1 : row->rank;
    const int64_t *shape = experts ? row->shape + 1 : row->shape;
    return (SliceShape){.slices = experts ? row->shape[0] : 1,
                        .rows = shape[0],
                        .columns = rank == 2 ? shape[1] : 1};
}

static const Param *param_of(const TensorMap *map, const MappedTensor *tensor) {
    return &map->model.params.rows[tensor->param];
}

// Of a bias, the matrices that lie below one another in its weight.
static const int64_t *fused_of(const TensorMap *map, const MappedTensor *tensor) {
    const Param *row = param_of(map, tensor);
    char name[PARAM_NAME_BYTES];
    size_t length = strlen(row->name), tail = strlen(".bias");
    snprintf(name, sizeof name, "%s", row->name);
    if (length > tail && strcmp(name + length - tail, ".bias") == 0) name[length - tail] = '\0';
    const Param *weight = param_find(&map->model.params, name);
    return weight ? weight->fused : row->fused;
}

int64_t mapped_rows(const TensorMap *map, const MappedTensor *tensor) {
    const Param *row = param_of(map, tensor);
    const int64_t *fused = fused_of(map, tensor);
    switch (tensor->rule->order) {
    case ROWS_FIRST:
        return fused[0];
    case ROWS_SECOND:
        return fused[1];
    case ROWS_THIRD:
        return fused[2];
    case ROWS_LATENT_KEYS:
        return fused[1] + fused[2];
    case ROWS_QUERIES:
        return fused[0] > 0 ? fused[0] : slice_shape(row).rows;
    case ROWS_ALL:
    case ROWS_ALTERNATE:
    case ROWS_KEYS_VALUES:
        break;
    }
    return slice_shape(row).rows;
}

// Of turned channels, which of ours, whose pairs are i and i + d_rope / 2, is channel k of theirs.
static int64_t turned(const TensorMap *map, int64_t k, int64_t d_rope) {
    return map->alternate ? k / 2 + k % 2 * (d_rope / 2) : k;
}

// Which row of ours theirs is.
static int64_t mapped_row(const TensorMap *map, const MappedTensor *tensor, int64_t r) {
    const AttentionConfig *attention = &map->model.config.attention;
    const int64_t *fused = fused_of(map, tensor);
    int64_t d_rope = attention_d_rope(attention), d_head = attention->shape.d_head;
    int64_t d_nope = d_head - d_rope, d_value = attention->shape.d_value;
    switch (tensor->rule->order) {
    case ROWS_ALL:
    case ROWS_FIRST:
        return r;
    case ROWS_SECOND:
        return fused[0] + r;
    case ROWS_THIRD:
        return fused[0] + fused[1] + r;
    case ROWS_ALTERNATE:
        return r / 2 + r % 2 * fused[0];
    case ROWS_QUERIES: {
        int64_t head = r / d_head * d_head, k = r % d_head;
        return head + (k < d_nope ? d_rope + k : turned(map, k - d_nope, d_rope));
    }
    case ROWS_LATENT_KEYS:
        return fused[0] + (r < fused[1] ? r : fused[1] + turned(map, r - fused[1], d_rope));
    case ROWS_KEYS_VALUES: {
        int64_t head = r / (d_nope + d_value), k = r % (d_nope + d_value);
        int64_t values = attention->shape.heads * d_nope;
        return k < d_nope ? head * d_nope + k : values + head * d_value + k - d_nope;
    }
    }
    CHECK(false, "order %d of rows", (int)tensor->rule->order);
}

void slice_to_theirs(const TensorMap *map, const MappedTensor *tensor, float *theirs,
                     const float *ours) {
    int64_t rows = mapped_rows(map, tensor), columns = slice_shape(param_of(map, tensor)).columns;
    for (int64_t r = 0; r < rows; r++) {
        const float *from = ours + mapped_row(map, tensor, r) * columns;
        if (tensor->rule->transposed)
            for (int64_t c = 0; c < columns; c++) theirs[c * rows + r] = from[c];
        else
            memcpy(theirs + r * columns, from, (size_t)columns * sizeof *theirs);
    }
}

void slice_to_ours(const TensorMap *map, const MappedTensor *tensor, float *ours,
                   const float *theirs) {
    int64_t rows = mapped_rows(map, tensor), columns = slice_shape(param_of(map, tensor)).columns;
    for (int64_t r = 0; r < rows; r++) {
        float *to = ours + mapped_row(map, tensor, r) * columns;
        if (tensor->rule->transposed)
            for (int64_t c = 0; c < columns; c++) to[c] = theirs[c * rows + r];
        else
            memcpy(to, theirs + r * columns, (size_t)columns * sizeof *to);
    }
}

// ---- the map ------------------------------------------------------------------------------------

// `pattern` with the numbers of layer and expert in their places.
static void fill_name(const char *pattern, int64_t layer, int64_t expert, char *name, size_t room) {
    size_t used = 0;
    name[0] = '\0';
    for (const char *at = pattern; *at && used + 1 < room;) {
        bool number = at[0] == '{';
        if (number)
            used += (size_t)snprintf(name + used, room - used, "%lld",
                                     (long long)(at[1] == 'l' ? layer : expert));
        else
            name[used++] = *at;
        at += number ? 3 : 1;
        if (used < room) name[used] = '\0';
    }
    CHECK(used + 1 < room, "the name %s… is too long", name);
}

static MappedTensor *add_tensor(TensorMap *map, const TensorRule *rule, int64_t layer,
                                int64_t expert) {
    if ((map->count & (map->count + 1)) == 0) { // room for as many again
        size_t room = 2 * (size_t)map->count + 1;
        map->tensors = realloc(map->tensors, (room + 1) * sizeof *map->tensors);
        CHECK_MEMORY(map->tensors, "no memory for a map of %zu tensors", room);
    }
    MappedTensor *tensor = &map->tensors[map->count++];
    *tensor = (MappedTensor){.rule = rule, .expert = expert, .shape = {1, 1, 1, 1}};
    fill_name(rule->theirs, layer, expert, tensor->name, sizeof tensor->name);
    return tensor;
}

// Of a parameter of ours, as one tensor, or one for each expert.
static void add_tensors(TensorMap *map, const TensorRule *rule, int64_t layer, int param) {
    const Param *row = &map->model.params.rows[param];
    SliceShape slice = slice_shape(row);
    bool experts = row->kind == PARAM_EXPERT, matrix = row->rank - (experts ? 1 : 0) == 2;
    int64_t tensors = experts && !rule->all_experts ? slice.slices : 1;
    for (int64_t e = 0; e < tensors; e++) {
        MappedTensor *tensor = add_tensor(map, rule, layer, e);
        int axis = 0;
        tensor->param = param;
        if (experts && rule->all_experts) {
            tensor->expert = -1;
            tensor->shape[axis++] = slice.slices;
        }
        int64_t rows = mapped_rows(map, tensor);
        tensor->shape[axis++] = matrix && rule->transposed ? slice.columns : rows;
        if (matrix) tensor->shape[axis++] = rule->transposed ? rows : slice.columns;
        tensor->rank = axis;
    }
}

// A tensor of zeros in place of a parameter that a layer with experts does not have.
static void add_zeros(TensorMap *map, const TensorRule *rule, int64_t layer) {
    const ModelConfig *config = &map->model.config;
    if (model_feed_forward(config, layer) != FEED_FORWARD_MOE) return;
    int64_t D = config->d_model, E = moe_shape(config, layer).experts, W = WIDTH_OF_ZEROS;
    const int64_t shapes[][2] = {[ZEROS_BIAS] = {E, 1},
                                 [ZEROS_GATE_UP] = {W, D},
                                 [ZEROS_DOWN] = {D, W},
                                 [ZEROS_GATE] = {1, D}};
    MappedTensor *tensor = add_tensor(map, rule, layer, 0);
    tensor->param = -1;
    tensor->rank = rule->zeros == ZEROS_BIAS ? 1 : 2;
    memcpy(tensor->shape, shapes[rule->zeros], sizeof shapes[rule->zeros]);
}

static void apply(TensorMap *map, const TensorRule *rule, int64_t layer) {
    int64_t q_rank = map->model.config.attention.q_rank;
    if ((rule->when == WITH_QUERY_LATENT && q_rank == 0) ||
        (rule->when == WITHOUT_QUERY_LATENT && q_rank > 0))
        return;
    char name[PARAM_NAME_BYTES];
    fill_name(rule->ours, layer, 0, name, sizeof name);
    const Param *row = param_find(&map->model.params, name);
    if (row)
        add_tensors(map, rule, layer, (int)(row - map->model.params.rows));
    else if (rule->zeros != ZEROS_NONE)
        add_zeros(map, rule, layer);
}

// Every row of every parameter is in one tensor.
static bool check_whole(const TensorMap *map, Error *err) {
    const ParamTable *params = &map->model.params;
    int64_t *rows = calloc((size_t)params->count + 1, sizeof *rows);
    CHECK_MEMORY(rows, "no memory for %d parameters", params->count);
    for (int64_t i = 0; i < map->count; i++) {
        const MappedTensor *tensor = &map->tensors[i];
        if (tensor->param < 0) continue;
        int64_t slices = tensor->expert < 0 ? slice_shape(param_of(map, tensor)).slices : 1;
        rows[tensor->param] += slices * mapped_rows(map, tensor);
    }
    bool ok = true;
    for (int i = 0; ok && i < params->count; i++) {
        SliceShape slice = slice_shape(&params->rows[i]);
        ok = rows[i] == slice.slices * slice.rows ||
             error_set(err, EXIT_CHECKPOINT,
                       "%s has %lld rows, of which %s has tensors for %lld: this program cannot "
                       "carry such a model",
                       params->rows[i].name, (long long)(slice.slices * slice.rows),
                       map->family->model_type, (long long)rows[i]);
    }
    free(rows);
    return ok;
}

bool tensor_map_make(TensorMap *map, const Family *family, const ModelConfig *config,
                     bool alternate, Error *err) {
    *map = (TensorMap){.family = family, .alternate = alternate};
    model_measure(&map->model, config, model_split_alone(1), NULL);
    // In the order of the forward pass: what has no layer at both ends, the layers between.
    for (int64_t layer = -1; layer < config->layers; layer++)
        for (int list = 0; list < FAMILY_RULES_MOST && family->tensors[list]; list++)
            for (const TensorRule *rule = family->tensors[list]; rule->theirs; rule++)
                if ((strstr(rule->theirs, "{l}") != NULL) == (layer >= 0)) apply(map, rule, layer);
    return check_whole(map, err);
}

void tensor_map_free(TensorMap *map) {
    if (map->family) model_free(&map->model);
    free(map->tensors);
    *map = (TensorMap){0};
}
