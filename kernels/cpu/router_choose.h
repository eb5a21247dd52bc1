// Which experts a token's scores choose on the CPU.
#ifndef MOETRAIN_KERNELS_CPU_ROUTER_CHOOSE_H
#define MOETRAIN_KERNELS_CPU_ROUTER_CHOOSE_H

#include "kernels/cpu/router_scores.h"

enum { BLOCK = 256, MOST_CHOICES = 1025 }; // attention.top_k and one more

// How a token's scores become its probabilities: exp(log score - shift) · scale.
typedef struct Normaliser {
    float shift, scale;
} Normaliser;

// What a token's experts are chosen by: their logits, also with a bias of these, or their scores
// plus a bias. Each is compiled by itself, since logits alone are chosen among in a third of the
// time.
typedef enum KeyKind { KEY_LOGIT, KEY_BIASED_LOGIT, KEY_SCORE } KeyKind;
typedef struct Keys {
    KeyKind kind;
    RouterScore score;
    const float *z, *bias; // (E); bias NULL: none
    Normaliser by;
    int64_t group_size;      // 0: every expert may be chosen
    uint32_t allowed_groups; // otherwise those of these groups: a bit each
} Keys;

static inline const float *keys_from(const Keys *k, KeyKind kind, float *room, int64_t first,
                                     int64_t count) {
    if (kind == KEY_LOGIT) return k->z + first;
    if (kind == KEY_BIASED_LOGIT) {
        for (int64_t i = 0; i < count; i++) room[i] = k->z[first + i] + k->bias[first + i];
        return room;
    }
    const float *log_of = log_scores(k->score, room, k->z + first, count);
    if (k->score == SCORE_EXP) { // P
        for (int64_t i = 0; i < count; i++)
            room[i] = exp_f32(log_of[i] - k->by.shift) * k->by.scale;
    } else {
        for (int64_t i = 0; i < count; i++) room[i] = exp_f32(log_of[i]);
    }
    for (int64_t i = 0; i < count && k->bias; i++) room[i] += k->bias[first + i];
    return room;
}

// The K largest keys, best first; equal ones in ascending order. Valid ids even for NaN.
static inline __attribute__((always_inline)) void
choose_by(int32_t *ids, const Keys *keys, KeyKind kind, bool grouped, int64_t E, int64_t K) {
    int64_t found = 0;
    float room[BLOCK], best[MOST_CHOICES]; // best: the keys of those found
    CHECK(K <= MOST_CHOICES, "%lld choices of a token", (long long)K);
    for (int64_t first = 0; first < E; first += BLOCK) {
        int64_t count = E - first < BLOCK ? E - first : BLOCK;
        const float *key = keys_from(keys, kind, room, first, count);
        for (int64_t i = 0; i < count; i++) {
            if (found == K && !(key[i] > best[K - 1])) continue;
            if (grouped && !(keys->allowed_groups >> ((first + i) / keys->group_size) & 1u))
                continue;
            int64_t at = found < K ? found++ : K - 1;
            for (; at > 0 && key[i] > best[at - 1]; at--) {
                ids[at] = ids[at - 1];
                best[at] = best[at - 1];
            }
            ids[at] = (int32_t)(first + i);
            best[at] = key[i];
        }
    }
}

// The sum of the `most` largest keys of a group.
static inline float group_score(const Keys *keys, int64_t group, int64_t most) {
    enum { MOST = 64 };
    int64_t found = 0, end = (group + 1) * keys->group_size;
    float room[BLOCK], best[MOST], sum = 0.0f;
    CHECK(most <= MOST, "%lld choices of a group", (long long)most);
    for (int64_t first = group * keys->group_size; first < end; first += BLOCK) {
        int64_t count = end - first < BLOCK ? end - first : BLOCK;
        const float *key = keys_from(keys, KEY_SCORE, room, first, count);
        for (int64_t i = 0; i < count; i++) {
            if (found == most && !(key[i] > best[most - 1])) continue;
            int64_t at = found < most ? found++ : most - 1;
            for (; at > 0 && key[i] > best[at - 1]; at--) best[at] = best[at - 1];
            best[at] = key[i];
        }
    }
    for (int64_t i = 0; i < most; i++) sum += best[i];
    return sum;
}

// A bit for each of the best groups, ties to the lower one.
static inline uint32_t best_groups(const Keys *keys, RouterRule rule, int64_t K) {
    float score[ROUTER_GROUPS_MAX];
    uint32_t allowed = 0;
    int64_t most = router_group_choices(rule, keys->group_size, K);
    for (int64_t g = 0; g < rule.groups; g++) score[g] = group_score(keys, g, most);
    for (int64_t i = 0; i < rule.top_groups; i++) {
        int64_t best = -1;
        for (int64_t g = 0; g < rule.groups; g++)
            if (!(allowed >> g & 1u) && (best < 0 || score[g] > score[best])) best = g;
        allowed |= 1u << best;
    }
    return allowed;
}

static inline void choose(int32_t *ids, Keys *keys, RouterRule rule, int64_t E, int64_t K) {
    switch (keys->kind) {
    case KEY_LOGIT:
        choose_by(ids, keys, KEY_LOGIT, false, E, K);
        return;
    case KEY_BIASED_LOGIT:
        choose_by(ids, keys, KEY_BIASED_LOGIT, false, E, K);
        return;
    case KEY_SCORE:
        break;
    }
    if (rule.groups <= 1) {
        choose_by(ids, keys, KEY_SCORE, false, E, K);
        return;
    }
    keys->group_size = E / rule.groups;
    keys->allowed_groups = best_groups(keys, rule, K);
    choose_by(ids, keys, KEY_SCORE, true, E, K);
}

#endif
