// The part of cuBLASLt that the program uses. An algorithm (64 opaque bytes) says in which order it
// adds along k, whatever the shape of the product, as kernels do; the heuristic chooses another for
// nearly every other size. An algorithm remembers for which types, transpositions and alignment it
// was found and may not be used for others.
//
// MOETRAIN_EMULATION_CUBLASLT takes that back, by words with commas between:
//   few        algorithms refuse numbers of rows (D's columns) that are no multiple of 8
//   many       algorithms refuse more than 2048 rows
//   rows       every algorithm adds in another order for another number of rows
//   waves
//   where a layer has more than one tile of columns, the tiles of the last wave that is not full
//     are added in two
//              halves, as by kernels that give idle multiprocessors a part of the depth
//   tail       a split sum leaves out the products behind the last multiple of 64
//
// Long because it checks every attribute that the library has.
#include <cublasLt.h>

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <set>
#include <string>

#include "cublas_checks.h"
#include "emulation.h"

using emulation::die;
using emulation::Operand;
using emulation::Product;

#define FAIL_WHEN_ASKED()                                                                          \
    if (emulation::fails(__func__)) return CUBLAS_STATUS_EXECUTION_FAILED

namespace {

struct Description { // a cublasLtMatmulDesc_t
    bool transposed_a, transposed_b;
};
struct Layout { // a cublasLtMatrixLayout_t
    cudaDataType type;
    int64_t rows, columns, ld, batches, batch_stride;
    bool row_major;
};
struct Preference { // a cublasLtMatmulPreference_t
    uint64_t workspace_bytes;
    uint32_t reduction_schemes;
    uint32_t alignment[4]; // of A, B, C, D
};
struct Algorithm { // a cublasLtMatmulAlgo_t
    uint32_t magic;
    int32_t id;
    uint32_t tile, stages;
    int32_t splits;
    uint32_t scheme;
    uint32_t kind;      // kind_of
    uint32_t alignment; // of pointers and leading dimensions, in bytes
    int32_t m, n, k;    // what it was found for
    uint32_t swizzling;
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

bool behaves(const char *word) {
    static const std::string said = [] {
        const char *words = getenv("MOETRAIN_EMULATION_CUBLASLT");
        return "," + std::string(words ? words : "") + ",";
    }();
    return said.find("," + std::string(word) + ",") != std::string::npos;
}

const uint32_t MAGIC = 0x6c74616c;
const int32_t ID = 66;
const uint32_t TILES[emulation::ALGORITHMS] = {
    CUBLASLT_MATMUL_TILE_64x64,   CUBLASLT_MATMUL_TILE_64x128, CUBLASLT_MATMUL_TILE_128x64,
    CUBLASLT_MATMUL_TILE_128x128, CUBLASLT_MATMUL_TILE_64x256, CUBLASLT_MATMUL_TILE_256x64,
    CUBLASLT_MATMUL_TILE_128x256, CUBLASLT_MATMUL_TILE_256x128};
enum { MAX_SPLITS = 16 };

std::set<void *> handles, objects;

template <typename T, typename Handle> T *checked(Handle handle, const char *call) {
    if (!objects.count(handle)) die("%s: a descriptor that does not exist", call);
    return reinterpret_cast<T *>(handle);
}

template <typename T, typename Handle> void create(Handle *handle, const T &value) {
    T *object = new T(value);
    objects.insert(object);
    *handle = reinterpret_cast<Handle>(object);
}

template <typename T, typename Handle> cublasStatus_t destroy(Handle handle, const char *call) {
    T *object = checked<T>(handle, call);
    objects.erase(object);
    delete object;
    return CUBLAS_STATUS_SUCCESS;
}

template <typename T> T read_as(const void *buffer, size_t bytes, const char *call, int attribute) {
    T value;
    if (!buffer || bytes != sizeof value)
        die("%s: attribute %d has %zu bytes, not %zu", call, attribute, sizeof value, bytes);
    memcpy(&value, buffer, sizeof value);
    return value;
}

void check_handle(cublasLtHandle_t handle, const char *call) {
    if (!handles.count(handle)) die("%s: this handle is not open", call);
}

// The problem without pointers.
struct Problem {
    Product product;
    uint32_t kind;
};

Operand operand(const Layout &x) {
    return {nullptr, x.type, x.rows, x.columns, x.ld, x.batch_stride, x.row_major, false};
}

Problem problem_of(const Description &op, const Layout &a, const Layout &b, const Layout &c,
                   const Layout &d, const char *call) {
    Product p = {d.rows,     d.columns,  op.transposed_a ? a.rows : a.columns,
                 d.batches,  1,          0,
                 operand(a), operand(b), operand(c),
                 operand(d)};
    p.a.transposed = op.transposed_a;
    p.b.transposed = op.transposed_b;
    int64_t m = op.transposed_a ? a.columns : a.rows, k = op.transposed_b ? b.columns : b.rows;
    int64_t n = op.transposed_b ? b.rows : b.columns;
    if (m != p.m || n != p.n || k != p.k || c.rows != d.rows || c.columns != d.columns)
        die("%s: op(A) is %ld by %ld, op(B) %ld by %ld, C %ld by %ld, D %ld by %ld", call, m, p.k,
            k, n, c.rows, c.columns, d.rows, d.columns);
    if (a.batches != d.batches || b.batches != d.batches || c.batches != d.batches)
        die("%s: batches of A %ld, B %ld, C %ld, D %ld", call, a.batches, b.batches, c.batches,
            d.batches);
    if (c.row_major != d.row_major) die("%s: C and D differ in order", call);
    uint32_t kind = 0;
    for (const Layout *x : {&a, &b, &c, &d})
        kind = kind * 4 + 2 * (x->type == CUDA_R_16BF) + x->row_major;
    kind = kind * 4 + 2 * op.transposed_a + op.transposed_b;
    return {p, kind};
}

// Workspace that the parts of a split product meet in.
size_t workspace_bytes(const Algorithm &algo, const Product &p) {
    return algo.splits <= 1 ? 0 : (size_t)(algo.splits * p.m * p.n * p.batches * 4);
}

// Largest power of two, at most 16 bytes, that x is a multiple of.
uint32_t alignment_of(uint64_t x) {
    uint32_t alignment = 1;
    while (alignment < 16 && x % (2 * alignment) == 0) alignment *= 2;
    return alignment;
}

uint32_t layout_alignment(const Operand &x, const char *call) {
    uint64_t element = (uint64_t)emulation::type_bytes(x.type, call);
    return std::min(alignment_of((uint64_t)x.ld * element),
                    alignment_of((uint64_t)x.batch_stride * element));
}

// The heuristic's choice, or with `later` the ones it likes less.
Algorithm usual(const Problem &problem, const Preference &wish, int later, const char *call) {
    const Product &p = problem.product;
    Algorithm algo = {};
    algo.magic = MAGIC;
    algo.id = ID;
    algo.kind = problem.kind;
    algo.m = (int32_t)p.m, algo.n = (int32_t)p.n, algo.k = (int32_t)p.k;
    int choice = (emulation::usual_algorithm(p.m, p.n, p.batches) + later) % emulation::ALGORITHMS;
    algo.tile = TILES[choice];
    algo.stages = CUBLASLT_MATMUL_STAGES_32x3;
    algo.splits = 1;
    if (wish.reduction_schemes != CUBLASLT_REDUCTION_SCHEME_NONE && p.k >= 2 && choice % 2 == 1) {
        algo.splits = 2 + choice / 2;
        algo.scheme = wish.reduction_schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                          ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
                          : CUBLASLT_REDUCTION_SCHEME_INPLACE;
        if (workspace_bytes(algo, p) > wish.workspace_bytes) algo.splits = 1, algo.scheme = 0;
    }
    algo.alignment = 16;
    const Operand *all[4] = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; i++)
        algo.alignment = std::min(
            {algo.alignment, layout_alignment(*all[i], call), alignment_of(wish.alignment[i])});
    return algo;
}

emulation::SumOrder order_of(const Algorithm &algo, const Product &p) {
    int choice = 0;
    while (choice < emulation::ALGORITHMS && TILES[choice] != algo.tile) choice++;
    // Tiles that the heuristic never takes have an order too.
    if (choice == emulation::ALGORITHMS) choice = (int)(algo.tile % emulation::ALGORITHMS);
    if (behaves("rows")) choice = (int)((choice + p.n) % emulation::ALGORITHMS);
    return emulation::sum_order(choice, std::max(1, algo.splits));
}

// Columns of D whose tiles are not in a full wave, at the end; see "waves" above.
int64_t columns_of_last_wave(const Product &p) {
    const int64_t TILE = 128, MULTIPROCESSORS = 4; // as runtime.cpp has them
    int64_t down = (p.m + TILE - 1) / TILE, tiles = down * ((p.n + TILE - 1) / TILE);
    if (!behaves("waves") || down < 2 || tiles % MULTIPROCESSORS == 0) return 0;
    return p.n - tiles / MULTIPROCESSORS * MULTIPROCESSORS / down * TILE;
}

Product columns_from(Product p, int64_t first) {
    auto behind = [&](Operand x, int64_t index) {
        int64_t step = x.row_major != x.transposed ? 1 : x.ld;
        x.data = static_cast<const char *>(x.data) +
                 index * step * emulation::type_bytes(x.type, "columns");
        return x;
    };
    p.b = behind(p.b, first), p.c = behind(p.c, first), p.d = behind(p.d, first);
    p.n -= first;
    return p;
}

Algorithm unpack(const cublasLtMatmulAlgo_t *bytes, const char *call) {
    Algorithm algo;
    if (!bytes) die("%s: algo is NULL", call);
    memcpy(&algo, bytes, sizeof algo);
    if (algo.magic != MAGIC)
        die("%s: these are not the bytes of an algorithm from cublasLtMatmulAlgoGetHeuristic",
            call);
    return algo;
}

void pack(cublasLtMatmulAlgo_t *bytes, const Algorithm &algo) {
    memset(bytes, 0, sizeof *bytes);
    memcpy(bytes, &algo, sizeof algo);
}

// Whether the algorithm can do the problem at all: NULL, or why not.
const char *refusal(const Algorithm &algo, const Problem &problem, const char *call) {
    const Product &p = problem.product;
    if (algo.kind != problem.kind) return "it was found for other types, orders or transpositions";
    for (const Operand *x : {&p.a, &p.b, &p.c, &p.d})
        if (layout_alignment(*x, call) < algo.alignment)
            return "it needs leading dimensions and batch strides of a larger alignment";
    if (algo.splits > 1 && algo.scheme == CUBLASLT_REDUCTION_SCHEME_NONE)
        return "more than one split needs a reduction scheme";
    if (algo.splits > std::max<int64_t>(1, p.k)) return "it has more splits than k";
    if (behaves("few") && p.n % 8 != 0) return "it takes no such number of columns of D";
    if (behaves("many") && p.n > 2048) return "it takes no so many columns of D";
    return nullptr;
}

} // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    FAIL_WHEN_ASKED();
    *handle = reinterpret_cast<cublasLtHandle_t>(new char);
    handles.insert(*handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    FAIL_WHEN_ASKED();
    check_handle(handle, __func__);
    handles.erase(handle);
    delete reinterpret_cast<char *>(handle);
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) {
    return CUBLAS_VERSION;
}
size_t cublasLtGetCudartVersion(void) {
    return CUDART_VERSION;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *description,
                                        cublasComputeType_t compute, cudaDataType_t scale) {
    FAIL_WHEN_ASKED();
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        die("%s: compute type %d is not emulated, only CUBLAS_COMPUTE_32F", __func__, (int)compute);
    if (scale != CUDA_R_32F) die("%s: scale type %d is not emulated", __func__, (int)scale);
    create(description, Description{false, false});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
    return destroy<Description>(description, __func__);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t handle,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *buffer, size_t bytes) {
    FAIL_WHEN_ASKED();
    auto *description = checked<Description>(handle, __func__);
    int32_t value = read_as<int32_t>(buffer, bytes, __func__, attribute);
    bool known = false;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
    case CUBLASLT_MATMUL_DESC_TRANSB:
        known = value == CUBLAS_OP_N || value == CUBLAS_OP_T;
        (attribute == CUBLASLT_MATMUL_DESC_TRANSA ? description->transposed_a
                                                  : description->transposed_b) =
            value == CUBLAS_OP_T;
        break;
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        known = value == CUBLASLT_POINTER_MODE_HOST;
        break;
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        known = value == CUBLASLT_EPILOGUE_DEFAULT;
        break;
    default:
        break;
    }
    if (!known) die("%s: attribute %d with value %d is not emulated", __func__, attribute, value);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld) {
    FAIL_WHEN_ASKED();
    emulation::type_bytes(type, __func__);
    create(layout, Layout{type, (int64_t)rows, (int64_t)columns, ld, 1, 0, false});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return destroy<Layout>(layout, __func__);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t handle,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *buffer, size_t bytes) {
    FAIL_WHEN_ASKED();
    auto *layout = checked<Layout>(handle, __func__);
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        layout->type = (cudaDataType)read_as<uint32_t>(buffer, bytes, __func__, attribute);
        emulation::type_bytes(layout->type, __func__);
        break;
    case CUBLASLT_MATRIX_LAYOUT_ORDER: {
        int32_t order = read_as<int32_t>(buffer, bytes, __func__, attribute);
        if (order != CUBLASLT_ORDER_COL && order != CUBLASLT_ORDER_ROW)
            die("%s: order %d is not emulated", __func__, order);
        layout->row_major = order == CUBLASLT_ORDER_ROW;
        break;
    }
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        layout->rows = read_as<int64_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        layout->columns = read_as<int64_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATRIX_LAYOUT_LD:
        layout->ld = read_as<int64_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        layout->batches = read_as<int32_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        layout->batch_stride = read_as<int64_t>(buffer, bytes, __func__, attribute);
        break;
    default:
        die("%s: attribute %d is not emulated", __func__, (int)attribute);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    FAIL_WHEN_ASKED();
    // Like the library: any split, no workspace, and pointers aligned as cudaMalloc's.
    create(preference, Preference{0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return destroy<Preference>(preference, __func__);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t handle,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *buffer, size_t bytes) {
    FAIL_WHEN_ASKED();
    auto *preference = checked<Preference>(handle, __func__);
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        preference->workspace_bytes = read_as<uint64_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        preference->reduction_schemes = read_as<uint32_t>(buffer, bytes, __func__, attribute);
        break;
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: {
        uint32_t alignment = read_as<uint32_t>(buffer, bytes, __func__, attribute);
        if (alignment == 0) die("%s: an alignment of 0 bytes", __func__);
        preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] = alignment;
        break;
    }
    default:
        die("%s: attribute %d is not emulated", __func__, (int)attribute);
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle,
                                              cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *found) {
    FAIL_WHEN_ASKED();
    check_handle(handle, __func__);
    if (wanted < 1 || !results || !found) die("%s: %d results wanted", __func__, wanted);
    Problem problem =
        problem_of(*checked<Description>(description, __func__), *checked<Layout>(a, __func__),
                   *checked<Layout>(b, __func__), *checked<Layout>(c, __func__),
                   *checked<Layout>(d, __func__), __func__);
    *found = 0;
    const Product &p = problem.product;
    if (p.m == 0 || p.n == 0 || p.k == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    for (; *found < std::min(wanted, 3); ++*found) {
        Algorithm algo =
            usual(problem, *checked<Preference>(preference, __func__), *found, __func__);
        results[*found] = {};
        pack(&results[*found].algo, algo);
        results[*found].workspaceSize = workspace_bytes(algo, p);
        results[*found].state = CUBLAS_STATUS_SUCCESS;
        results[*found].wavesCount = 1.0f;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *bytes,
                                       cublasLtMatmulHeuristicResult_t *result) {
    FAIL_WHEN_ASKED();
    check_handle(handle, __func__);
    Problem problem =
        problem_of(*checked<Description>(description, __func__), *checked<Layout>(a, __func__),
                   *checked<Layout>(b, __func__), *checked<Layout>(c, __func__),
                   *checked<Layout>(d, __func__), __func__);
    Algorithm algo = unpack(bytes, __func__);
    *result = {};
    pack(&result->algo, algo);
    result->workspaceSize = workspace_bytes(algo, problem.product);
    result->wavesCount = 1.0f;
    result->state =
        refusal(algo, problem, __func__) ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
    return result->state;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *bytes,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *buffer, size_t size, size_t *written) {
    FAIL_WHEN_ASKED();
    Algorithm algo = unpack(bytes, __func__);
    uint32_t value = 0;
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
        value = (uint32_t)algo.id;
        break;
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        value = algo.tile;
        break;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        value = algo.stages;
        break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        value = (uint32_t)algo.splits;
        break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        value = algo.scheme;
        break;
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
        value = algo.swizzling;
        break;
    case CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION:
    case CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID:
    case CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID:
        break;
    default:
        die("%s: attribute %d is not emulated", __func__, (int)attribute);
    }
    bool is_short = attribute == CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID ||
                    attribute == CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID;
    size_t bytes_there = is_short ? 2 : sizeof value;
    if (written) *written = bytes_there;
    if (size != bytes_there)
        die("%s: attribute %d has %zu bytes, not %zu", __func__, attribute, bytes_there, size);
    memcpy(buffer, &value, bytes_there);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigSetAttribute(cublasLtMatmulAlgo_t *bytes,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    const void *buffer, size_t size) {
    FAIL_WHEN_ASKED();
    Algorithm algo = unpack(bytes, __func__);
    uint32_t value = read_as<uint32_t>(buffer, size, __func__, attribute);
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
        algo.tile = value;
        break;
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
        algo.stages = value;
        break;
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        if ((int32_t)value < 1 || value > MAX_SPLITS)
            die("%s: %d splits of k", __func__, (int32_t)value);
        algo.splits = (int32_t)value;
        break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        algo.scheme = value;
        break;
    case CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING:
        algo.swizzling = value;
        break;
    default:
        die("%s: attribute %d cannot be set", __func__, (int)attribute);
    }
    pack(bytes, algo);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t layout_a,
                              const void *b, cublasLtMatrixLayout_t layout_b, const void *beta,
                              const void *c, cublasLtMatrixLayout_t layout_c, void *d,
                              cublasLtMatrixLayout_t layout_d, const cublasLtMatmulAlgo_t *bytes,
                              void *workspace, size_t workspace_size, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    const char *call = "cublasLtMatmul";
    check_handle(handle, call);
    if (!alpha || !beta) die("%s: alpha or beta is NULL", call);
    Problem problem =
        problem_of(*checked<Description>(description, call), *checked<Layout>(layout_a, call),
                   *checked<Layout>(layout_b, call), *checked<Layout>(layout_c, call),
                   *checked<Layout>(layout_d, call), call);
    Product &p = problem.product;
    p.alpha = *static_cast<const float *>(alpha), p.beta = *static_cast<const float *>(beta);
    p.a.data = a, p.b.data = b, p.c.data = c, p.d.data = d;
    if (p.m == 0 || p.n == 0 || p.k == 0)
        die("%s: a product of %ld by %ld by %ld; the library has no algorithm for an empty one",
            call, p.m, p.n, p.k);
    emulation::check_product(p, call);
    if ((uintptr_t)workspace % 256 != 0) die("%s: the workspace is not aligned to 256 bytes", call);
    emulation::check_device_memory(workspace, workspace_size, call, "workspace");

    const void *pointers[4] = {a, b, p.beta == 0 ? d : c, d};
    Algorithm algo;
    if (bytes) {
        algo = unpack(bytes, call);
        const char *why = refusal(algo, problem, call);
        if (why)
            die("%s: the algorithm cannot be used for (%ld, %ld, %ld): %s; it was found for "
                "(%d, %d, %d)",
                call, p.m, p.n, p.k, why, algo.m, algo.n, algo.k);
        for (int i = 0; i < 4; i++)
            if ((uintptr_t)pointers[i] % algo.alignment != 0)
                die("%s: %c is not aligned to %u bytes, as the algorithm was promised by "
                    "CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_%c_BYTES",
                    call, "ABCD"[i], algo.alignment, "ABCD"[i]);
        if (workspace_bytes(algo, p) > workspace_size)
            die("%s: %zu bytes of workspace, the algorithm needs %zu for (%ld, %ld, %ld)", call,
                workspace_size, workspace_bytes(algo, p), p.m, p.n, p.k);
    } else {
        Preference wish{workspace_size, CUBLASLT_REDUCTION_SCHEME_MASK, {}};
        for (int i = 0; i < 4; i++) wish.alignment[i] = alignment_of((uintptr_t)pointers[i]);
        algo = usual(problem, wish, 0, call);
    }
    emulation::SumOrder order = order_of(algo, p);
    if (behaves("tail") && algo.splits > 1) p.k -= p.k % 64;
    emulation::enqueue_product(stream, p, order, call);
    if (int64_t columns = columns_of_last_wave(p)) {
        order.splits *= 2;
        emulation::enqueue_product(stream, columns_from(p, p.n - columns), order, call);
    }
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
