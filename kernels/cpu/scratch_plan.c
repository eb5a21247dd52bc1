#include "kernels/cpu/scratch_plan.h"

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/scratch.h"

size_t thread_scratch_most(ScratchShape s) {
    int64_t levels = 1; // of the tree of sums
    while ((int64_t)1 << levels <= s.parts) levels++;
    const int64_t bytes[] = {
        attention_scratch_floats(s.attention, s.T) * 4,
        matmul_scratch_floats(s.parts, s.storage) * 4,
        levels * s.D * 4, // embedding_backward
        s.K > 0 ? named_rows_scratch_bytes(s.K, s.D, s.parts) : 0,
        2 * s.D * 4,                         // norms and permutations of bf16, gates
        s.storage == BF16 ? s.V * 4 : 0,     // cross_entropy
        s.storage == BF16 ? 3 * s.F * 4 : 0, // activations
        // gate_backward
        s.storage == BF16 ? 3 * s.attention.heads * s.attention.d_value * 4 : 0,
        // rope and qk_norm_backward
        s.storage == BF16 ? 2 * (s.attention.heads + s.attention.kv_heads) * s.attention.d_head * 4
                          : 0,
        3 * s.N * 4,                 // router_forward
        s.E * s.parts * 4,           // permutation_plan
        s.group * s.K * 8 + s.E * 4, // capacity_assign
        sum_of_squares_scratch_bytes(s.elements, s.rows),
    };
    size_t most = 0;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++)
        if ((size_t)bytes[i] > most) most = (size_t)bytes[i];
    return thread_scratch_capacity(most);
}
