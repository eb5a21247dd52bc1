#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

enum { MOST = PRODUCT_KEYS_TOP_K, RUN = 2 * LANES, CANDIDATES = 4 * MOST };

typedef int32_t Counts __attribute__((vector_size(4 * LANES)));

// Keys of one half with the largest scores, best first; of equal scores the lower number first.
typedef struct BestKeys {
    float score[CANDIDATES]; // of which the first k count
    int32_t key[CANDIDATES];
} BestKeys;

// Keys that may be among those, in the order of their numbers, or the best found so far and behind
// them later ones.
typedef struct Candidates {
    int64_t count;
    float score[CANDIDATES];
    int32_t key[CANDIDATES];
} Candidates;

// A score that is not a number is the smallest.
static inline float ordered(float score) {
    return score == score ? score : -INFINITY;
}

// How many candidates are before each of the LANES from `first` on, of which `number` are the
// numbers and those behind `last` are none.
static inline Counts count_before(const Candidates *c, int64_t first, int64_t behind,
                                  Counts number) {
    Lanes own = lanes_load(c->score + first);
    Counts before = {0};
    for (int64_t j = 0; j < first; j++) before -= lanes_set(c->score[j]) >= own;
    for (int64_t j = first; j < behind; j++) {
        Lanes other = lanes_set(c->score[j]);
        before -= (other > own) | ((other == own) & (number > (int32_t)j));
    }
    for (int64_t j = behind; j < c->count; j++) before -= lanes_set(c->score[j]) > own;
    return before;
}

// Puts the candidates in order: where one comes is how many are before it, counted for LANES of
// them at once.
static void take_best(BestKeys *best, Candidates *c) {
    Counts number;
    for (int i = 0; i < LANES; i++) number[i] = i;
    for (int64_t i = c->count; i % LANES != 0; i++) c->score[i] = -INFINITY;
    for (int64_t first = 0; first < c->count; first += LANES, number += LANES) {
        int64_t behind = first + LANES < c->count ? first + LANES : c->count;
        int32_t at[LANES];
        const Counts before = count_before(c, first, behind, number);
        memcpy(at, &before, sizeof at);
        for (int64_t i = first; i < behind; i++) {
            best->score[at[i - first]] = c->score[i];
            best->key[at[i - first]] = c->key[i];
        }
    }
}

// Of n >= k scores, one that the k best are not below: of each of some interleaved columns the
// largest is one of them, and the k-th of those is it.
static float lower_bound(const float *scores, int64_t n, int64_t k) {
    int64_t columns = LANES;
    while (columns < 2 * k) columns *= 2;
    if (n < 2 * columns) return -INFINITY;
    Candidates most;
    BestKeys best;
    most.count = columns;
    for (int64_t c = 0; c < columns; c += LANES) {
        Lanes largest = lanes_set(-INFINITY);
        for (int64_t i = c; i + LANES <= n; i += columns)
            largest = lanes_max(lanes_load(scores + i), largest);
        lanes_store(most.score + c, largest);
    }
    take_best(&best, &most);
    return best.score[k - 1];
}

// Which of LANES numbers are not below a bound, a bit each.
static inline uint32_t not_below(const float *x, float least) {
    Lanes here = lanes_load(x), bound = lanes_set(least);
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)here, (__m512)bound, _CMP_GE_OQ);
#elif defined(__AVX2__) && defined(__FMA__)
    return (uint32_t)_mm256_movemask_ps((__m256)(here >= bound));
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(here[i] >= bound[i]) << i;
    return bits;
#endif
}

// Keys [first, end), at most RUN, of which those not below `least` are taken.
static inline void add_run(Candidates *c, const float *scores, int64_t first, int64_t end,
                           float least) {
    for (int64_t j = first; j < end; j++) {
        float score = ordered(scores[j]);
        c->score[c->count] = score;
        c->key[c->count] = (int32_t)j;
        c->count += score >= least;
    }
}

// Where there is a bound, of a run of keys only those are looked at that may be among the k.
static void find_best(BestKeys *best, const float *scores, int64_t n, int64_t k) {
    float least = lower_bound(scores, n, k);
    Candidates c;
    c.count = 0;
    for (int64_t i = 0; i < n; i += RUN) {
        bool bounded = least > -INFINITY && i + RUN <= n;
        uint32_t bits = 0;
        if (bounded) {
            bits = not_below(scores + i, least) | not_below(scores + i + LANES, least) << LANES;
            if (bits == 0) continue;
        }
        if (c.count > CANDIDATES - RUN) {
            take_best(best, &c);
            c.count = k;
            memcpy(c.score, best->score, (size_t)k * sizeof *c.score);
            memcpy(c.key, best->key, (size_t)k * sizeof *c.key);
            least = best->score[k - 1];
        }
        if (!bounded) add_run(&c, scores, i, i + RUN < n ? i + RUN : n, least);
        for (; bits; bits &= bits - 1, c.count++) {
            int64_t j = i + __builtin_ctz(bits);
            c.score[c.count] = scores[j];
            c.key[c.count] = (int32_t)j;
        }
    }
    take_best(best, &c);
}

// The best k pairs: of each first key the second ones are taken in their order, so that the next of
// all is the largest of those that come next of each.
static void find_pairs(int32_t *ids, float *sums, const BestKeys *first, const BestKeys *second,
                       int64_t n, int64_t k) {
    int32_t next[MOST] = {0};
    float sum_of_next[MOST];
    for (int64_t a = 0; a < k; a++) sum_of_next[a] = first->score[a] + second->score[0];
    for (int64_t found = 0; found < k; found++) {
        int64_t best = -1;
        for (int64_t a = 0; a < k; a++) {
            if (next[a] == k) continue;
            if (best < 0 || sum_of_next[a] > sum_of_next[best]) best = a;
            if (next[a] == 0) break; // of later ones nothing is taken yet, and they are smaller
        }
        ids[found] = (int32_t)(first->key[best] * n + second->key[next[best]]);
        sums[found] = sum_of_next[best];
        if (++next[best] < k) sum_of_next[best] = first->score[best] + second->score[next[best]];
    }
}

// The softmax over sums that descend.
static void weigh(float *weights, const float *sums, int64_t k) {
    float total = 0;
    for (int64_t i = 0; i < k; i++) total += weights[i] = expf(sums[i] - sums[0]);
    for (int64_t i = 0; i < k; i++) weights[i] /= total;
}

void product_keys_forward_cpu(Device *dev, Tensor ids, Tensor weights, Tensor first,
                              Tensor second) {
    int64_t R = ids.shape[0], k = ids.shape[1], n = first.shape[1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        BestKeys best[2];
        float sums[MOST];
        find_best(&best[0], tensor_f32(first) + r * n, n, k);
        find_best(&best[1], tensor_f32(second) + r * n, n, k);
        find_pairs(tensor_i32(ids) + r * k, sums, &best[0], &best[1], n, k);
        weigh(tensor_f32(weights) + r * k, sums, k);
    }
}

void product_keys_backward_cpu(Device *dev, Tensor dsums, Tensor first_keys, Tensor second_keys,
                               Tensor dweights, Tensor ids, Tensor weights, int64_t n) {
    int64_t R = ids.shape[0], k = ids.shape[1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        float *dsum = tensor_f32(dsums) + r * k;
        const float *w = tensor_f32(weights) + r * k, *dw = tensor_f32(dweights) + r * k;
        const int32_t *id = tensor_i32(ids) + r * k;
        int32_t *first = tensor_i32(first_keys) + r * k, *second = tensor_i32(second_keys) + r * k;
        float mean = 0;
        for (int64_t i = 0; i < k; i++) mean += w[i] * dw[i];
        for (int64_t i = 0; i < k; i++) {
            dsum[i] = w[i] * (dw[i] - mean);
            first[i] = id[i] / (int32_t)n;
            second[i] = id[i] % (int32_t)n;
        }
    }
}

void spread_sums_cpu(Device *dev, Tensor dscores, Tensor dsums, Tensor keys) {
    int64_t R = dsums.shape[0], k = dsums.shape[1], n = dscores.shape[1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        float *to = tensor_f32(dscores) + r * n;
        const float *dsum = tensor_f32(dsums) + r * k;
        const int32_t *key = tensor_i32(keys) + r * k;
        memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t i = 0; i < k; i++) to[key[i]] += dsum[i];
    }
}
