// The matrix products: dense layers by cuBLASLt, experts by one launch for all of them.
//
// f32 matrices are multiplied in f32 (no TF32), bf16 ones by tensor cores with f32 sums; a result
// is rounded once.
//
// Dense layers: matmul_plan.c chooses the algorithm; what cuBLASLt cannot do, or not with the same
// bits for any number of rows, our own kernel does (grouped_matmul_cuda.cu).
//
// The weight gradient of a dense layer is a product for each part. They are added up as the fixed
// binary tree in f32, slice by slice of dw's rows; a slice's height depends on the shape alone, so
// that the tree's memory does not grow with the vocabulary.
//
// Experts: with fixed_order our own kernel; otherwise cublasGemmGroupedBatchedEx, where it has the
// types and the alignment and is no slower.
#include <limits.h>
#include <stdlib.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/matmul_plan.h"
#include "kernels/integers.h"

static const size_t SLICE_BYTES = (size_t)16 << 20; // of dw, in a tree of parts
enum {
    SLICE_ROWS = 512,  // a slice is a multiple
    VECTOR_BYTES = 16, // cuBLAS's grouped kernels want every row to start at a multiple
};

static size_t bytes_of(DType type, int64_t n) {
    return (size_t)n * dtype_bytes(type);
}

// ---- dense layers -------------------------------------------------------------------------------

// c = a b for one pair of matrices.
static void multiply(Device *dev, MatrixProduct p) {
    if (p.m == 0 || p.n == 0) return;
    if (p.depth > 0 && matmul_by_plan(dev, p)) return;
    SegmentRows one = {.segments = 1, .parts = 1};
    if (p.a_transposed)
        grouped_matmul_weight(dev, p, one);
    else
        grouped_matmul_rows(dev, p, one);
}

// Element `first` of a device tensor.
static void *elements_from(Tensor x, int64_t first) {
    CHECK(x.place == ON_DEVICE, "a %s tensor in host memory is given to a matrix product",
          dtype_name(x.dtype));
    return (char *)x.data + bytes_of(x.dtype, first);
}

static int64_t segment_count(Segments rows) {
    return rows.groups * rows.parts;
}

static bool is_dense(Segments rows) {
    if (rows.device_offsets.data) return false;
    CHECK(rows.groups == 1, "%lld groups of rows without offsets in device memory",
          (long long)rows.groups);
    return true;
}

// Adds up the parts' products, whose rows start at `offsets`, into p.c: the left half there, the
// right half in `spare`, a matrix for each level below this one. p.a and p.b are the first rows of
// their tensors.
static void sum_parts(Device *dev, MatrixProduct p, const int64_t *offsets, int64_t parts,
                      float *spare) {
    int64_t rows = offsets[parts] - offsets[0];
    if (rows == 0) {
        CUDA_CHECK(
            cudaMemsetAsync(p.c, 0, bytes_of(F32, p.m * p.c_width), cuda_state(dev)->compute));
        return;
    }
    if (parts == 1) {
        p.a = (const char *)p.a + bytes_of(p.type, offsets[0] * p.a_width);
        p.b = (const char *)p.b + bytes_of(p.type, offsets[0] * p.b_width);
        p.depth = rows;
        multiply(dev, p);
        return;
    }
    int64_t elements = p.m * p.c_width;
    sum_parts(dev, p, offsets, parts / 2, spare);
    MatrixProduct right = p;
    right.c = spare;
    sum_parts(dev, right, offsets + parts / 2, parts / 2, spare + elements);
    add_floats(dev, p.c, spare, elements);
}

static void dense_weight(Device *dev, MatrixProduct p, Segments rows) {
    int64_t slice = (int64_t)SLICE_BYTES / (int64_t)bytes_of(F32, p.n) / SLICE_ROWS * SLICE_ROWS;
    if (slice < SLICE_ROWS) slice = SLICE_ROWS;
    if (!dev->fixed_order && rows.parts == 1) slice = p.m;
    slice = smaller(slice, p.m);
    int levels = 0;
    while ((int64_t)1 << levels < rows.parts) levels++;
    float *spare = NULL;
    if (levels > 0) spare = cuda_workspace(dev, bytes_of(F32, levels * slice * p.c_width));
    for (int64_t first = 0; first < p.m; first += slice) {
        MatrixProduct part = p;
        part.m = smaller(slice, p.m - first);
        part.a = (const char *)p.a + bytes_of(p.type, first);
        part.c = (char *)p.c + bytes_of(F32, first * p.c_width);
        sum_parts(dev, part, rows.offsets, rows.parts, spare);
    }
}

// ---- experts ------------------------------------------------------------------------------------

// What cublasGemmGroupedBatchedEx reads on the host, an entry for each expert with rows; all
// entries are 4 bytes.
typedef struct GroupedCall { // state->grouped_call
    int64_t room;
    cublasOperation_t *a_op, *b_op;
    int *m, *n, *k, *lda, *ldb, *ldc, *size;
    float *alpha, *beta;
    int32_t *memory; // of all of them
} GroupedCall;

void grouped_call_free(CudaState *state) {
    GroupedCall *call = state->grouped_call;
    if (call) free(call->memory);
    free(call);
    state->grouped_call = NULL;
}

static GroupedCall *grouped_call(Device *dev, int64_t groups) {
    enum { ARRAYS = 11 };
    CudaState *state = cuda_state(dev);
    if (!state->grouped_call) state->grouped_call = calloc(1, sizeof(GroupedCall));
    GroupedCall *call = state->grouped_call;
    CHECK_MEMORY(call, "no memory for the calls of grouped products");
    if (call->room >= groups) return call;
    free(call->memory);
    int32_t *memory = malloc((size_t)(ARRAYS * groups) * sizeof *memory);
    CHECK_MEMORY(memory, "no memory for %lld groups of matrices", (long long)groups);
    *call = (GroupedCall){.room = groups, .memory = memory};
    int **arrays[] = {&call->m,   &call->n,   &call->k,   &call->lda,
                      &call->ldb, &call->ldc, &call->size};
    for (int i = 0; i < 7; i++) *arrays[i] = memory + i * groups;
    call->a_op = (cublasOperation_t *)(memory + 7 * groups);
    call->b_op = (cublasOperation_t *)(memory + 8 * groups);
    call->alpha = (float *)(memory + 9 * groups);
    call->beta = (float *)(memory + 10 * groups);
    return call;
}

// Whether cublasGemmGroupedBatchedEx takes such products: one type for all three matrices, and
// 16-byte aligned rows, which its bf16 kernels read by vectors. On Hopper its kernels are those of
// Ampere, half as fast as ours.
static bool library_groups(const Device *dev, MatrixProduct p, Segments rows) {
    if (warpgroup_multiplies(dev, p)) return false;
    int64_t largest = rows.offsets[segment_count(rows)];
    const int64_t sizes[] = {p.n, p.m, p.depth, p.a_width, p.b_width, p.c_width};
    for (int i = 0; i < 6; i++)
        if (sizes[i] > largest) largest = sizes[i];
    size_t starts = (uintptr_t)p.a | (uintptr_t)p.b | (uintptr_t)p.c | bytes_of(p.type, p.a_width) |
                    bytes_of(p.type, p.b_width) | bytes_of(p.c_type, p.c_width);
    return p.type == p.c_type && starts % VECTOR_BYTES == 0 && largest <= INT_MAX;
}

// All experts' products by one library call; false when it has no such product. Column-major as in
// matmul_plan.c: its A is our b.
static bool multiply_by_library(Device *dev, MatrixProduct p, Segments rows) {
    if (dev->fixed_order || rows.parts != 1 || !library_groups(dev, p, rows)) return false;
    CudaState *state = cuda_state(dev);
    GroupedCall *call = grouped_call(dev, rows.groups);
    int count = 0;
    for (int64_t g = 0; g < rows.groups; g++) {
        int64_t r = rows.offsets[g + 1] - rows.offsets[g];
        if (r == 0) continue;
        call->a_op[count] = p.b_transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
        call->b_op[count] = p.a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
        call->m[count] = (int)p.n;
        call->n[count] = (int)(p.a_transposed ? p.m : r);
        call->k[count] = (int)(p.a_transposed ? r : p.depth);
        call->lda[count] = (int)p.b_width;
        call->ldb[count] = (int)p.a_width;
        call->ldc[count] = (int)p.c_width;
        call->size[count] = 1;
        call->alpha[count] = 1.0f;
        call->beta[count] = 0.0f;
        count++;
    }
    if (count == 0) return true;
    const void **pointers = cuda_workspace(dev, (size_t)(3 * rows.groups) * sizeof *pointers);
    bool by_rows = !p.a_transposed;
    PointerRule a = {p.a, (int64_t)bytes_of(p.type, p.a_width), 0}, b = {p.b, 0, 0},
                c = {p.c, 0, 0};
    *(by_rows ? &b.group_bytes : &b.row_bytes) =
        (int64_t)bytes_of(p.type, by_rows ? p.n * p.depth : p.b_width);
    *(by_rows ? &c.row_bytes : &c.group_bytes) =
        (int64_t)bytes_of(p.c_type, by_rows ? p.c_width : p.m * p.n);
    grouped_pointers(dev, pointers, b, a, c,
                     (SegmentRows){rows.device_offsets.data, rows.groups, 1});
    cudaDataType_t type = p.type == BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasStatus_t status = cublasGemmGroupedBatchedEx(
        state->blas, call->a_op, call->b_op, call->m, call->n, call->k, call->alpha, pointers, type,
        call->lda, pointers + rows.groups, type, call->ldb, call->beta,
        (void *const *)(pointers + 2 * rows.groups), type, call->ldc, count, call->size,
        CUBLAS_COMPUTE_32F);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return false;
    CUBLAS_CHECK(status);
    return true;
}

static SegmentRows segment_rows(Segments rows) {
    return (SegmentRows){rows.device_offsets.data, segment_count(rows), rows.parts};
}

static void multiply_rows(Device *dev, MatrixProduct p, Segments rows) {
    int64_t first = rows.offsets[0];
    p.m = rows.offsets[segment_count(rows)] - first;
    if (p.m == 0) return;
    if (is_dense(rows)) {
        p.c = (char *)p.c + bytes_of(p.c_type, first * p.c_width);
        p.a = (const char *)p.a + bytes_of(p.type, first * p.a_width);
        multiply(dev, p);
        return;
    }
    if (!multiply_by_library(dev, p, rows)) grouped_matmul_rows(dev, p, segment_rows(rows));
}

// ---- the ops ------------------------------------------------------------------------------------

void matmul_forward_cuda(Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    int64_t N = y.shape[1], K = x.shape[1];
    MatrixProduct p = {.type = x.dtype, .c_type = y.dtype, .n = N, .depth = K};
    p.c = elements_from(y, 0), p.c_width = N;
    p.a = elements_from(x, 0), p.a_width = K;
    p.b = elements_from(w, 0), p.b_width = K;
    multiply_rows(dev, p, rows);
}

void matmul_backward_input_cuda(Device *dev, Tensor dx, Tensor dy, Tensor w, Segments rows) {
    int64_t N = dy.shape[1], K = dx.shape[1];
    MatrixProduct p = {.type = dy.dtype, .c_type = dx.dtype, .n = K, .depth = N};
    p.c = elements_from(dx, 0), p.c_width = K;
    p.a = elements_from(dy, 0), p.a_width = N;
    p.b = elements_from(w, 0), p.b_width = K, p.b_transposed = true;
    multiply_rows(dev, p, rows);
}

void matmul_backward_weight_cuda(Device *dev, Tensor dw, Tensor dy, Tensor x, Segments rows) {
    int64_t N = dy.shape[1], K = x.shape[1];
    MatrixProduct p = {.type = x.dtype, .c_type = F32, .m = N, .n = K};
    p.c = elements_from(dw, 0), p.c_width = K;
    p.a = elements_from(dy, 0), p.a_width = N, p.a_transposed = true;
    p.b = elements_from(x, 0), p.b_width = K, p.b_transposed = true;
    if (N == 0 || K == 0) return;
    if (is_dense(rows)) {
        dense_weight(dev, p, rows);
        return;
    }
    if (!multiply_by_library(dev, p, rows)) {
        grouped_matmul_weight(dev, p, segment_rows(rows));
        return;
    }
    // The library knows nothing of groups without rows.
    for (int64_t g = 0; g < rows.groups; g++)
        if (rows.offsets[g] == rows.offsets[g + 1])
            CUDA_CHECK(cudaMemsetAsync((char *)p.c + bytes_of(F32, g * N * K), 0,
                                       bytes_of(F32, N * K), cuda_state(dev)->compute));
}
