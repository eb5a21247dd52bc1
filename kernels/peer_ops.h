// The ops of very many very small experts (kernels.h has what holds for all ops): product keys find
// a token's experts, and products and sums go over rows of a table that each token names by number.
// No op makes a copy of the rows that tokens name.
#ifndef MOETRAIN_KERNELS_PEER_OPS_H
#define MOETRAIN_KERNELS_PEER_OPS_H

#include "kernels/device.h"

#ifdef __cplusplus // .cu files
extern "C" {
#endif

// ---- product keys -------------------------------------------------------------------------------

enum { PRODUCT_KEYS_TOP_K = 64 }; // experts that a query finds, at most

// Of n² experts, of which number i·n + j has the key (first i, second j), finds for each query
// the k whose scores first[i] + second[j] are largest: they are among the pairs of the k largest of
// each half (arXiv:1907.05242). Of equal keys of a half the lower number comes first, of equal sums
// the one whose first, then whose second key does. The weights are the softmax over the chosen
// sums.
//   ids (R, k) i32, best first   weights (R, k)   first, second (R, n)   1 <= k <= n, k <= 64
void product_keys_forward(Device *dev, Tensor ids, Tensor weights, Tensor first, Tensor second);
// From the gradient of the weights to that of each expert's sum, which is that of both its scores,
// and the numbers of the keys that have them. All other scores have none.
//   dsums, dweights, weights (R, k)   first_keys, second_keys, ids (R, k) i32
void product_keys_backward(Device *dev, Tensor dsums, Tensor first_keys, Tensor second_keys,
                           Tensor dweights, Tensor ids, Tensor weights, int64_t n);
// The gradient of all scores of a half: dscores[r, j] = Σ dsums[r, i] over the i whose key is j, in
// their order.   dscores (R, n)   dsums (R, k)   keys (R, k) i32, in [0, n)
void spread_sums(Device *dev, Tensor dscores, Tensor dsums, Tensor keys);

// ---- batch normalization ------------------------------------------------------------------------

// Of G equal runs of rows, for each of W columns (arXiv:1502.03167); without gain and bias.
typedef struct ColumnMoments {
    Tensor mean, variance; // (G, W) f32; the variance is that of the rows, divided by their number
} ColumnMoments;
#define BATCH_NORM_EPS 1e-5f // PyTorch's

// Of each of the runs; for the moments of all of them, the sums of x and of x^2 are added to
// sums[g, column …) and sums[g, column + W …).
//   x (N, W) f32, N > 0   sums (G, C) f64
void column_moments(Device *dev, ColumnMoments moments, Tensor sums, int64_t column, Tensor x);
// out = (x - mean) / sqrt(variance + eps), each run by its own.   out, x (N, W) f32; out may be x
void normalize_columns(Device *dev, Tensor out, Tensor x, ColumnMoments moments);
// From what was normalised by the moments of its own run.   dx, dout, out (N, W) f32; dx may be
// dout
void normalize_columns_backward(Device *dev, Tensor dx, Tensor dout, Tensor out, Tensor variance);

// ---- rows by number -----------------------------------------------------------------------------

// Rows that have numbers, and what each token has for each of those it names.
typedef struct NamedRows {
    Tensor table;        // (E, D) T: row e has the number first + e; other numbers have no row here
    int64_t first;       // of the numbers
    Tensor coefficients; // (M, W) f32
    int64_t first_column; // of coefficients, that of a token's slot 0
} NamedRows;

// coefficients[m, first_column + k] = x[m] · the row of ids[m, k], or 0 where it has none here.
//   x (M, D) T   ids (M, K) i32
void named_products(Device *dev, NamedRows out, Tensor x, Tensor ids);

enum { NAMED_TABLES = 2, NAMED_PARTS = 8 };
typedef struct NamedTables {
    const NamedRows *rows; // of each, on the host: tables of equal shape and first number
    int64_t count;
} NamedTables;
// out[m] = Σ_k coefficients · the row of ids[m, k]. The numbers are cut into `parts` equal runs,
// a power of two, at most NAMED_PARTS: in each part the sum goes over the slots of the first table,
// then of the second, and the parts are summed as the fixed binary tree.
//   out (M, D) f32   ids (M, K) i32
void named_sums(Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts);

// Lists who names each row: at[listed[e]] … at[listed[e + 1] - 1] are the places m·K + k of
// number first + e in ids, ascending.
//   at (M·K or more) i32   listed (E + 1) i32   ids (M, K) i32
void list_names(Device *dev, Tensor at, Tensor listed, Tensor ids, int64_t first);
// The gradient of a table, overwriting: dtable[e] = Σ coefficients[m, k] · x[m] over the places
// where it is named, in their order within each of `parts` equal runs of tokens, whose sums are
// added as the fixed binary tree. Rows that nobody names get zeros. With marks (E) i32, which are 1
// of rows that are not zero and 0 of all others before and after, only rows that change are
// touched; data NULL: all are written.
//   dtable (E, D) f32   rows.coefficients as above, its table is not read   x (M, D) T
void named_gradient(Device *dev, Tensor dtable, Tensor marks, NamedRows rows, Tensor x, Tensor at,
                    Tensor listed, int64_t K, int64_t parts);

// out = a · b, element by element.   out, a, b (n…) f32; out may be a or b
void multiply_pairs(Device *dev, Tensor out, Tensor a, Tensor b);

#ifdef __cplusplus
}
#endif

#endif
