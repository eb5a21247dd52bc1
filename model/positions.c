#include "model/positions.h"

#include <math.h>

#include "model/initialization.h"

// ---- rope: queries and keys are turned by angles (arXiv:2104.09864) -----------------------------

static void rope_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                        Arena *scratch) {
    (void)scratch;
    if (owner) {
        *positions = *owner;
        return;
    }
    int64_t half = work->config->attention.shape.d_head / 2;
    positions->cosines = arena_2d(constants, F32, positions->count, half);
    positions->sines = arena_2d(constants, F32, positions->count, half);
    positions->host_cosines = arena_mirror(work->host, positions->cosines);
    positions->host_sines = arena_mirror(work->host, positions->sines);
}

static void rope_fill(Positions *positions, Work *work) {
    int64_t count = positions->cosines.shape[0], half = positions->cosines.shape[1];
    float *cosines = tensor_f32(positions->host_cosines);
    float *sines = tensor_f32(positions->host_sines);
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < half; i++) {
            double frequency = pow(work->config->attention.rope_theta, -(double)i / (double)half);
            cosines[t * half + i] = (float)cos((double)t * frequency);
            sines[t * half + i] = (float)sin((double)t * frequency);
        }
    device_upload(work->dev, positions->cosines, positions->host_cosines);
    device_upload(work->dev, positions->sines, positions->host_sines);
}

static void rope_rotate(const Positions *positions, Work *work, Tensor qkv, int64_t first,
                        bool back) {
    rope(work->dev, qkv, work->config->attention.shape, positions->cosines, positions->sines,
         work->shape.T, first, back);
}

// ---- learned: a vector of each position is added to the token's (GPT-2) -------------------------

static void learned_declare(Positions *positions, Work *work) {
    positions->table = param_add(work->params,
                                 (Param){.rank = 2,
                                         .shape = {positions->count, work->config->d_model},
                                         .init_std = init_embedding_std(work->config)},
                                 "positions");
}

// Rows of several sequences repeat; a single sequence may begin at any position, as in generation.
static int64_t id_of_row(const Work *work, int64_t row) {
    return work->shape.B > 1 ? row % work->shape.T : row;
}

static void learned_layout(Positions *positions, const Positions *owner, Work *work,
                           Arena *constants, Arena *scratch) {
    int64_t N = work->shape.N, D = work->config->d_model, count = positions->count;
    int64_t rows = work->shape.B > 1 || N > count ? N : count;
    if (owner) {
        CHECK(tensor_elements(owner->ids) >= N, "%lld rows of the owner, %lld wanted",
              (long long)tensor_elements(owner->ids), (long long)N);
        positions->ids = owner->ids;
    } else {
        positions->ids = arena_1d(constants, I32, rows);
        positions->host_ids = arena_mirror(work->host, positions->ids);
    }
    size_t mark = arena_mark(scratch);
    positions->rows = arena_2d(scratch, F32, N, D);
    positions->order = arena_1d(scratch, I32, N + count + 1);
    arena_release(scratch, mark);
}

static void learned_fill(Positions *positions, Work *work) {
    for (int64_t row = 0; row < tensor_elements(positions->host_ids); row++)
        tensor_i32(positions->host_ids)[row] = (int32_t)id_of_row(work, row);
    device_upload(work->dev, positions->ids, positions->host_ids);
}

static void learned_embed(Positions *positions, Work *work, Tensor x, int64_t first) {
    Tensor ids = tensor_range(positions->ids, first, work->shape.N);
    embedding_forward(work->dev, positions->rows, ids, work_value(work, positions->table));
    add(work->dev, x, x, positions->rows);
}

static void learned_embed_backward(Positions *positions, Work *work, Tensor dx) {
    embedding_backward(work->dev, work_gradient(work, positions->table), dx,
                       tensor_range(positions->ids, 0, work->shape.N), work->shape.dense_parts,
                       positions->order);
}

// ---- the rules ----------------------------------------------------------------------------------

const PositionRule POSITION_RULES[] = {
    [POSITIONS_ROPE] = {{"rope", "queries and keys turn by angles that grow with the position"},
                        .turns_pairs = true,
                        .layout = rope_layout,
                        .fill = rope_fill,
                        .rotate = rope_rotate},
    [POSITIONS_LEARNED] = {{"learned", "a vector for each position is added to the token's"},
                           .declare = learned_declare,
                           .layout = learned_layout,
                           .fill = learned_fill,
                           .embed = learned_embed,
                           .embed_backward = learned_embed_backward},
    [POSITIONS_NONE] = {{"none", "only what the causal order of attention tells (NoPE)"}},
};
const ChoiceTable POSITION_CHOICES = CHOICE_TABLE(POSITION_RULES);

static const PositionRule *rule_of(const Work *work) {
    return &POSITION_RULES[work->config->attention.positions];
}

void positions_declare(Positions *positions, Work *work) {
    if (rule_of(work)->declare) rule_of(work)->declare(positions, work);
}

void positions_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                      Arena *scratch) {
    if (rule_of(work)->layout) rule_of(work)->layout(positions, owner, work, constants, scratch);
}

void positions_fill(Positions *positions, Work *work) {
    if (rule_of(work)->fill) rule_of(work)->fill(positions, work);
}

void positions_embed(Positions *positions, Work *work, Tensor x, int64_t first) {
    if (rule_of(work)->embed) rule_of(work)->embed(positions, work, x, first);
}

void positions_embed_backward(Positions *positions, Work *work, Tensor dx) {
    if (rule_of(work)->embed_backward) rule_of(work)->embed_backward(positions, work, dx);
}

void positions_rotate(const Positions *positions, Work *work, Tensor qkv, int64_t first,
                      bool back) {
    if (rule_of(work)->rotate) rule_of(work)->rotate(positions, work, qkv, first, back);
}
