// Every op of the program: documented and checked here, computed by a backend (backend.h).
//
// Conventions for all ops. Tensors are contiguous, in the device's memory, f32 unless stated. T
// marks storage that is f32 or bf16, in one call the same for all T; arithmetic is f32 always, and
// a T result is rounded once, to nearest even. An op never communicates; none is collective. Shape
// mismatches are fatal with the tensor's name. Results do not depend on the number of threads, and
// with dev->fixed_order each row's result depends only on its own segment (see Segments): that is
// what makes training bit-identical on any number of ranks. No op adds floats in an order that
// timing decides.
//
// Letters: N tokens (rows), D model width, F hidden width, V vocabulary, E experts, K choices a
// token, H query heads, KV key/value heads, T tokens of a sequence.
#ifndef MOETRAIN_KERNELS_KERNELS_H
#define MOETRAIN_KERNELS_KERNELS_H

#include "kernels/activations.h"
#include "kernels/attention_ops.h"
#include "kernels/balance_ops.h"
#include "kernels/choice.h"
#include "kernels/device.h"
#include "kernels/norms.h"
#include "kernels/optimizer_ops.h"
#include "kernels/peer_ops.h"
#include "kernels/quantize.h"
#include "kernels/rng.h"
#include "kernels/routing_ops.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// How the rows of a matrix belong together: `groups` weight matrices, each serving `parts` runs of
// rows. The rows of group g, part p are offsets[g * parts + p] .. offsets[g * parts + p + 1].
//   dense layers   groups = 1, parts = this rank's shards
//   experts        groups = this rank's experts, parts = its share of the fixed gradient groups
// A library call never sees rows of two segments, so a segment's bits do not depend on what lies
// around it.
typedef struct Segments {
    int64_t groups, parts;
    const int64_t *offsets; // groups * parts + 1 row numbers, ascending, host memory
    // the same (groups * parts + 1) i64 where kernels can read them; data NULL: dense, 1 group
    Tensor device_offsets;
} Segments;

// ---- matrices -----------------------------------------------------------------------------------

// y = x wᵀ by segment and group. A row's bits depend on no other row: row_products.h, fixed_order.
//   y (M, N) T, or f32 from bf16   x (M, K) T   w (G, N, K) T
void matmul_forward(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows);
// The same with weights of fewer bits: products and sums are of f32. A row's bits depend on no
// other row; with bf16 and f16 on the CPU they are those of the same numbers in f32.
//   y (M, N) f32   x (M, K) f32   w (G, N, K)
void matmul_quantized(Device *dev, Tensor y, Tensor x, QuantizedMatrix w, Segments rows);
// dx = dy w.   dx (M, K) T, or f32 from bf16   dy (M, N) T   w (G, N, K) T
void matmul_backward_input(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows);
// dw[g] = Σ_p dy[g,p]ᵀ x[g,p], overwriting; the parts are summed as the fixed binary tree
// ((0+1)+(2+3))+…, so parts must be a power of two unless it is 1. Groups without rows get zeros.
//   dw (G, N, K) f32   dy (M, N) T   x (M, K) T
void matmul_backward_weight(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows);

// y[r] += bias[g] in the rows of each group; sums in f32, stored as T.
//   y (M, N) T   bias (G, N) f32
void bias_forward(Device *dev, Tensor y, Tensor bias, Segments rows);
// dbias[g] = Σ_p Σ_r dy[g,p,r], overwriting: in each part an order that follows from its number of
// rows alone, the parts as the fixed binary tree. Groups without rows get zeros. The parts of a
// dense layer are equal runs of rows.
//   dbias (G, N) f32   dy (M, N) T
void bias_backward(Device *dev, Tensor dbias, Tensor dy, Segments rows);

// ---- embedding ----------------------------------------------------------------------------------

// out[n] = weight[tokens[n]].
//   out (N, D)   tokens (N) i32, each in 0..V-1 (checked by the data loader)   weight (V, D)
void embedding_forward(Device *dev, Tensor out, Tensor tokens, Tensor weight);
// dweight[v] = Σ dout[n] over tokens[n] = v, overwriting. Tokens are cut into `parts` equal runs
// (shards); within a part the sum runs in token order from +0, the parts are summed as the fixed
// binary tree.
//   dweight (V, D)   dout (N, D)   tokens (N) i32   order (N + V + 1) i32 scratch
void embedding_backward(Device *dev, Tensor dweight, Tensor dout, Tensor tokens, int64_t parts,
                        Tensor order);

// ---- norms --------------------------------------------------------------------------------------

// norms.h has their list.
extern const ChoiceTable NORM_CHOICES;
bool norm_has_bias(NormKind kind);
int64_t norm_statistics(NormKind kind); // of each row, kept for the backward pass
typedef struct NormRule {
    NormKind kind;
    float eps;
} NormRule;
typedef struct NormParams { // or their gradients
    Tensor weight, bias;    // (D); the bias has no data where the norm has none
} NormParams;

// The residual stream takes in a branch and is normalised, in one pass over memory:
// sum = x + branch; out = the norm of each row of sum.
//   out (N, D) T   statistics (norm_statistics, N)   sum, x (N, D) f32; sum may be x
//   branch (N, D) T; data NULL: none, sum is then not written
void normalize_forward(Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
                       Tensor branch, NormParams params, NormRule rule);
// dx += (the residual stream's gradient is already there); dparams overwritten, tree over `parts`
// equal runs of rows.
//   dx, x (N, D) f32; x is the forward pass's sum   dout (N, D) T   statistics as they were written
//   partial (parts, D, or 2D with a bias) scratch
void normalize_backward(Device *dev, Tensor dx, NormParams dparams, Tensor dout, Tensor x,
                        Tensor statistics, NormParams params, NormRule rule, Tensor partial);

// ---- feed-forward -------------------------------------------------------------------------------

// What a hidden layer does, element by element: activations.h has their list.
extern const ChoiceTable ACTIVATION_CHOICES;
bool activation_is_gated(Activation kind);                  // the input row is [gate (F) | up (F)]
int64_t activation_input_width(Activation kind, int64_t F); // 2F when gated, else F
//   out (N, F) T   in (N, 2F or F) T
void activation_forward(Device *dev, Tensor out, Tensor in, Activation kind);
// din overwritten; din may be `in` itself (in place).   din, in (N, 2F or F) T   dout (N, F) T
void activation_backward(Device *dev, Tensor din, Tensor dout, Tensor in, Activation kind);

// out[n] += sigmoid(z[n]) · y[n]: a branch that each token takes in as much as it wants.
//   out, y (N, D) T   logits (N, 1): z
void gated_add_forward(Device *dev, Tensor out, Tensor y, Tensor logits);
// dy = sigmoid(z) · dout; dlogits[n] = sigmoid'(z[n]) · (dout[n] · y[n]). Both overwritten.
//   dy, dout, y (N, D) T; dy may be dout   dlogits, logits (N, 1)
void gated_add_backward(Device *dev, Tensor dy, Tensor dlogits, Tensor dout, Tensor y,
                        Tensor logits);

// out[n] = p · a[n] + q · b[n], (p, q) = softmax(z[n]): two branches, of which each token takes in
// what it wants.   out, a, b (N, D) T; out may be a   logits (N, 2): z
void mix_forward(Device *dev, Tensor out, Tensor a, Tensor b, Tensor logits);
// da = p · dout, db = q · dout; dlogits[n] = ±p · q · (dout[n] · (a[n] - b[n])). All overwritten.
//   da, db, dout, a, b (N, D) T   dlogits, logits (N, 2)
void mix_backward(Device *dev, Tensor da, Tensor db, Tensor dlogits, Tensor dout, Tensor a,
                  Tensor b, Tensor logits);

// ---- dropout ------------------------------------------------------------------------------------

// What is dropped, by counter: element i = row number · D + column of the stream, with the words of
// rng_words(stream, i / 4), is kept where word i % 4 >= rate · 2^32.
typedef struct Dropout {
    double rate; // in [0, 1): the share that becomes 0
    RngStream stream;
    int64_t first_row; // the number of row 0, from which those of the others follow
    Tensor rows;       // (N) i64 instead: the number of each row; data NULL: none
} Dropout;
// out = x / (1 - rate) where an element is kept, otherwise 0 · x (arXiv:1207.0580, inverted). On
// the gradient of `out` it gives that of x: nothing is stored.
//   out, x (N, D), each f32 or bf16; out may be x
void dropout(Device *dev, Tensor out, Tensor x, Dropout rule);

// ---- loss ---------------------------------------------------------------------------------------

// Softmax cross-entropy, in place: losses[n] = lse(logits[n]) - logits[n, target]; then, when scale
// is not 0, logits become their gradient times scale: (softmax - onehot) · scale. A row of
// NO_TARGET has loss 0 and gradient 0.
//   losses (N)   logits (N, V) T   targets (N) i32
enum { NO_TARGET = -1 };
void cross_entropy(Device *dev, Tensor losses, Tensor logits, Tensor targets, float scale);
// counts[0] += rows that have a target; counts[1] += those of them where it is the first guess: the
// largest logit, of equal ones the first.
//   counts (2) i64   logits (N, V) T   targets (N) i32
void count_right_guesses(Device *dev, Tensor counts, Tensor logits, Tensor targets);

// ---- elementwise and sums -----------------------------------------------------------------------

void fill_zero(Device *dev, Tensor x);
void copy(Device *dev, Tensor out, Tensor x); // same bytes
// out = x in another storage: f32 to bf16 rounds to nearest even, bf16 to f32 is exact.
void convert(Device *dev, Tensor out, Tensor x);
// out = a + b, each of the three f32 or bf16; out may be a or b.
void add(Device *dev, Tensor out, Tensor a, Tensor b);
// out = factor · x, each f32 or bf16; out may be x.
void multiply_by(Device *dev, Tensor out, Tensor x, float factor);
// out = cap · tanh(x / cap): at most cap (Gemma 2, arXiv:2408.00118).   out, x T; out may be x
void softcap_forward(Device *dev, Tensor out, Tensor x, float cap);
// dx = dout · (1 - (out / cap)²).   dx, dout, out T; dx may be dout
void softcap_backward(Device *dev, Tensor dx, Tensor dout, Tensor out, float cap);

// Blocks of columns of a matrix's rows, and their places in another's. Strides are from one block
// to the next: one of 0 in x writes the same columns into every block.
typedef struct ColumnBlocks {
    int64_t blocks, width;
    int64_t out_first, out_stride;
    int64_t x_first, x_stride;
    int64_t terms, term_stride; // terms 0: one
} ColumnBlocks;
// out[r, out_first + b · out_stride + j] = Σ_t x[r, x_first + b · x_stride + t · term_stride + j]
// for each block b and column j of it, the terms in order; the other columns of out stay. A copy is
// the same number.
//   out, x (N, …), each f32 or bf16
void copy_columns(Device *dev, Tensor out, Tensor x, ColumnBlocks blocks);
// sums[p, column] += (Σ x over the p-th of P equal runs, f64) / divisor.
//   sums (P, columns) f64   x (n) f32
void segment_sum(Device *dev, Tensor sums, int64_t column, Tensor x, double divisor);
// maxima[p, column + h] = the largest of x[n, h] over the p-th of P equal runs of rows.
//   maxima (P, columns) f64   x (N, H) f32, N > 0
void segment_max(Device *dev, Tensor maxima, int64_t column, Tensor x);
// sums[s] = Σ x² over elements offsets[s] .. offsets[s + 1], f64, in fixed blocks of 4096 elements
// from the segment's start, then over the blocks in an order that their number fixes.
//   sums (S) f64   x (n)   offsets (S + 1) i64, ascending within 0..n
//   marks (S) i32: segments whose mark is 0 are not read and sum to 0; data NULL: all are
void sum_of_squares(Device *dev, Tensor sums, Tensor x, Tensor offsets, Tensor marks);
// sums[p] = Σ x² over the p-th of P equal runs of rows, f64: each row by itself, then the rows in
// an order that their number fixes.
//   sums (P) f64   x (R, D) f32   marks (R) i32: rows whose mark is 0 are zeros and are not read;
//   data NULL: all are read
void sum_of_row_squares(Device *dev, Tensor sums, Tensor x, Tensor marks);

// Runs of rows of a tensor, on the host: rows first[s] … first[s] + rows[s] - 1 for each s. first
// NULL: one run after the other from row 0. Those of run `except` are left out; -1: none are.
typedef struct CheckedRuns {
    int64_t count;
    const int64_t *first, *rows;
    int64_t except;
    // (·) i32: the runs are of the tensor that gather_rows would make of it, with divisor 1; data
    // NULL: of the tensor itself.
    Tensor index;
} CheckedRuns;
// sums[s] += (Σ w[i], Σ i · w[i]) modulo 2^64 over the bytes of run s, as 32-bit words w[i] in
// memory order, the last one filled up with zeros: Fletcher's checksum (IEEE Transactions on
// Communications 30, 1982) with sums of 64 bits. A change within any two words always shows, and
// another one is missed once in 2^64; sums of several tensors are as good as one of them all.
//   sums (S, 2) i64   x (M, …) any type
void checksums(Device *dev, Tensor sums, Tensor x, CheckedRuns runs);
uint64_t checksums_hash(const int64_t sums[2]); // both sums of a run in one number

#ifdef __cplusplus
}
#endif

#endif
