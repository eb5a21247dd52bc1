// With dev->fixed_order a row of y = x wᵀ and dx = dy w must not change with the number of rows
// around it, but cuBLASLt chooses its algorithm by the size, and algorithms differ in the order of
// a sum. So one is chosen here for a layer's (n, depth, types), for ROWS rows and without any split
// of the summed dimension, and used for every number of rows. What that rests on: NVIDIA documents
// the same bits for the same call on the same kind of GPU and library version. That an algorithm
// with a fixed tile and one sum over the whole depth gives a row the same bits in a call with fewer
// rows is our inference: the kernel runs over the depth in its own steps whatever the number of
// tiles. There are kernels that do not (they cut the depth where the last wave of tiles leaves
// multiprocessors idle), and no attribute tells them apart. Therefore:
//
//   - a library that knows of batch invariance (13.10) is asked for it;
//   - each algorithm is tried before its first use, on known numbers in a matrix of the layer's own
//     width, with row counts on
//     both sides of tiles and of waves, and rejected when a bit differs. A number of rows that it
//       refuses is no reason:
//     such a product is done in pieces, or with rows added, which changes no bit;
//   - algorithms with an option of the vendor's own are tried after the plain ones;
//   - when all are rejected, our own kernel, which needs no inference, does the layer, and the log
//     says so.
//
// Choices follow from shapes and the library alone, so all ranks make the same ones as long as they
// have the same GPUs and the same cuBLAS; the session compares them (worker/same_gpu.c).
//
// The weight gradient sums over rows: its bits belong to the part's own number of rows, and the
// algorithm may follow it and split the rows. Libraries up to 13.1 are reported to leave out the
// last rows of some split sums where their number is no multiple of the kernel's step; a split is
// taken for multiples of the largest step only.
//
// Long because the search, its checks row by row and its memory are one argument.
#include "kernels/cuda/matmul_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_device.h"
#include "kernels/integers.h"

enum {
    ROWS = 2048, // for which an algorithm is chosen that serves all row counts
    CANDIDATES = 8,
    VECTOR_BYTES = 16,  // cuBLAS's fast kernels want every row to start at a multiple
    LARGEST_TILE = 256, // rows or columns, of the library's kernels
    LARGEST_STEP = 128, // of the summed dimension
    LEAST_ROWS = 64,    // of a trial; larger ones have a multiple
    PLANS = 512,
    TEXT_BYTES = 192,
};
// For trying an algorithm: of the matrix of a layer, and of rows and their results.
static const size_t MATRIX_BYTES = (size_t)128 << 20, ROWS_BYTES = (size_t)128 << 20;
static const size_t BATCH_INVARIANCE_VERSION = 131000; // of cuBLASLt

// ---- plans --------------------------------------------------------------------------------------

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
    int64_t present_m;     // the rows that the layouts say
    bool accepts_present;  // whether cuBLASLt takes them for the algorithm
    int number;            // which of the table's plans was made before
    char text[TEXT_BYTES]; // for the log; the same on every rank that made the same choice
} Plan;

typedef struct PlanTable { // state->matmul_plans
    Plan plans[PLANS];     // open addressing
    int count;
} PlanTable;

static PlanTable *plan_table(Device *dev) {
    CudaState *state = cuda_state(dev);
    if (!state->matmul_plans) state->matmul_plans = calloc(1, sizeof(PlanTable));
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

static void empty_table(PlanTable *table) {
    for (int i = 0; i < PLANS; i++) plan_close(&table->plans[i]);
    table->count = 0;
}

void matmul_plans_free(CudaState *state) {
    if (!state->matmul_plans) return;
    empty_table(state->matmul_plans);
    free(state->matmul_plans);
    state->matmul_plans = NULL;
}

static size_t bytes_of(DType type, int64_t n) {
    return (size_t)n * dtype_bytes(type);
}

static cublasLtMatrixLayout_t layout(DType type, int64_t rows, int64_t columns, int64_t width) {
    cublasLtMatrixLayout_t made;
    CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&made, type == BF16 ? CUDA_R_16BF : CUDA_R_32F,
                                            (uint64_t)rows, (uint64_t)columns, width));
    return made;
}

static void set_operation(cublasLtMatmulDesc_t description, cublasLtMatmulDescAttributes_t which,
                          bool transposed) {
    int32_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(description, which, &operation, sizeof operation));
}

// A power of two that all rows of the product's matrices start at a multiple of: a property of the
// shape, not of where the matrices lie, so that the choice of an algorithm is the same for all
// parts and ranks.
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

static void ask_for_invariance(cublasLtMatmulDesc_t description, MatrixProduct p) {
#if CUBLAS_VERSION >= 131000
    if (cublasLtGetVersion() < BATCH_INVARIANCE_VERSION) return;
    // By alignment, and not AUTO, which looks at the pointers of each call.
    int32_t flags = CUBLASLT_BATCH_INVARIANCE_ALIGN_2B;
    for (uint32_t bytes = 2; bytes < row_alignment(p); bytes *= 2) flags++;
    CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(
        description, CUBLASLT_MATMUL_DESC_BATCH_INVARIANCE_FLAGS, &flags, sizeof flags));
#else
    (void)description, (void)p, (void)BATCH_INVARIANCE_VERSION;
#endif
}

static void plan_describe(Plan *plan, MatrixProduct p, bool any_rows) {
    CUBLAS_CHECK(cublasLtMatmulDescCreate(&plan->description, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    set_operation(plan->description, CUBLASLT_MATMUL_DESC_TRANSA, !p.b_transposed);
    set_operation(plan->description, CUBLASLT_MATMUL_DESC_TRANSB, p.a_transposed);
    if (any_rows) ask_for_invariance(plan->description, p);
    plan->a = p.b_transposed ? layout(p.type, p.n, p.depth, p.b_width)
                             : layout(p.type, p.depth, p.n, p.b_width);
    plan->b = p.a_transposed ? layout(p.type, p.m, p.depth, p.a_width)
                             : layout(p.type, p.depth, p.m, p.a_width);
    plan->c = layout(p.c_type, p.n, p.m, p.c_width);
    plan->present_m = p.m;
}

// Whether the plan's algorithm can do its present shape within the workspace.
static bool plan_accepts(Device *dev, const Plan *plan) {
    cublasLtMatmulHeuristicResult_t result;
    cublasStatus_t status =
        cublasLtMatmulAlgoCheck(cuda_state(dev)->lt, plan->description, plan->a, plan->b, plan->c,
                                plan->c, &plan->algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= cuda_state(dev)->library_workspace_bytes;
}

// Whether the plan's algorithm can do this number of rows; the next plan_run does as many. For
// rows, a not transposed.
static bool plan_takes_rows(Device *dev, Plan *plan, int64_t m) {
    if (plan->present_m == m) return plan->accepts_present;
    uint64_t columns = (uint64_t)m;
    CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(plan->b, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                  sizeof columns));
    CUBLAS_CHECK(cublasLtMatrixLayoutSetAttribute(plan->c, CUBLASLT_MATRIX_LAYOUT_COLS, &columns,
                                                  sizeof columns));
    plan->present_m = m;
    plan->accepts_present = plan_accepts(dev, plan);
    return plan->accepts_present;
}

static void plan_run(Device *dev, const Plan *plan, MatrixProduct p) {
    CudaState *state = cuda_state(dev);
    const float one = 1.0f, zero = 0.0f;
    CUBLAS_CHECK(cublasLtMatmul(state->lt, plan->description, &one, p.b, plan->a, p.a, plan->b,
                                &zero, p.c, plan->c, p.c, plan->c, &plan->algorithm,
                                state->library_workspace, state->library_workspace_bytes,
                                state->compute));
}

// ---- what the library offers --------------------------------------------------------------------

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
    bool is_short = attribute == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID ||
                    attribute == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
    uint32_t value = 0; // little-endian: the lower half is a number of two bytes
    size_t written = 0;
    CUBLAS_CHECK(cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, &value,
                                                      is_short ? 2 : sizeof value, &written));
    return value;
}

static uint32_t splits_of(const cublasLtMatmulAlgo_t *algorithm) {
    return algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM);
}

static bool sums_in_one_piece(const cublasLtMatmulAlgo_t *algorithm) {
    return splits_of(algorithm) <= 1 &&
           algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME) ==
               CUBLASLT_REDUCTION_SCHEME_NONE;
}

// ---- trying an algorithm ------------------------------------------------------------------------

size_t matmul_trial_bytes(void) {
    return MATRIX_BYTES + ROWS_BYTES;
}

// Rows of the largest trial: more than two waves of the largest tiles, as far as there is room for
// them.
static int64_t trial_rows(Device *dev, MatrixProduct p) {
    int64_t tiles_across = (p.n + LARGEST_TILE - 1) / LARGEST_TILE;
    int64_t tiles_down = 2 * cuda_state(dev)->multiprocessors / tiles_across + 1;
    size_t row_bytes = bytes_of(p.type, p.a_width) + 2 * bytes_of(p.c_type, p.c_width);
    return smaller(tiles_down * LARGEST_TILE,
                   (int64_t)(ROWS_BYTES / row_bytes) / LEAST_ROWS * LEAST_ROWS);
}

static void download_bytes(Device *dev, void *to, const void *from, size_t bytes) {
    CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_state(dev)->compute));
    CUDA_CHECK(cudaStreamSynchronize(cuda_state(dev)->compute));
}

// What a trial of a layer's algorithms needs, made once for all of them.
typedef struct Trial {
    MatrixProduct all; // of the most rows
    char *some;        // room for the results of fewer rows
    char *want, *got;  // on the host
    void *memory[4];   // of the device
    size_t bytes[4];
    int count;
} Trial;

static char *take(Device *dev, Trial *trial, size_t bytes) {
    trial->bytes[trial->count] = bytes;
    return trial->memory[trial->count++] = device_allocate(dev, bytes, "a trial of cuBLASLt");
}

// False when not even LEAST_ROWS have room.
static bool trial_open(Device *dev, Trial *trial, MatrixProduct p) {
    *trial = (Trial){.all = p};
    MatrixProduct *all = &trial->all;
    all->m = trial_rows(dev, p);
    if (all->m < LEAST_ROWS) return false;
    int64_t matrix = (p.b_transposed ? p.depth : p.n) * p.b_width;
    size_t c_bytes = bytes_of(p.c_type, all->m * p.c_width);
    char *a = take(dev, trial, bytes_of(p.type, all->m * p.a_width));
    fill_test_pattern(dev, a, p.type, all->m * p.a_width, 1);
    all->a = a;
    // A matrix of a vocabulary is tried as it is: nothing else has room for so large a one.
    if (bytes_of(p.type, matrix) <= MATRIX_BYTES) {
        char *b = take(dev, trial, bytes_of(p.type, matrix));
        fill_test_pattern(dev, b, p.type, matrix, 2);
        all->b = b;
    }
    all->c = take(dev, trial, c_bytes);
    trial->some = take(dev, trial, c_bytes);
    trial->want = malloc(2 * c_bytes);
    CHECK_MEMORY(trial->want, "no memory to try an algorithm");
    trial->got = trial->want + c_bytes;
    return true;
}

static void trial_close(Device *dev, Trial *trial) {
    for (int i = 0; i < trial->count; i++) device_release(dev, trial->memory[i], trial->bytes[i]);
    free(trial->want);
}

// Multiplies by the plan's algorithm all rows of the trial, and then fewer of the same rows, the
// first or the last, and compares the bits. Counts that the algorithm refuses are left out, but
// some must have been compared.
static bool rows_are_independent(Device *dev, const Plan *plan, const Trial *trial) {
    MatrixProduct p = trial->all;
    int64_t most = p.m;
    size_t a_bytes = bytes_of(p.type, p.a_width), c_bytes = bytes_of(p.c_type, p.c_width);
    Plan tried = {.algorithm = plan->algorithm};
    plan_describe(&tried, p, true);
    tried.accepts_present = plan_accepts(dev, &tried);
    while (most >= LEAST_ROWS && !plan_takes_rows(dev, &tried, most))
        most = most / 2 / LEAST_ROWS * LEAST_ROWS;
    p.m = most;
    bool same = most >= LEAST_ROWS;
    int compared = 0;
    if (same) {
        plan_run(dev, &tried, p);
        download_bytes(dev, trial->want, p.c, c_bytes * (size_t)most);
    }
    // Around one tile of any size, around one wave and two, and the few rows of text that is
    // generated.
    const int64_t counts[] = {most - 1, most / 2 + 1, most / 2, 513, 257, 160, 128, 65, 17, 1};
    for (size_t i = 0; i < sizeof counts / sizeof *counts && same; i++) {
        if (counts[i] >= most || !plan_takes_rows(dev, &tried, counts[i])) continue;
        int64_t first = i % 2 == 0 ? most - counts[i] : 0;
        size_t bytes = c_bytes * (size_t)counts[i];
        p.a = (const char *)trial->all.a + a_bytes * (size_t)first, p.c = trial->some;
        plan_run(dev, &tried, p);
        download_bytes(dev, trial->got, trial->some, bytes);
        same = memcmp(trial->got, trial->want + c_bytes * (size_t)first, bytes) == 0;
        compared++;
    }
    plan_close(&tried);
    return same && compared > 1;
}

// ---- choosing one -------------------------------------------------------------------------------

// For a product of its own size: any sum in a fixed order, a split one through the workspace in
// f32.
static int choose_for_size(Device *dev, Plan *plan, MatrixProduct p) {
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    int found = heuristic(dev, plan, p, schemes, results);
    for (int i = 0; i < found && !plan->library; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        plan->algorithm = results[i].algo;
        plan->library = (splits_of(&plan->algorithm) <= 1 || p.depth % LARGEST_STEP == 0) &&
                        plan_accepts(dev, plan);
    }
    return found;
}

static int choose_for_any_rows(Device *dev, Plan *plan, MatrixProduct p) {
    cublasLtMatmulHeuristicResult_t results[CANDIDATES];
    int found = heuristic(dev, plan, p, CUBLASLT_REDUCTION_SCHEME_NONE, results);
    Trial trial;
    if (found == 0 || !trial_open(dev, &trial, p)) return found;
    for (int with_option = 0; with_option < 2; with_option++)
        for (int i = 0; i < found && !plan->library; i++) {
            if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
            uint32_t option =
                algorithm_number(&results[i].algo, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION);
            if ((option != 0) != (with_option != 0)) continue;
            plan->algorithm = results[i].algo;
            plan->library = plan_accepts(dev, plan) && sums_in_one_piece(&plan->algorithm) &&
                            rows_are_independent(dev, plan, &trial);
        }
    trial_close(dev, &trial);
    return found;
}

static void write_text(Plan *plan, MatrixProduct p, bool any_rows, int found) {
    char rows[32] = "any rows";
    if (!any_rows) snprintf(rows, sizeof rows, "%lld rows", (long long)p.m);
    int used = snprintf(plan->text, TEXT_BYTES, "%s x %lld, summed over %lld, %s to %s%s: ", rows,
                        (long long)p.n, (long long)p.depth, dtype_name(p.type),
                        dtype_name(p.c_type), p.b_transposed ? ", transposed" : "");
    char *rest = plan->text + used;
    size_t room = TEXT_BYTES - (size_t)used;
    const cublasLtMatmulAlgo_t *algorithm = &plan->algorithm;
    if (plan->library)
        snprintf(rest, room, "cuBLASLt algorithm %u, tile %u, stages %u, cluster %u, option %u",
                 algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_ID),
                 algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID),
                 algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID),
                 algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID),
                 algorithm_number(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION));
    else
        snprintf(rest, room, "OWN KERNEL, none of cuBLASLt's %d algorithms %s", found,
                 any_rows ? "gives a row the same bits among any others" : "can do it");
}

static uint64_t hash(const PlanKey *key) { // FNV-1a
    uint64_t value = 14695981039346656037u;
    const unsigned char *bytes = (const unsigned char *)key;
    for (size_t i = 0; i < sizeof *key; i++) value = (value ^ bytes[i]) * 1099511628211u;
    return value;
}

// The plan for the product; made when it is the first of its kind.
static Plan *plan_for(Device *dev, MatrixProduct p) {
    PlanTable *table = plan_table(dev);
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
    Plan *plan = &table->plans[at];
    plan->key = key;
    plan->number = table->count++;
    if (any_rows) p.m = ROWS;
    plan_describe(plan, p, any_rows);
    int found = any_rows ? choose_for_any_rows(dev, plan, p) : choose_for_size(dev, plan, p);
    plan->accepts_present = plan->library;
    write_text(plan, p, any_rows, found);
    return plan;
}

void matmul_plans_describe(Device *dev, ProductLine say, void *context) {
    const PlanTable *table = plan_table(dev);
    for (int number = 0; number < table->count; number++)
        for (int i = 0; i < PLANS; i++) {
            const Plan *plan = &table->plans[i];
            if (plan->description && plan->number == number && (plan->key.m == 0 || !plan->library))
                say(context, plan->text);
        }
}

// ---- products -----------------------------------------------------------------------------------

// The largest power of two of rows that the algorithm takes, at most `most`; 0 when there is none.
// ROWS it has taken.
static int64_t piece_rows(Device *dev, Plan *plan, int64_t most) {
    int64_t rows = ROWS;
    while (rows > most) rows /= 2;
    while (rows > 0 && !plan_takes_rows(dev, plan, rows)) rows /= 2;
    return rows;
}

// Fewer rows than the algorithm takes: with others behind them, whose results are thrown away.
static void run_with_added_rows(Device *dev, Plan *plan, MatrixProduct p) {
    int64_t rows = 1;
    while (rows < p.m || (rows < ROWS && !plan_takes_rows(dev, plan, rows))) rows *= 2;
    CHECK(plan_takes_rows(dev, plan, rows),
          "cuBLASLt's algorithm for products of %lld by %lld "
          "does not take the %lld rows it was chosen for",
          (long long)p.n, (long long)p.depth, (long long)rows);
    cudaStream_t stream = cuda_state(dev)->compute;
    size_t a_bytes = bytes_of(p.type, p.m * p.a_width),
           c_bytes = bytes_of(p.c_type, p.m * p.c_width);
    size_t room = (bytes_of(p.type, rows * p.a_width) + 255) / 256 * 256;
    char *a = cuda_workspace(dev, room + bytes_of(p.c_type, rows * p.c_width)), *c = a + room;
    CUDA_CHECK(cudaMemsetAsync(a + a_bytes, 0, room - a_bytes, stream));
    CUDA_CHECK(cudaMemcpyAsync(a, p.a, a_bytes, cudaMemcpyDeviceToDevice, stream));
    MatrixProduct wide = p;
    wide.m = rows, wide.a = a, wide.c = c;
    plan_run(dev, plan, wide);
    CUDA_CHECK(cudaMemcpyAsync(p.c, c, c_bytes, cudaMemcpyDeviceToDevice, stream));
}

bool matmul_by_plan(Device *dev, MatrixProduct p) {
    if (!is_aligned(p)) return false;
    Plan *plan = plan_for(dev, p);
    if (!plan->library) return false;
    while (p.m > 0) {
        MatrixProduct piece = p;
        if (!plan_takes_rows(dev, plan, p.m)) piece.m = piece_rows(dev, plan, p.m);
        if (piece.m == 0) {
            run_with_added_rows(dev, plan, p);
            return true;
        }
        plan_run(dev, plan, piece);
        p.m -= piece.m;
        p.a = (const char *)p.a + bytes_of(p.type, piece.m * p.a_width);
        p.c = (char *)p.c + bytes_of(p.c_type, piece.m * p.c_width);
    }
    return true;
}
