// The private table of a backend: one bare implementation for each op of kernels.h, same arguments,
// no checks. A table is filled with designated initialisers; no slot is NULL (a test proves it).
// Only kernels.c and device.c call through it.
#ifndef MOETRAIN_KERNELS_BACKEND_H
#define MOETRAIN_KERNELS_BACKEND_H

#include "kernels/kernels.h"

struct Backend {
    const char *name;
    Place place;
    DeviceLimits limits;
    // Whether this machine can run it; otherwise the reason and the fix.
    bool (*available)(Error *err);
    // Starts the backend for this rank; fills dev->state. False with the reason and the fix when
    // there is no such device.
    bool (*open)(Device *dev, int local_rank, int local_size, Error *err);
    void (*close)(Device *dev);
    // Processor and matrix library in one line, for the log and --version.
    void (*describe)(const Device *dev, char *text, size_t bytes);
    void *(*allocate)(Device *dev, size_t bytes); // zeroed; NULL when there is not enough
    void (*release)(Device *dev, void *data, size_t bytes);
    size_t (*free_bytes)(Device *dev); // about what allocate could still give
    void (*upload)(Device *dev, void *to, const void *from, size_t bytes);   // from host memory
    void (*download)(Device *dev, void *to, const void *from, size_t bytes); // to host memory
    void (*synchronize)(Device *dev);
    void (*products)(Device *dev, ProductLine say, void *context); // device_products

    void (*matmul_forward)(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows);
    void (*matmul_backward_input)(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows);
    void (*matmul_backward_weight)(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows);
    void (*embedding_forward)(Device *dev, Tensor out, Tensor tokens, Tensor weight);
    void (*embedding_backward)(Device *dev, Tensor dweight, Tensor dout, Tensor tokens,
                               int64_t parts, Tensor order);
    void (*rmsnorm_forward)(Device *dev, Tensor out, Tensor rstd, Tensor sum, Tensor x,
                            Tensor branch, Tensor weight, float eps);
    void (*rmsnorm_backward)(Device *dev, Tensor dx, Tensor dweight, Tensor dout, Tensor x,
                             Tensor rstd, Tensor weight, int64_t parts, Tensor partial);
    void (*rope)(Device *dev, Tensor qkv, AttentionShape s, Tensor cosines, Tensor sines, int64_t T,
                 int64_t first_position, bool inverse);
    void (*attention_forward)(Device *dev, Tensor out, Tensor lse, Tensor qkv, AttentionShape s,
                              int64_t T, float scale);
    void (*attention_backward)(Device *dev, Tensor dqkv, Tensor dout, Tensor qkv, Tensor out,
                               Tensor lse, AttentionShape s, int64_t T, float scale);
    void (*attention_decode)(Device *dev, Tensor out, Tensor qkv, Tensor cache, AttentionShape s,
                             int64_t position, float scale);
    void (*activation_forward)(Device *dev, Tensor out, Tensor in, Activation kind);
    void (*activation_backward)(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind);
    void (*router_forward)(Device *dev, Tensor ids, Tensor weights, Tensor lse, Tensor prob_sum,
                           Tensor entropy_sum, Tensor lse2_sum, Tensor logits, RouterRule rule,
                           int64_t parts);
    void (*router_backward)(Device *dev, Tensor dlogits, Tensor dweights, Tensor ids,
                            Tensor weights, Tensor logits, Tensor lse, RouterRule rule,
                            Tensor balance, float z_scale, int64_t parts);
    void (*capacity_assign)(Device *dev, Tensor kept, Tensor chosen, Tensor dropped, Tensor ids,
                            Tensor weights, int64_t groups, int64_t capacity, DropPolicy policy,
                            RngStream stream, int64_t first_token, Tensor order);
    void (*expert_load)(Device *dev, Tensor chosen, Tensor dropped, Tensor weight_mass, Tensor ids,
                        Tensor weights, Tensor kept);
    void (*router_totals)(Device *dev, RouterTotals to, Tensor balance, RouterSums sums,
                          Tensor batch_chosen, BalanceRule rule);
    void (*sum_columns)(Device *dev, Tensor out, Tensor x);
    void (*permutation_plan)(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts,
                             Tensor ids, Tensor kept, int64_t parts, int64_t room);
    void (*exchange_plan)(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                          int64_t parts);
    void (*gather_rows)(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows,
                        int64_t divisor);
    void (*combine_forward)(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights);
    void (*combine_backward)(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                             Tensor slot_row, Tensor weights);
    void (*renormalize_forward)(Device *dev, Tensor scaled, Tensor weights, Tensor kept);
    void (*renormalize_backward)(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights,
                                 Tensor kept);
    void (*cross_entropy)(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale);
    void (*fill_zero)(Device *dev, Tensor x);
    void (*copy)(Device *dev, Tensor out, Tensor x);
    void (*convert)(Device *dev, Tensor out, Tensor x);
    void (*add)(Device *dev, Tensor out, Tensor a, Tensor b);
    void (*segment_sum)(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor);
    void (*sum_of_squares)(Device *dev, Tensor sums, Tensor x, Tensor offsets);
    void (*adamw_update)(Device *dev, Tensor w, Tensor copy, Tensor g, Tensor m, Tensor v,
                         Tensor decay, AdamW rule);
};

extern const Backend cpu_backend;
extern const Backend cuda_backend; // kernels/cuda/, only in builds with MOETRAIN_CUDA

#endif
