// The list of ops: a row gives an op's name and what it takes after its Device. From it follow the
// table of a backend (backend.h), the prototypes of each backend's functions (cpu_ops.h,
// cuda_ops.h), both tables and the test that no slot is empty. What an op means and what it demands
// of its arguments stands in kernels.h and headers that it includes, by hand; kernels.c does not
// compile where the two differ.
//
// A new op: a row here, its function NAME_cpu in kernels/cpu/ and NAME_cuda in kernels/cuda/, its
// documented front in kernels.h and .c (or attention_ops, balance_ops, routing_ops, peer_ops,
// optimizer_ops), its reference and its check in tests/kernels/.
#ifndef MOETRAIN_KERNELS_OPS_H
#define MOETRAIN_KERNELS_OPS_H

#define OPS(OP)                                                                                    \
    /* matrices */                                                                                 \
    OP(matmul_forward, Tensor y, Tensor x, Tensor w, Segments rows)                                \
    OP(matmul_backward_input, Tensor dx, Tensor dy, Tensor w, Segments rows)                       \
    OP(matmul_backward_weight, Tensor dw, Tensor dy, Tensor x, Segments rows)                      \
    OP(matmul_quantized, Tensor y, Tensor x, QuantizedMatrix w, Segments rows)                     \
    OP(bias_forward, Tensor y, Tensor bias, Segments rows)                                         \
    OP(bias_backward, Tensor dbias, Tensor dy, Segments rows)                                      \
    /* embedding */                                                                                \
    OP(embedding_forward, Tensor out, Tensor tokens, Tensor weight)                                \
    OP(embedding_backward, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,              \
       Scratch order)                                                                              \
    /* norms */                                                                                    \
    OP(normalize_forward, Tensor out, Tensor statistics, Tensor sum, Tensor x, Tensor branch,      \
       NormParams params, NormRule rule)                                                           \
    OP(normalize_backward, Tensor dx, NormParams dparams, Tensor dout, Tensor x,                   \
       Tensor statistics, NormParams params, NormRule rule, Scratch partial)                       \
    /* attention */                                                                                \
    OP(qk_norm_forward, Tensor out, Tensor rstd, Tensor x, AttentionShape s, QkNorm norm)          \
    OP(qk_norm_backward, Tensor dx, Tensor dq_weight, Tensor dk_weight, Tensor x, Tensor rstd,     \
       AttentionShape s, QkNorm norm)                                                              \
    OP(gate_forward, Tensor out, Tensor x, Tensor gate)                                            \
    OP(gate_backward, Tensor dx, Tensor dgate, Tensor dout, Tensor x, Tensor gate)                 \
    OP(rope, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, RowPositions at,          \
       bool inverse)                                                                               \
    OP(attention_forward, Tensor out, Tensor lse, Tensor largest, Tensor qkv, AttentionRule rule)  \
    OP(attention_backward, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv, Tensor out,        \
       Tensor lse, AttentionRule rule)                                                             \
    OP(attention_decode, Tensor out, Tensor qkv, Tensor cache, AttentionRule rule,                 \
       int64_t position)                                                                           \
    /* feed-forward */                                                                             \
    OP(activation_forward, Tensor out, Tensor in, Activation kind)                                 \
    OP(activation_backward, Tensor din, Tensor dout, Tensor in, Activation kind)                   \
    OP(gated_add_forward, Tensor out, Tensor y, Tensor logits)                                     \
    OP(gated_add_backward, Tensor dy, Tensor dlogits, Tensor dout, Tensor y, Tensor logits)        \
    OP(mix_forward, Tensor out, Tensor a, Tensor b, Tensor logits)                                 \
    OP(mix_backward, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a, Tensor b,        \
       Tensor logits)                                                                              \
    OP(dropout, Tensor out, Tensor x, Dropout rule)                                                \
    /* router */                                                                                   \
    OP(router_forward, Routing routing, RouterSums sums, Tensor logits, Tensor bias,               \
       RouterRule rule)                                                                            \
    OP(sinkhorn_bias, Tensor bias, Tensor logits, Scratch a, Scratch c, int64_t iterations)        \
    OP(router_noise_forward, Tensor out, Tensor logits, Tensor scale, RouterNoise noise)           \
    OP(router_noise_backward, Tensor dscale, Tensor dlogits, Tensor scale, RouterNoise noise)      \
    OP(router_jitter, Tensor out, Tensor x, float amount, RouterNoise noise)                       \
    OP(router_backward, Tensor dlogits, Tensor dweights, Routing routing, Tensor logits,           \
       RouterRule rule, Tensor balance, float z_scale)                                             \
    OP(slot_weights_forward, Tensor dispatch, Tensor combine, Tensor logits, int64_t T)            \
    OP(slot_weights_backward, Tensor dlogits, Tensor ddispatch, Tensor dcombine, Tensor dispatch,  \
       Tensor combine, int64_t T)                                                                  \
    OP(count_slot_weights, Tensor counts, Tensor weights)                                          \
    OP(choose_in_turn, Tensor ids, int64_t E, int64_t first_token)                                 \
    OP(choices_of_heads, Tensor out, Tensor ids, int64_t E)                                        \
    OP(choose_by_draw, Tensor ids, Tensor tokens, Tensor ends, ExpertDraw draw)                    \
    OP(capacity_assign, Tensor kept, Tensor tokens_per_expert, Tensor dropped, Tensor ids,         \
       Tensor weights, CapacityRule rule, Scratch order)                                           \
    OP(capacity_assign_documents, Tensor kept, Scratch tokens_per_expert, Scratch dropped,         \
       Tensor ids, Tensor weights, Tensor positions, Tensor capacities, CapacityRule rule,         \
       Scratch order)                                                                              \
    OP(keep_zero_choices, Tensor kept, Tensor travels, Tensor ids, int64_t E)                      \
    OP(expert_load, RouterSums sums, Tensor ids, Tensor weights, Tensor kept, bool kept_alone)     \
    OP(router_totals, RouterTotals to, Tensor balance, RouterSums sums, Tensor counts,             \
       BalanceRule rule)                                                                           \
    OP(sum_columns, Tensor out, Tensor x, bool add)                                                \
    OP(count_ids, Tensor counts, Tensor ids, Tensor kept)                                          \
    OP(count_first_choices, Tensor counts, Tensor ids)                                             \
    OP(count_squares, Tensor counts, Tensor squares, int64_t E)                                    \
    OP(importance_sums, Tensor sums, Tensor ids, Tensor weights)                                   \
    OP(importance_backward, Tensor dweights, Tensor ids, Tensor slopes)                            \
    OP(noisy_load_sums, Tensor sums, NoisyLogits logits, int64_t K)                                \
    OP(noisy_load_backward, Tensor dlogits, Tensor dscale, Tensor slopes, NoisyLogits logits,      \
       int64_t K)                                                                                  \
    OP(logit_sums, Tensor lse, Tensor squares, Tensor lse2_sum, Tensor logits)                     \
    OP(z_loss_backward, Tensor dlogits, Tensor logits, Tensor lse, float scale)                    \
    OP(variation_totals, Tensor totals, Tensor slopes, Tensor sums, VariationTerm term, bool add)  \
    OP(document_balance, Tensor balance, Tensor totals, Tensor base, Tensor logits, Tensor ids,    \
       Tensor positions, DocumentTerm term)                                                        \
    OP(quantile_counts, Tensor counts, Tensor logits, Tensor lse, Tensor bias, int64_t K,          \
       RouterRule rule)                                                                            \
    /* permutation */                                                                              \
    OP(permutation_plan, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,            \
       Tensor kept, Tensor places, int64_t parts, int64_t padded_rows)                             \
    OP(exchange_plan, ExchangePlan plan, Tensor counts, Tensor all_counts, ExchangeCut cut,        \
       int64_t parts)                                                                              \
    OP(gather_rows, Tensor out, Arriving x, Tensor index, int64_t rows, int64_t divisor)           \
    OP(combine_forward, Tensor out, Tensor y, Tensor slot_row, Tensor weights)                     \
    OP(combine_backward, Tensor dy, Tensor dweights, Tensor dout, Tensor y, Tensor slot_row,       \
       Tensor row_choice, Tensor weights)                                                          \
    OP(renormalize_forward, Tensor scaled, Tensor weights, Tensor kept)                            \
    OP(renormalize_backward, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept)           \
    OP(identity_experts_forward, Tensor out, Tensor x, Tensor ids, Tensor weights, int64_t E)      \
    OP(identity_experts_backward, Tensor dx, Tensor dweights, Tensor dout, Tensor x, Tensor ids,   \
       Tensor weights, int64_t E)                                                                  \
    OP(expert_row_numbers, Tensor numbers, Tensor offsets, Tensor all_counts, Tensor experts,      \
       ExchangeCut cut, RowNumbering rule)                                                         \
    /* very many very small experts */                                                             \
    OP(product_keys_forward, Tensor ids, Tensor weights, Tensor first, Tensor second)              \
    OP(product_keys_backward, Tensor dsums, Tensor first_keys, Tensor second_keys,                 \
       Tensor dweights, Tensor ids, Tensor weights, int64_t n)                                     \
    OP(spread_sums, Tensor dscores, Tensor dsums, Tensor keys)                                     \
    OP(column_moments, ColumnMoments moments, Tensor sums, int64_t column, Tensor x)               \
    OP(normalize_columns, Tensor out, Tensor x, ColumnMoments moments)                             \
    OP(normalize_columns_backward, Tensor dx, Tensor dout, Tensor out, Tensor variance)            \
    OP(named_products, NamedRows out, Tensor x, Tensor ids)                                        \
    OP(named_sums, Tensor out, NamedTables tables, Tensor ids, int64_t parts)                      \
    OP(list_names, Tensor at, Tensor listed, Tensor ids, int64_t first)                            \
    OP(named_gradient, Tensor dtable, Tensor marks, NamedRows rows, Tensor x, Tensor at,           \
       Tensor listed, int64_t K, int64_t parts)                                                    \
    /* loss */                                                                                     \
    OP(cross_entropy, Tensor losses, Tensor logits, Tensor targets, float scale)                   \
    OP(count_right_guesses, Tensor counts, Tensor logits, Tensor targets)                          \
    /* elementwise and sums */                                                                     \
    OP(fill_zero, Tensor x)                                                                        \
    OP(copy, Tensor out, Tensor x)                                                                 \
    OP(convert, Tensor out, Tensor x)                                                              \
    OP(add, Tensor out, Tensor a, Tensor b)                                                        \
    OP(multiply_pairs, Tensor out, Tensor a, Tensor b)                                             \
    OP(multiply_by, Tensor out, Tensor x, float factor)                                            \
    OP(softcap_forward, Tensor out, Tensor x, float cap)                                           \
    OP(softcap_backward, Tensor dx, Tensor dout, Tensor out, float cap)                            \
    OP(copy_columns, Tensor out, Tensor x, ColumnBlocks blocks)                                    \
    OP(segment_sum, Tensor sums, int64_t column, Tensor x, double divisor)                         \
    OP(segment_max, Tensor maxima, int64_t column, Tensor x)                                       \
    OP(sum_of_squares, Tensor sums, Tensor x, Tensor offsets, Tensor marks)                        \
    OP(sum_of_row_squares, Tensor sums, Tensor x, Tensor marks)                                    \
    OP(checksums, Tensor sums, Tensor x, CheckedRuns runs)                                         \
    /* optimizer */                                                                                \
    OP(adamw_update, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, Tensor groups,           \
       AdamW rule)                                                                                 \
    OP(adamw_rows, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v, LaggingRows rows,          \
       AdamW rule)                                                                                 \
    OP(sgd_update, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Sgd rule)             \
    OP(lion_update, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor groups, Lion rule)           \
    OP(momentum_direction, Tensor u, Tensor g, Tensor m, Momentum rule)                            \
    OP(normalize_segments, Tensor x, Tensor squares, Tensor offsets, float eps)                    \
    OP(matrix_polynomial, Tensor square, Tensor a, MatrixPolynomial p)                             \
    OP(decayed_step, Tensor w, Tensor copy, Tensor step, Tensor groups, DecayedStep rule)          \
    OP(moving_average, Tensor average, Tensor w, float decay)                                      \
    OP(scale_rows, Tensor w, Tensor factors)

#endif
