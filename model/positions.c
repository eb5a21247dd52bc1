#include "model/positions.h"

#include <math.h>

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

// ---- the rules ----------------------------------------------------------------------------------

const PositionRule POSITION_RULES[] = {
    [POSITIONS_ROPE] = {{"rope", "queries and keys turn by angles that grow with the position"},
                        .turns_pairs = true,
                        .layout = rope_layout,
                        .fill = rope_fill,
                        .rotate = rope_rotate},
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
