#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/integers.h"

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

static int64_t bound_columns(int64_t k) {
    int64_t columns = LANES;
    while (columns < 2 * k) columns *= 2;
    return columns;
}

// Whether n keys are enough for lower_bound.
static bool has_bound(int64_t n, int64_t k) {
    return n >= 2 * bound_columns(k);
}

// Of n >= k scores, one that the k best are not below: of each of some interleaved columns the
// largest is one of them, and the k-th of those is it.
static float lower_bound(const float *scores, int64_t n, int64_t k) {
    int64_t columns = bound_columns(k);
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
    float least = has_bound(n, k) ? lower_bound(scores, n, k) : -INFINITY;
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

// ---- LANES queries side by side -----------------------------------------------------------------

// Of each the keys of one half, best first.
typedef struct BestOfLanes {
    Lanes score[MOST];
    int32_t key[MOST][LANES];
} BestOfLanes;

static void put_beside(BestOfLanes *to, int lane, const BestKeys *best, int64_t k) {
    for (int64_t i = 0; i < k; i++) {
        to->score[i][lane] = best->score[i];
        to->key[i][lane] = best->key[i];
    }
}

// All of at most MOST keys: where one comes is how many are before it.
static void order_few(BestOfLanes *best, const float *const *scores, int64_t n) {
    Lanes score[MOST];
    Counts before[MOST];
    for (int64_t j = 0; j < n; j++) {
        for (int lane = 0; lane < LANES; lane++) score[j][lane] = ordered(scores[lane][j]);
        before[j] = (Counts){0} + (int32_t)j;
    }
    for (int64_t i = 0; i < n; i++) {
        Lanes own = score[i];
        Counts count = before[i];
        for (int64_t j = i + 1; j < n; j++) {
            Counts is_before = score[j] > own; // -1 where it is
            count -= is_before;
            before[j] += is_before;
        }
        for (int lane = 0; lane < LANES; lane++) {
            best->score[count[lane]][lane] = own[lane];
            best->key[count[lane]][lane] = (int32_t)i;
        }
    }
}

// The best k keys.
static void find_best_of_lanes(BestOfLanes *best, const float *const *scores, int64_t n,
                               int64_t k) {
    if (n <= MOST && !has_bound(n, k)) {
        order_few(best, scores, n);
        return;
    }
    for (int lane = 0; lane < LANES; lane++) {
        BestKeys keys;
        find_best(&keys, scores[lane], n, k);
        put_beside(best, lane, &keys, k);
    }
}

// The best k pairs, ids [k][LANES], and their sums: of each first key the second ones are taken in
// their order, so that the next of all is the largest of those that come next of each.
static void find_pairs(int32_t (*ids)[LANES], Lanes *sums, const BestOfLanes *first,
                       const BestOfLanes *second, int64_t n, int64_t k) {
    Lanes sum_of_next[MOST];
    int32_t next[MOST][LANES] = {0};
    for (int64_t a = 0; a < k; a++) sum_of_next[a] = first->score[a] + second->score[0];
    int32_t open = 1; // of later ones nothing is taken yet, and they are smaller
    for (int64_t found = 0; found < k; found++) {
        Lanes largest = sum_of_next[0];
        Counts best = {0};
        for (int32_t a = 1; a < open; a++) {
            best += (sum_of_next[a] > largest) & (a - best);
            largest = lanes_max(sum_of_next[a], largest);
        }
        sums[found] = largest;
        int32_t last = 0;
        for (int lane = 0; lane < LANES; lane++) {
            int32_t a = best[lane], b = next[a][lane]++;
            ids[found][lane] = first->key[a][lane] * (int32_t)n + second->key[b][lane];
            if (b + 1 < k)
                sum_of_next[a][lane] = first->score[a][lane] + second->score[b + 1][lane];
            last = a > last ? a : last;
        }
        if (last + 1 == open && open < k) open++;
    }
}

// The softmax over sums that descend.
static void weigh(Lanes *weights, const Lanes *sums, int64_t k) {
    Lanes total = {0};
    for (int64_t i = 0; i < k; i++) total += weights[i] = lanes_exp(sums[i] - sums[0]);
    for (int64_t i = 0; i < k; i++) weights[i] /= total;
}

// Queries from the r-th on, at most LANES, and the last one again where they are fewer.
static void choose_beside(Tensor ids, Tensor weights, Tensor first, Tensor second, int64_t r) {
    int64_t k = ids.shape[1], n = first.shape[1], last = ids.shape[0] - 1;
    BestOfLanes best[2];
    for (int half = 0; half < 2; half++) {
        const float *scores[LANES];
        for (int lane = 0; lane < LANES; lane++)
            scores[lane] = tensor_f32(half ? second : first) + smaller(r + lane, last) * n;
        find_best_of_lanes(&best[half], scores, n, k);
    }
    int32_t pairs[MOST][LANES];
    Lanes sums[MOST], shares[MOST];
    find_pairs(pairs, sums, &best[0], &best[1], n, k);
    weigh(shares, sums, k);
    for (int lane = 0; lane < LANES && r + lane <= last; lane++) {
        int32_t *id = tensor_i32(ids) + (r + lane) * k;
        float *weight = tensor_f32(weights) + (r + lane) * k;
        for (int64_t i = 0; i < k; i++) {
            id[i] = pairs[i][lane];
            weight[i] = shares[i][lane];
        }
    }
}

void product_keys_forward_cpu(Device *dev, Tensor ids, Tensor weights, Tensor first,
                              Tensor second) {
    int64_t R = ids.shape[0];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r += LANES) choose_beside(ids, weights, first, second, r);
}

// ---- gradients ----------------------------------------------------------------------------------

void product_keys_backward_cpu(Device *dev, Tensor dsums, Tensor first_keys, Tensor second_keys,
                               Tensor dweights, Tensor ids, Tensor weights, int64_t n) {
    int64_t R = ids.shape[0], k = ids.shape[1];
    const float *w = tensor_f32(weights), *dw = tensor_f32(dweights);
    const int32_t *id = tensor_i32(ids);
    int32_t *first = tensor_i32(first_keys), *second = tensor_i32(second_keys);
    float *dsum = tensor_f32(dsums);
    double inverse = inverse_of(n);
#pragma omp parallel for schedule(static)
    for (int64_t from = 0; from < R * k; from += k) {
        float mean = 0;
        for (int64_t i = from; i < from + k; i++) mean += w[i] * dw[i];
#pragma omp simd
        for (int64_t i = from; i < from + k; i++) {
            dsum[i] = w[i] * (dw[i] - mean);
            first[i] = quotient(id[i], inverse);
            second[i] = id[i] - first[i] * (int32_t)n;
        }
    }
}

void spread_sums_cpu(Device *dev, Tensor dscores, Tensor dsums, Tensor keys) {
    int64_t R = dsums.shape[0], k = dsums.shape[1], n = dscores.shape[1];
    float *dscore = tensor_f32(dscores);
    const float *dsum = tensor_f32(dsums);
    const int32_t *key = tensor_i32(keys);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        float *to = dscore + r * n;
        memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t i = r * k; i < (r + 1) * k; i++) to[key[i]] += dsum[i];
    }
}
