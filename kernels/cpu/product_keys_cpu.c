#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/vector_math.h"

// Keys of one half with the largest scores, best first; of equal scores the lower number first.
typedef struct BestKeys {
    float score[PRODUCT_KEYS_TOP_K];
    int32_t key[PRODUCT_KEYS_TOP_K];
} BestKeys;

// A score that is not a number is the smallest.
static inline float ordered(float score) {
    return score == score ? score : -INFINITY;
}

// Puts a key in its place among the `count` found; the last of k falls out.
static void insert_key(BestKeys *best, int64_t count, int64_t k, float score, int64_t key) {
    int64_t at = count < k ? count : k - 1;
    for (; at > 0 && best->score[at - 1] < score; at--) {
        best->score[at] = best->score[at - 1];
        best->key[at] = best->key[at - 1];
    }
    best->score[at] = score;
    best->key[at] = (int32_t)key;
}

// Of n >= k scores, one that the k best are not below: of each of COLUMNS interleaved columns the
// largest is one of them, and the k-th of those is it.
static float lower_bound(const float *scores, int64_t n, int64_t k) {
    enum { COLUMNS = PRODUCT_KEYS_TOP_K };
    if (n < 2 * COLUMNS) return -INFINITY;
    float most[COLUMNS];
    BestKeys best;
    for (int c = 0; c < COLUMNS; c++) most[c] = -INFINITY;
    for (int64_t i = 0; i + COLUMNS <= n; i += COLUMNS)
        for (int c = 0; c < COLUMNS; c++)
            most[c] = scores[i + c] > most[c] ? scores[i + c] : most[c];
    for (int64_t c = 0; c < k; c++) insert_key(&best, c, k, most[c], c);
    for (int64_t c = k; c < COLUMNS; c++)
        if (most[c] > best.score[k - 1]) insert_key(&best, k, k, most[c], c);
    return best.score[k - 1];
}

// A run of keys is looked at one by one only where one of them may be among the k.
static void find_best(BestKeys *best, const float *scores, int64_t n, int64_t k) {
    enum { RUN = 16 };
    float least = lower_bound(scores, n, k);
    int64_t count = 0;
    for (int64_t i = 0; i < n; i += RUN) {
        int64_t end = i + RUN < n ? i + RUN : n;
        int any = least == -INFINITY;
        for (int64_t j = i; j < end; j++) any |= scores[j] >= least;
        for (int64_t j = i; any && j < end; j++) {
            float score = ordered(scores[j]);
            if (score < least || (count == k && score <= best->score[k - 1])) continue;
            insert_key(best, count, k, score, j);
            if (count < k) count++;
        }
        if (count == k && best->score[k - 1] > least) least = best->score[k - 1];
    }
}

// The best k pairs: of each first key the second ones are taken in their order, so that the next of
// all is the largest of those that come next of each.
static void find_pairs(int32_t *ids, float *sums, const BestKeys *first, const BestKeys *second,
                       int64_t n, int64_t k) {
    int32_t next[PRODUCT_KEYS_TOP_K] = {0};
    float sum_of_next[PRODUCT_KEYS_TOP_K];
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
        float sums[PRODUCT_KEYS_TOP_K];
        find_best(&best[0], tensor_f32(first) + r * n, n, k);
        find_best(&best[1], tensor_f32(second) + r * n, n, k);
        find_pairs(tensor_i32(ids) + r * k, sums, &best[0], &best[1], n, k);
        weigh(tensor_f32(weights) + r * k, sums, k);
    }
}

void product_keys_backward_cpu(Device *dev, Tensor dfirst, Tensor dsecond, Tensor dweights,
                               Tensor ids, Tensor weights) {
    int64_t R = ids.shape[0], k = ids.shape[1], n = dfirst.shape[1];
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < R; r++) {
        float *da = tensor_f32(dfirst) + r * n, *db = tensor_f32(dsecond) + r * n;
        const float *w = tensor_f32(weights) + r * k, *dw = tensor_f32(dweights) + r * k;
        const int32_t *id = tensor_i32(ids) + r * k;
        float mean = 0;
        memset(da, 0, (size_t)n * sizeof *da);
        memset(db, 0, (size_t)n * sizeof *db);
        for (int64_t i = 0; i < k; i++) mean += w[i] * dw[i];
        for (int64_t i = 0; i < k; i++) {
            float dsum = w[i] * (dw[i] - mean);
            da[id[i] / n] += dsum;
            db[id[i] % n] += dsum;
        }
    }
}
