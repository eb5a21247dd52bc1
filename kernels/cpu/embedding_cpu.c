#include <string.h>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

void embedding_forward_cpu(Device *dev, Tensor out, Tensor tokens, Tensor weight) {
    int64_t N = out.shape[0], D = out.shape[1];
    float *to = tensor_f32(out);
    const float *from = tensor_f32(weight);
    const int32_t *id = tensor_i32(tokens);
#pragma omp parallel for schedule(static)
    for (int64_t n = 0; n < N; n++)
        memcpy(to + n * D, from + (int64_t)id[n] * D, (size_t)D * sizeof *to);
}

// The gradient rows of one token, in the order of the text.
typedef struct Occurrences {
    const float *dout;
    int64_t D, tokens_per_part;
} Occurrences;

// sum (D) = the binary tree over parts [first_part, first_part + parts) of the rows at[0..count).
// spare: D floats for each level of the tree below this one. Parts without occurrences are +0:
// skipped.
static void sum_parts(Occurrences o, float *sum, const int32_t *at, int64_t count,
                      int64_t first_part, int64_t parts, float *spare) {
    if (count == 0 || parts == 1) {
        memset(sum, 0, (size_t)o.D * sizeof *sum);
        for (int64_t i = 0; i < count; i++) {
            const float *row = o.dout + at[i] * o.D;
            for (int64_t d = 0; d < o.D; d++) sum[d] += row[d];
        }
        return;
    }
    int64_t middle = (first_part + parts / 2) * o.tokens_per_part, left = 0;
    while (left < count && at[left] < middle) left++;
    sum_parts(o, sum, at, left, first_part, parts / 2, spare + o.D);
    if (left == count) return;
    sum_parts(o, spare, at + left, count - left, first_part + parts / 2, parts / 2, spare + o.D);
    for (int64_t d = 0; d < o.D; d++) sum[d] += spare[d];
}

// A counting sort lists each token's occurrences; then every row of dweight is one thread's own.
void embedding_backward_cpu(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                            Tensor order) {
    int64_t N = dout.shape[0], D = dout.shape[1], V = dweight.shape[0];
    const int32_t *id = tensor_i32(tokens);
    int32_t *at = tensor_i32(order), *first = at + N; // first (V + 1): where token v's list starts
    memset(first, 0, (size_t)(V + 1) * sizeof *first);
    for (int64_t n = 0; n < N; n++) first[id[n]]++;
    int32_t total = 0;
    for (int64_t v = 0; v <= V; v++) first[v] = total += first[v]; // the ends, for now
    for (int64_t n = N - 1; n >= 0; n--) at[--first[id[n]]] = (int32_t)n;

    Occurrences o = {tensor_f32(dout), D, parts > 0 ? N / parts : 0};
    float *to = tensor_f32(dweight);
    int64_t levels = 1;
    while ((int64_t)1 << levels <= parts) levels++;
#pragma omp parallel
    {
        float *spare = thread_scratch((size_t)(levels * D) * sizeof *spare);
#pragma omp for schedule(dynamic, 8)
        for (int64_t v = 0; v < V; v++)
            sum_parts(o, to + v * D, at + first[v], first[v + 1] - first[v], 0, parts, spare);
    }
}
