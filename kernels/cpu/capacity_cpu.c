#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

// One routing group: its `tokens` rows of K choices.
typedef struct Group {
    const int32_t *ids;
    const float *weights;
    uint8_t *kept;
    int32_t *tokens_per_expert, *dropped; // (E)
    int64_t tokens, K, E, capacity;
} Group;

// Whoever comes first: the counters are the queue.
static void keep_first(Group g) {
    for (int64_t k = 0; k < g.K; k++)
        for (int64_t c = k; c < g.tokens * g.K; c += g.K) {
            int32_t e = g.ids[c];
            g.kept[c] = g.tokens_per_expert[e]++ < g.capacity;
            g.dropped[e] += !g.kept[c];
        }
}

// Moves the `wanted` smallest keys to the front, in no order (Hoare's selection); keys are
// distinct.
static void select_smallest(uint64_t *key, int64_t count, int64_t wanted) {
    int64_t low = 0, high = count - 1;
    while (low < high) {
        uint64_t pivot = key[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (key[i] < pivot) i++;
            while (key[j] > pivot) j--;
            if (i > j) break;
            uint64_t swapped = key[i];
            key[i++] = key[j];
            key[j--] = swapped;
        }
        if (wanted <= j) {
            high = j;
        } else if (wanted >= i) {
            low = i;
        } else {
            return;
        }
    }
}

// Sort key of a choice, smallest kept first; the choice's own number in the low half breaks ties
// downwards. Gate weights are not negative, so their bits order as they do.
static uint64_t drop_key(CapacityRule rule, float weight, uint64_t global_choice, uint32_t choice) {
    uint32_t high = 0;
    switch (rule.policy) {
    case DROP_POSITION: // keep_first, without keys
        break;
    case DROP_PROBABILITY:
        memcpy(&high, &weight, sizeof high);
        high = ~high;
        break;
    case DROP_RANDOM:
        high = rng_u32(rule.stream, global_choice);
        break;
    }
    return (uint64_t)high << 32 | choice;
}

// Lists each expert's choices, then keeps the best of every list that is too long.
static void keep_best(Group g, CapacityRule rule, uint64_t first_choice, int32_t *order) {
    int64_t choices = g.tokens * g.K;
    uint64_t *key = thread_scratch((size_t)choices * sizeof *key + (size_t)g.E * sizeof(int32_t));
    int32_t *end = (int32_t *)(key + choices); // (E): one past an expert's list in `order`
    for (int64_t c = 0; c < choices; c++) {
        g.kept[c] = 1;
        g.tokens_per_expert[g.ids[c]]++;
    }
    int32_t listed = 0;
    for (int64_t e = 0; e < g.E; e++) {
        end[e] = listed;
        listed += g.tokens_per_expert[e];
    }
    for (int64_t c = 0; c < choices; c++) order[end[g.ids[c]]++] = (int32_t)c;
    for (int64_t e = 0; e < g.E; e++) {
        int64_t count = g.tokens_per_expert[e];
        if (count <= g.capacity) continue;
        const int32_t *list = order + end[e] - count;
        for (int64_t i = 0; i < count; i++)
            key[i] = drop_key(rule, g.weights[list[i]], first_choice + (uint64_t)list[i],
                              (uint32_t)list[i]);
        select_smallest(key, count, g.capacity);
        for (int64_t i = g.capacity; i < count; i++) g.kept[(uint32_t)key[i]] = 0;
        g.dropped[e] = (int32_t)(count - g.capacity);
    }
}

static void keep_of(Group g, CapacityRule rule, uint64_t first_choice, int32_t *order) {
    switch (rule.policy) {
    case DROP_POSITION:
        keep_first(g);
        break;
    case DROP_PROBABILITY:
    case DROP_RANDOM:
        keep_best(g, rule, first_choice, order);
        break;
    }
}

void capacity_assign_cpu(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped,
                         Tensor ids, Tensor weights, CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], groups = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1];
    int64_t tokens = N / groups, choices = tokens * K;
    const int32_t *id = tensor_i32(ids);
    const float *weight = tensor_f32(weights);
    uint8_t *keep = tensor_u8(kept);
    int32_t *in = tensor_i32(tokens_per_expert), *out = tensor_i32(dropped),
            *list = tensor_i32(order);
    memset(in, 0, tensor_bytes(tokens_per_expert));
    memset(out, 0, tensor_bytes(dropped));
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < groups; i++) {
        Group g = {id + i * choices,
                   weight + i * choices,
                   keep + i * choices,
                   in + i * E,
                   out + i * E,
                   tokens,
                   K,
                   E,
                   rule.capacity < 0 ? choices : rule.capacity};
        keep_of(g, rule, (uint64_t)((rule.first_token + i * tokens) * K), list + i * choices);
    }
}

void capacity_assign_documents_cpu(Device *dev, Tensor kept, Tensor tokens_per_expert,
                                   Tensor dropped, Tensor ids, Tensor weights, Tensor positions,
                                   Tensor capacities, CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], sequences = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1], T = N / sequences;
    const int32_t *position = tensor_i32(positions), *capacity = tensor_i32(capacities);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < sequences; i++) {
        for (int64_t first = i * T, end; first < (i + 1) * T; first = end) {
            for (end = first + 1; end < (i + 1) * T && position[end] > 0;) end++;
            Group g = {tensor_i32(ids) + first * K,
                       tensor_f32(weights) + first * K,
                       tensor_u8(kept) + first * K,
                       tensor_i32(tokens_per_expert) + i * E,
                       tensor_i32(dropped) + i * E,
                       end - first,
                       K,
                       E,
                       capacity[end - first]};
            memset(g.tokens_per_expert, 0, (size_t)E * sizeof(int32_t));
            memset(g.dropped, 0, (size_t)E * sizeof(int32_t));
            keep_of(g, rule, (uint64_t)((rule.first_token + first) * K),
                    tensor_i32(order) + first * K);
        }
    }
}

void expert_load_cpu(Device *dev, RouterSums sums, Tensor ids, Tensor weights, Tensor kept,
                     bool kept_alone) {
    Tensor tokens_per_expert = sums.tokens_per_expert, dropped = sums.dropped,
           weight_mass = sums.weight_mass;
    int64_t parts = tokens_per_expert.shape[0], E = tokens_per_expert.shape[1];
    int64_t choices = ids.shape[0] / parts * ids.shape[1];
    memset(tokens_per_expert.data, 0, tensor_bytes(tokens_per_expert));
    memset(dropped.data, 0, tensor_bytes(dropped));
    memset(weight_mass.data, 0, tensor_bytes(weight_mass));
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        const int32_t *id = tensor_i32(ids) + p * choices;
        const float *weight = tensor_f32(weights) + p * choices;
        const uint8_t *keep = tensor_u8(kept) + p * choices;
        int32_t *in = tensor_i32(tokens_per_expert) + p * E, *out = tensor_i32(dropped) + p * E;
        double *mass = tensor_f64(weight_mass) + p * E;
        for (int64_t c = 0; c < choices; c++) {
            in[id[c]] += keep[c] || !kept_alone;
            out[id[c]] += !keep[c] && !kept_alone;
            if (keep[c]) mass[id[c]] += (double)weight[c];
        }
    }
}
