#include "model/positions.h"

#include <math.h>

#include "model/dense_gradient.h"
#include "model/initialization.h"
#include "model/rope.h"

// ---- rope: queries and keys are turned by angles (arXiv:2104.09864) -----------------------------

static void rope_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                        Arena *scratch) {
    (void)scratch;
    if (owner) {
        positions->cosines = owner->cosines;
        positions->sines = owner->sines;
        return;
    }
    const AttentionConfig *config = &work->config->attention;
    int64_t pairs = attention_d_rope(config) / 2;
    positions->cosines = arena_2d(constants, F32, positions->count, pairs);
    positions->sines = arena_2d(constants, F32, positions->count, pairs);
    positions->host_cosines = arena_mirror(work->host, positions->cosines);
    positions->host_sines = arena_mirror(work->host, positions->sines);
}

static void rope_fill(Positions *positions, Work *work) {
    const AttentionConfig *config = &work->config->attention;
    int64_t count = positions->cosines.shape[0], pairs = positions->cosines.shape[1];
    double length = rope_length(&config->rope);
    float *cosines = tensor_f32(positions->host_cosines);
    float *sines = tensor_f32(positions->host_sines);
    for (int64_t i = 0; i < pairs; i++) {
        double frequency = rope_frequency(&config->rope, config->rope_theta, i, pairs);
        for (int64_t t = 0; t < count; t++) {
            cosines[t * pairs + i] = (float)(length * cos((double)t * frequency));
            sines[t * pairs + i] = (float)(length * sin((double)t * frequency));
        }
    }
    device_upload(work->dev, positions->cosines, positions->host_cosines);
    device_upload(work->dev, positions->sines, positions->host_sines);
}

static void rope_rotate(const Positions *positions, Work *work, Tensor qkv, int64_t first,
                        bool back) {
    RowPositions at = {work->shape.T, first, work->step.positions};
    rope(work->dev, qkv, work->config->attention.shape, positions->cosines, positions->sines, at,
         back);
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

static Tensor learned_ids(const Positions *positions, const Work *work, int64_t first) {
    if (work->step.positions.data) return work->step.positions;
    return tensor_range(positions->ids, first, work->shape.N);
}

static void learned_embed(Positions *positions, Work *work, Tensor x, int64_t first) {
    embedding_forward(work->dev, positions->rows, learned_ids(positions, work, first),
                      work_value(work, positions->table));
    add(work->dev, x, x, positions->rows);
}

static void learned_embed_backward(Positions *positions, Work *work, Tensor dx) {
    lookup_gradient(work, positions->table, OWN_GRADIENT, dx, learned_ids(positions, work, 0),
                    positions->order);
}

// ---- alibi: scores lose by distance (arXiv:2108.12409) ------------------------------------------

static void alibi_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                         Arena *scratch) {
    (void)scratch;
    if (owner) {
        positions->slopes = owner->slopes;
        return;
    }
    positions->slopes = arena_1d(constants, F32, work->config->attention.shape.heads);
    positions->host_slopes = arena_mirror(work->host, positions->slopes);
}

// Of H heads, a power of two, those of a geometric sequence that begins with its ratio, 2^(-8 / H);
// of other numbers those of the power below, then every second one of the power above.
double alibi_slope(int64_t head, int64_t heads) {
    int64_t power = 1;
    while (2 * power <= heads) power *= 2;
    if (head < power) return pow(2, -8.0 * (double)(head + 1) / (double)power);
    return pow(2, -8.0 * (double)(2 * (head - power) + 1) / (double)(2 * power));
}

static void alibi_fill(Positions *positions, Work *work) {
    int64_t heads = work->config->attention.shape.heads;
    for (int64_t h = 0; h < heads; h++)
        tensor_f32(positions->host_slopes)[h] = (float)alibi_slope(h, heads);
    device_upload(work->dev, positions->slopes, positions->host_slopes);
}

// ---- the rules ----------------------------------------------------------------------------------

const PositionRule POSITION_RULES[] = {
    [POSITIONS_ROPE] =
        {{"rope",
          "queries and keys turn by angles that grow with the position (RoPE, arXiv:2104.09864)"},
         .layout = rope_layout,
         .fill = rope_fill,
         .rotate = rope_rotate},
    [POSITIONS_LEARNED] = {{"learned",
                            "a vector for each position is added to the token's (GPT-2)"},
                           .of_model = true,
                           .declare = learned_declare,
                           .layout = learned_layout,
                           .fill = learned_fill,
                           .embed = learned_embed,
                           .embed_backward = learned_embed_backward},
    [POSITIONS_NONE] = {{"none",
                         "only what the causal order of attention tells (NoPE, arXiv:2305.19466)"}},
    [POSITIONS_ALIBI] = {{"alibi",
                          "scores lose by distance, each head at its slope (arXiv:2108.12409)"},
                         .layout = alibi_layout,
                         .fill = alibi_fill},
};
const ChoiceTable POSITION_CHOICES = CHOICE_TABLE(POSITION_RULES);

bool positions_include(const ModelConfig *config, PositionKind kind) {
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (model_positions(config, layer) == kind) return true;
    return false;
}

// Rule `kind` where some layer of the model has it, or else one that does nothing.
static const PositionRule *rule_at(const Work *work, int kind) {
    return &POSITION_RULES[positions_include(work->config, (PositionKind)kind) ? kind
                                                                               : POSITIONS_NONE];
}

void positions_declare(Positions *positions, Work *work) {
    for (int kind = 0; kind < POSITION_CHOICES.count; kind++)
        if (rule_at(work, kind)->declare) rule_at(work, kind)->declare(positions, work);
}

void positions_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                      Arena *scratch) {
    for (int kind = 0; kind < POSITION_CHOICES.count; kind++)
        if (rule_at(work, kind)->layout)
            rule_at(work, kind)->layout(positions, owner, work, constants, scratch);
}

void positions_fill(Positions *positions, Work *work) {
    for (int kind = 0; kind < POSITION_CHOICES.count; kind++)
        if (rule_at(work, kind)->fill) rule_at(work, kind)->fill(positions, work);
}

void positions_embed(Positions *positions, Work *work, Tensor x, int64_t first) {
    for (int kind = 0; kind < POSITION_CHOICES.count; kind++)
        if (rule_at(work, kind)->embed) rule_at(work, kind)->embed(positions, work, x, first);
}

void positions_embed_backward(Positions *positions, Work *work, Tensor dx) {
    for (int kind = 0; kind < POSITION_CHOICES.count; kind++)
        if (rule_at(work, kind)->embed_backward)
            rule_at(work, kind)->embed_backward(positions, work, dx);
}

void positions_rotate(const Positions *positions, PositionKind kind, Work *work, Tensor qkv,
                      int64_t first, bool back) {
    const PositionRule *rule = &POSITION_RULES[kind];
    if (rule->rotate) rule->rotate(positions, work, qkv, first, back);
}
