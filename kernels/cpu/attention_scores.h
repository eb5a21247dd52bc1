// What happens to a block of scores beside the softmax: caps, slopes and dropout. All of it is off
// in most models, whose passes step over this file.
#ifndef MOETRAIN_KERNELS_CPU_ATTENTION_SCORES_H
#define MOETRAIN_KERNELS_CPU_ATTENTION_SCORES_H

#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/philox.h"

// Where a block of scores lies: keys [key, key + keys) and queries [query, query + queries) of a
// sequence, for one head.
typedef struct Square {
    int64_t head;
    int64_t token; // number of the sequence's first row, from the rule's first_token on
    int64_t key, keys, query, queries;
} Square;

static inline bool is_diagonal(AttentionRule rule, Square at) {
    return !rule.bidirectional && at.key == at.query;
}

// Hides what no query of the block sees.
static inline void hide_unseen(Rows scores, AttentionRule rule, Square at) {
    if (is_diagonal(rule, at)) mask(scores, at.keys);
    if (rule.bidirectional) mask_late(scores, rule, at.key, at.keys, at.query, at.queries);
    mask_early(scores, rule, at.key, at.keys, at.query, at.queries);
}

static inline bool scores_are_shaped(AttentionRule rule) {
    return rule.softcap > 0.0f || rule.slopes.data;
}

// One score; its place is `distance` keys before the query. *slope: the derivative of the cap.
static inline float shaped_score(float score, float softcap, float slope, float distance) {
    if (softcap > 0.0f) score = softcap * tanh_f32(score / softcap);
    return score - slope * distance;
}
static inline float slope_of_head(AttentionRule rule, int64_t head) {
    return rule.slopes.data ? tensor_f32(rule.slopes)[head] : 0.0f;
}

// Caps the scores and takes slopes off them; `derivatives`, of the cap, may have no data. Scores of
// hidden keys become finite.
static inline void shape_scores(Rows scores, Rows derivatives, AttentionRule rule, Square at) {
    Lanes cap = lanes_set(rule.softcap), step;
    float slope = slope_of_head(rule, at.head);
    for (int i = 0; i < LANES; i++) step[i] = (float)i;
    for (int64_t j = 0; j < at.keys; j++)
        for (int64_t i = 0; i < at.queries; i += LANES) {
            float *score = scores.data + j * scores.width + i;
            Lanes x = lanes_load(score);
            if (rule.softcap > 0.0f) {
                Lanes t = lanes_tanh(x / cap);
                x = cap * t;
                if (derivatives.data)
                    lanes_store(derivatives.data + j * derivatives.width + i, 1.0f - t * t);
            }
            Lanes distance = lanes_set((float)(at.query + i - at.key - j)) + step;
            lanes_store(score, x - slope * lanes_max(distance, -distance));
        }
}

// What dropout multiplies each probability of a block by.
static inline void draw_dropout(Rows factors, AttentionRule rule, Square at) {
    AttentionDropout dropout = rule.dropout;
    uint32_t below = attention_drop_below(dropout.rate);
    float kept = attention_kept_factor(dropout.rate);
    uint64_t pieces = (uint64_t)(rule.T + 7) / 8;
    for (int64_t i = 0; i < at.queries; i += PHILOX_LANES) // BLOCK is a multiple of it
        for (int64_t j = 0; j < at.keys; j += 8) {
            uint64_t index[PHILOX_LANES];
            uint32_t words[4][PHILOX_LANES];
            uint64_t row = (uint64_t)(dropout.first_token + at.token + at.query + i);
            uint64_t step = (uint64_t)rule.shape.heads * pieces;
            uint64_t first = row * step + (uint64_t)at.head * pieces + (uint64_t)(at.key + j) / 8;
            for (int k = 0; k < PHILOX_LANES; k++) index[k] = first + (uint64_t)k * step;
            philox_lanes(words, dropout.stream, index);
            for (int k = 0; k < 8; k++) {
                float *to = factors.data + (j + k) * factors.width + i;
                const uint32_t *word = words[k / 2];
                int shift = k % 2 * 16;
                for (int lane = 0; lane < PHILOX_LANES; lane++)
                    to[lane] = (word[lane] >> shift & 0xffffu) < below ? 0.0f : kept;
            }
        }
}

// x *= factors
static inline void multiply_elements(Rows x, Rows factors, Square at) {
    for (int64_t j = 0; j < at.keys; j++)
        for (int64_t i = 0; i < at.queries; i++)
            x.data[j * x.width + i] *= factors.data[j * factors.width + i];
}

#endif
