// The CPU's implementation of every op of kernels.h, one file per family; the table is in
// backend_cpu.c.
//
// All of them: work is cut by shapes only and no float is summed across threads, so the number of
// OpenMP threads changes no bit.
#ifndef MOETRAIN_KERNELS_CPU_CPU_OPS_H
#define MOETRAIN_KERNELS_CPU_CPU_OPS_H

#include "kernels/kernels.h"

#pragma GCC diagnostic ignored "-Wunused-parameter" // the CPU needs nothing from its Device

void *allocate_cpu(Device *dev, size_t bytes);
void release_cpu(Device *dev, void *data, size_t bytes);
size_t free_bytes_cpu(Device *dev);
void transfer_cpu(Device *dev, void *to, const void *from, size_t bytes);
void synchronize_cpu(Device *dev);
void close_cpu(Device *dev);

void matmul_forward_cpu(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows);
void matmul_backward_input_cpu(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows);
void matmul_backward_weight_cpu(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows);
void embedding_forward_cpu(Device *dev, Tensor out, Tensor tokens, Tensor weight);
void embedding_backward_cpu(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                            Tensor order);
void rmsnorm_forward_cpu(Device *dev, Tensor out, Tensor rstd, Tensor sum, Tensor x, Tensor branch,
                         Tensor weight, float eps);
void rmsnorm_backward_cpu(Device *dev, Tensor dx, Tensor dweight, Tensor dout, Tensor x,
                          Tensor rstd, Tensor weight, int64_t parts, Tensor partial);
void rope_cpu(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
              int64_t first_position, bool inverse);
void attention_forward_cpu(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionShape s,
                           int64_t T, float scale);
void attention_backward_cpu(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out,
                            Tensor lse, AttentionShape s, int64_t T, float scale);
void attention_decode_cpu(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionShape s,
                          int64_t position, float scale);
void activation_forward_cpu(Device *dev, Tensor out, Tensor in, Activation kind);
void activation_backward_cpu(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind);
void router_forward_cpu(Device *dev, Tensor ids, Tensor weights, Tensor lse, Tensor prob_sum,
                        Tensor entropy_sum, Tensor lse2_sum, Tensor logits, RouterRule rule,
                        int64_t parts);
void router_backward_cpu(Device *dev, Tensor dlogits, Tensor dweights, Tensor ids, Tensor weights,
                         Tensor logits, Tensor lse, RouterRule rule, Tensor balance, float z_scale,
                         int64_t parts);
void capacity_assign_cpu(Device *dev, Tensor kept, Tensor chosen, Tensor dropped, Tensor ids,
                         Tensor weights, int64_t groups, int64_t capacity, DropPolicy policy,
                         RngStream stream, int64_t first_token, Tensor order);
void expert_load_cpu(Device *dev, Tensor chosen, Tensor dropped, Tensor weight_mass, Tensor ids,
                     Tensor weights, Tensor kept);
void router_totals_cpu(Device *dev, RouterTotals to, Tensor balance, RouterSums sums,
                       Tensor batch_chosen, BalanceRule rule);
void sum_columns_cpu(Device *dev, Tensor out, Tensor x);
void permutation_plan_cpu(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts,
                          Tensor ids, Tensor kept, int64_t parts, int64_t room);
void exchange_plan_cpu(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                       int64_t parts);
void gather_rows_cpu(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                     int64_t divisor);
void combine_forward_cpu(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights);
void combine_backward_cpu(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                          Tensor slot_row, Tensor weights);
void renormalize_forward_cpu(Device *dev, Tensor scaled, Tensor weights, Tensor kept);
void renormalize_backward_cpu(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights,
                              Tensor kept);
void cross_entropy_cpu(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale);
void fill_zero_cpu(Device *dev, Tensor x);
void copy_cpu(Device *dev, Tensor out, Tensor x);
void convert_cpu(Device *dev, Tensor out, Tensor x);
void add_cpu(Device *dev, Tensor out, Tensor a, Tensor b);
void segment_sum_cpu(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor);
void sum_of_squares_cpu(Device *dev, Tensor sums, Tensor x, Tensor offsets);
void adamw_update_cpu(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                      Tensor decay, AdamW rule);

#endif
