// The matrix products: dense layers by cuBLASLt, experts by one launch for all of them.
//
// f32 matrices are multiplied in f32 (no TF32), bf16 ones by tensor cores with f32 sums; a result is rounded once.
//
// With dev->fixed_order a row of y = x wᵀ and dx = dy w must not change with the number of rows around it, but cuBLASLt
// chooses its algorithm by the size, and algorithms differ in the order of a sum. So one is chosen here for a layer's (n,
// depth, types), for ROWS rows and without any split of the summed dimension, and used for every number of rows. What that
// rests on: NVIDIA documents the same bits for the same call on the same kind of GPU and library version. That an algorithm
// with a fixed tile and one sum over the whole depth gives a row the same bits in a call with fewer rows is our inference:
// the kernel runs over the depth in its own steps whatever the number of tiles. Each algorithm is therefore tried on known
// numbers with three row counts before its first use, and rejected when a bit differs; when all are, our own kernel
// (grouped_matmul_cuda.cu), which needs no inference, does the layer. Choices follow from shapes and the library alone, so
// all ranks make the same ones as long as they have the same GPUs and the same cuBLAS.
//
// The weight gradient sums over rows: its bits belong to the part's own number of rows, and the algorithm may follow it.
// Parts are products of their own, added up as the fixed binary tree in f32. That is done for slices of dw's rows, whose
// height depends on the shape alone, so that the tree's memory does not grow with the vocabulary.
//
// Experts: with fixed_order our own kernel; otherwise cublasGemmGroupedBatchedEx, where it has the types and the alignment.
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/grouped_matmul.h"

enum {
    ROWS = 2048, // for which an algorithm is chosen that serves all row counts
    CANDIDATES = 8,
    VECTOR_BYTES = 16, // cuBLAS's fast kernels want every row to start at a multiple
    PLANS = 512,
};
static const size_t SLICE_BYTES = (size_t)16 << 20; // of dw, in a tree of parts
enum { SLICE_ROWS = 512 };                          // a slice is a multiple
static const size_t TEST_BYTES = (size_t)32 << 20;  // for trying an algorithm
enum { TEST_COLUMNS = 128 };

// ---- plans ---------------------------------------------------------------------------------------------

// A product without its pointers.
typedef struct PlanKey {
    int64_t m; // 0: any number of rows
    int64_t n, depth, c_width, a_width, b_width;
    int32_t type, c_type, a_transposed, b_transposed;
} PlanKey;

// cuBLASLt's matrices are column-major: c (m, n) is its D (n, m), our b its A, our a its B.
typedef struct Plan {
    PlanKey key;
    cublasLtMatmulDesc_t description; // NULL: an empty place of the table
    cublasLtMatrixLayout_t a, b, c;
    bool library; // cuBLASLt does it, otherwise our own kernel
    cublasLtMatmulAlgo_t algorithm;
    int64_t checked_m; // the row count that cuBLASLt has last accepted for the algorithm
} Plan;

// What cublasGemmGroupedBatchedEx reads on the host, an entry for each expert with rows; all entries are 4 bytes.
typedef struct GroupedCall {
    int64_t room;
    cublasOperation_t *a_op, *b_op;
    int *m, *n, *k, *lda, *ldb, *ldc, *size;
    float *alpha, *beta;
    int32_t *memory; // of all of them
} GroupedCall;

typedef struct MatmulState { // state->matmul_plans
    Plan plans[PLANS];       // open addressing
    int count;
    GroupedCall grouped;
} MatmulState;

static MatmulState *matmul_state(Device *dev) {
    CudaState *state = cuda_state(dev);
    if (!state->matmul_plans) state->matmul_plans = calloc(1, sizeof(MatmulState));
    CHECK_MEMORY(state->matmul_plans, "no memory for the table of matrix products");
    return state->matmul_plans;
}

static void plan_close(Plan *plan) {
    if (!plan->description) return;
    CUBLAS_CHECK(cublasLtMatmulDescDestroy(plan->description));
    CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->a));
    CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->b));
    CUBLAS_CHECK(cublasLtMatrixLayoutDestroy(plan->c));
    *plan = (Plan){0};
}

static void empty_table(MatmulState *table) {
    for (int i = 0; i < PLANS; i++) plan_close(&table->plans[i]);
    table->count = 0;
}

void matmul_plans_free(CudaState *state) {
    MatmulState *table = state->matmul_plans;
    if (!table) return;
    empty_table(table);
    free(table->grouped.memory);
    free(table);
    state->matmul_plans = NULL;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static size_t bytes_of(DType type, int64_t n) {
    return (size_t)n * dtype_bytes(type);
}

static cudaDataType_t library_type(DType type) {
    return type == BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t columns, int64_t width) {
    cublasLtMatrixLayout_t made;
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&made, library_type(type), (uint64_t)rows,
                                            (uint64_t)columns, width));
    return made;
}

static void set_operation(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t which,
                          bool transposed) {
    int32_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(description, which, &operation, sizeof operation));
}

static void plan_describe(Plan *plan, MatrixProduct p) {
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&plan->description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set_operation(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, !p.b_transposed);
    set_operation(plan->description, CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed);
    plan->a = p.b_transposed ? layout(p.type, p.n, p.depth, p.b_width)
                             : layout(p.type, p.depth, p.n, p.b_width);
    plan->b = p.a_transposed ? layout(p.type, p.m, p.depth, p.a_width)
                             : layout(p.type, p.depth, p.m, p.a_width);
    plan->c = layout(p.c_type, p.n, p.m, p.c_width);
}

// For rows, a not transposed.
static void plan_set_rows(Plan *plan, int64_t m) {
    uint64_t columns = (uint64_t)m;
    CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(plan->b, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                  sizeof columns));
    CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(plan->c, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                  sizeof columns));
}

// Whether the plan's algorithm can do its present shape within the workspace.
static bool plan_accepts(Device *dev, Plan *plan) {
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(cuda_state(dev)->lt, plan->description, plan->a, plan->b, plan->c,
                                plan->c, &plan->algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= cuda_state(dev)->library_workspace_bytes;
}

static void plan_run(Device *dev, const Plan *plan, MatrixProduct p) {
    CudaState *state = cuda_state(dev);
    const float one = 1.0f, zero = 0.0f;
    CUBLAS_CHECK(cublasLtMatmul(state->lt, plan->description, &one, p.b, plan->a, p.a, plan->b,
                                &zero, p.c, plan->c, p.c, plan->c, &plan->algorithm,
                                state->library_workspace, state->library_workspace_bytes,
                                state->compute));
}

// ---- choosing an algorithm -----------------------------------------------------------------------------

// A power of two that all rows of the product's matrices start at a multiple of: a property of the shape, not of where the
// matrices lie, so that the choice of an algorithm is the same for all parts and ranks.
static uint32_t row_alignment(MatrixProduct p) {
    size_t steps[] = {bytes_of(p.type, p.a_width), bytes_of(p.type, p.b_width),
                      bytes_of(p.c_type, p.c_width)};
    size_t alignment = VECTOR_BYTES;
    for (int i = 0; i < 3; i++)
        while (steps[i] % alignment != 0) alignment /= 2;
    return (uint32_t)alignment;
}

static bool is_aligned(MatrixProduct p) {
    return ((uintptr_t)p.a | (uintptr_t)p.b | (uintptr_t)p.c) % row_alignment(p) == 0;
}

static void prefer(cublasLtMatmulPreference_t preference,
                   cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
                   size_t bytes) {
    CUBLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes));
}

static int heuristic(Device *dev, const Plan *plan, MatrixProduct p, uint32_t reduction_schemes,
                     cublasLtMatmulHeuristicResult_t *results) {
    uint64_t workspace = cuda_state(dev)->library_workspace_bytes;
    uint32_t alignment = row_alignment(p);
    cublasLtMatmulPreference_t preference;
    CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
    prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction_schemes,
           sizeof reduction_schemes);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &alignment, sizeof alignment);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &alignment, sizeof alignment);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &alignment, sizeof alignment);
    prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &alignment, sizeof alignment);
    int found = 0;
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(cuda_state(dev)->lt, plan->description, plan->a, plan->b,
                                       plan->c, plan->c, preference, CANDIDATES, results, &found);
    CUBLAS_CHECK(cublasLtMatmulPreferenceDestroy(preference));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return 0;
    CUBLAS_CHECK(status);
    return found;
}

static uint32_t algorithm_number(const cublasLtMatmulAlgo_t *algorithm,
                                 cublasLtMatmulAlgoConfigAttributes_t attribute) {
    uint32_t value = 0;
    size_t written = 0;
    CUBLAS_CHECK(
        cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, &value, sizeof value, &written));
    return value;
}

static bool sums_in_one_piece(const cublasLtMatmulAlgo_t *algorithm) {
    return algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) <= 1 &&
           algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) ==
               CUBLASLT_REDUCTION_SCHEME_NONE;
}

static void download_bytes(Device *dev, void *to, const void *from, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_state(dev)->compute));
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->compute));
}

static size_t aligned_up(size_t bytes) {
    return (bytes + 255) / 256 * 256;
}

// Multiplies known numbers by the plan's algorithm with most, some, few and one of the same rows, and compares their bits.
// As large as TEST_BYTES of cuda_workspace allow, with at most TEST_COLUMNS columns. Waits for the device: first step only.
static bool rows_are_independent(Device *dev, const Plan *plan, MatrixProduct p) {
    int64_t line = (int64_t)bytes_of(p.type, p.depth), most_lines = (int64_t)TEST_BYTES / 4 / line;
    int64_t columns = p.n, most = least(ROWS, most_lines);
    if (columns > TEST_COLUMNS) columns = TEST_COLUMNS;
    while (columns > most_lines && columns > VECTOR_BYTES) columns /= 2;
    if (most < 4 || columns > most_lines) return false; // cannot be tried
    size_t row_bytes = bytes_of(p.c_type, columns), all_bytes = row_bytes * (size_t)most;
    size_t x_bytes = aligned_up((size_t)(most * line)),
           w_bytes = aligned_up((size_t)(columns * line));
    char *x = cuda_workspace(dev, x_bytes + w_bytes + 2 * aligned_up(all_bytes));
    char *w = x + x_bytes, *all = w + w_bytes, *some = all + aligned_up(all_bytes);
    MatrixProduct test = p;
    test.n = test.c_width = columns;
    if (p.b_transposed) test.b_width = columns;
    test.m = most;
    test.a = x, test.b = w, test.c = all;
    fill_test_pattern(dev, x, p.type, most * p.depth, 1);
    fill_test_pattern(dev, w, p.type, columns * p.depth, 2);

    Plan tried = {.algorithm = plan->algorithm};
    plan_describe(&tried, test);
    bool same = plan_accepts(dev, &tried);
    char *want = malloc(2 * all_bytes), *got = want + all_bytes;
    CHECK_MEMORY(want, "no memory to try an algorithm");
    if (same) {
        plan_run(dev, &tried, test);
        download_bytes(dev, want, all, all_bytes);
    }
    const int64_t counts[] = {least(160, most / 2 + 1), least(64, most / 4 + 1), 1};
    for (int i = 0; i < 3 && same; i++) {
        int64_t first = most - counts[i];
        test.m = counts[i];
        test.a = x + first * line, test.c = some;
        plan_set_rows(&tried, counts[i]);
        same = plan_accepts(dev, &tried);
        if (!same) break;
        plan_run(dev, &tried, test);
        download_bytes(dev, got, some, row_bytes * (size_t)counts[i]);
        same = memcmp(got, want + row_bytes * (size_t)first, row_bytes * (size_t)counts[i]) == 0;
    }
    free(want);
    plan_close(&tried);
    return same;
}

static void choose_algorithm(Device *dev, Plan *plan, MatrixProduct p) {
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    bool any_rows = plan->key.m == 0;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
    if (!any_rows) // split sums in a fixed order, through the workspace in f32
        schemes |= CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int found = heuristic(dev, plan, p, schemes, results);
    for (int i = 0; i < found && !plan->library; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        plan->algorithm = results[i].algo;
        plan->library = plan_accepts(dev, plan);
        if (any_rows)
            plan->library = plan->library && sums_in_one_piece(&plan->algorithm) &&
                            rows_are_independent(dev, plan, p);
    }
}

static uint64_t hash(const PlanKey *key) { // FNV-1a
    uint64_t value = 14695981039346656037u;
    const unsigned char *bytes = (const unsigned char *)key;
    for (size_t i = 0; i < sizeof *key; i++) value = (value ^ bytes[i]) * 1099511628211u;
    return value;
}

// The plan for a product with at least one element to sum; made when it is the first of its kind.
static Plan *plan_for(Device *dev, MatrixProduct p) {
    MatmulState *table = matmul_state(dev);
    bool any_rows = dev->fixed_order && !p.a_transposed;
    PlanKey key = {any_rows ? 0 : p.m, p.n,           p.depth,         p.c_width,
                   p.a_width,          p.b_width,     (int32_t)p.type, (int32_t)p.c_type,
                   p.a_transposed,     p.b_transposed};
    uint64_t at = hash(&key) % PLANS;
    while (table->plans[at].description) {
        if (memcmp(&table->plans[at].key, &key, sizeof key) == 0) return &table->plans[at];
        at = (at + 1) % PLANS;
    }
    if (table->count == PLANS / 2) { // shapes keep changing: start again
        empty_table(table);
        at = hash(&key) % PLANS;
    }
    table->count++;
    Plan *plan = &table->plans[at];
    plan->key = key;
    if (any_rows) p.m = ROWS;
    plan_describe(plan, p);
    choose_algorithm(dev, plan, p);
    plan->checked_m = p.m;
    return plan;
}

// ---- dense layers --------------------------------------------------------------------------------------

// c = a b for one pair of matrices.
static void multiply(Device *dev, MatrixProduct p) {
    if (p.m == 0 || p.n == 0) return;
    if (p.depth > 0 && is_aligned(p)) {
        Plan *plan = plan_for(dev, p);
        if (plan->library && plan->checked_m != p.m) {
            plan_set_rows(plan, p.m);
            CHECK(plan_accepts(dev, plan),
                  "cuBLASLt's algorithm for products of %lld by %lld does not take %lld rows; set "
                  "train.reproducible: run",
                  (long long)p.n, (long long)p.depth, (long long)p.m);
            plan->checked_m = p.m;
        }
        if (plan->library) {
            plan_run(dev, plan, p);
            return;
        }
    }
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

// Adds up the parts' products, whose rows start at `offsets`, into p.c: the left half there, the right half in `spare`, a
// matrix for each level below this one. p.a and p.b are the first rows of their tensors.
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
    slice = least(slice, p.m);
    int levels = 0;
    while ((int64_t)1 << levels < rows.parts) levels++;
    float *spare = NULL;
    if (levels > 0) spare = cuda_workspace(dev, bytes_of(F32, levels * slice * p.c_width));
    for (int64_t first = 0; first < p.m; first += slice) {
        MatrixProduct part = p;
        part.m = least(slice, p.m - first);
        part.a = (const char *)p.a + bytes_of(p.type, first);
        part.c = (char *)p.c + bytes_of(F32, first * p.c_width);
        sum_parts(dev, part, rows.offsets, rows.parts, spare);
    }
}

// ---- experts -------------------------------------------------------------------------------------------

static GroupedCall *grouped_call(Device *dev, int64_t groups) {
    enum { ARRAYS = 11 };
    GroupedCall *call = &matmul_state(dev)->grouped;
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

// Whether cublasGemmGroupedBatchedEx takes such products: one type for all three matrices, and 16-byte aligned rows, which
// its bf16 kernels read by vectors.
static bool library_groups(MatrixProduct p, Segments rows) {
    int64_t largest = rows.offsets[segment_count(rows)];
    const int64_t sizes[] = {p.n, p.m, p.depth, p.a_width, p.b_width, p.c_width};
    for (int i = 0; i < 6; i++)
        if (sizes[i] > largest) largest = sizes[i];
    return p.type == p.c_type && row_alignment(p) == VECTOR_BYTES && is_aligned(p) &&
           largest <= INT_MAX;
}

// All experts' products by one library call; false when it has no such product. Column-major as in Plan: its A is our b.
static bool multiply_by_library(Device *dev, MatrixProduct p, Segments rows) {
    if (dev->fixed_order || rows.parts != 1 || !library_groups(p, rows)) return false;
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
    cudaDataType_t type = library_type(p.type);
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

// ---- the ops -------------------------------------------------------------------------------------------

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
