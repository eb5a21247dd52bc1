// The part of cuBLAS that the program uses. f32 and bf16 matrices, sums in f32, scalars on the
// host. The order along k changes with the sizes of a call, as in the library, so that a program
// which relies on it fails here.
#include <cublas_v2.h>

#include <set>

#include "cublas_checks.h"
#include "emulation.h"

using emulation::die;
using emulation::Operand;
using emulation::Product;
using emulation::type_bytes;

#define FAIL_WHEN_ASKED()                                                                          \
    if (emulation::fails(__func__)) return CUBLAS_STATUS_EXECUTION_FAILED

struct cublasContext {
    cudaStream_t stream = nullptr;
};

static std::set<cublasHandle_t> handles;

static cublasHandle_t checked(cublasHandle_t handle, const char *call) {
    if (!handles.count(handle)) die("%s: this handle is not open", call);
    return handle;
}

static void check_compute(cublasComputeType_t compute, const char *call) {
    if (compute != CUBLAS_COMPUTE_32F && compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        die("%s: compute type %d is not emulated, only CUBLAS_COMPUTE_32F", call, (int)compute);
}

static bool is_transposed(cublasOperation_t op, const char *call) {
    if (op != CUBLAS_OP_N && op != CUBLAS_OP_T)
        die("%s: operation %d is not emulated", call, (int)op);
    return op == CUBLAS_OP_T;
}

static Product product_of(const char *call, cublasOperation_t op_a, cublasOperation_t op_b, int m,
                          int n, int k, float alpha, Operand a, Operand b, float beta, Operand c) {
    a.transposed = is_transposed(op_a, call);
    b.transposed = is_transposed(op_b, call);
    a.rows = a.transposed ? k : m, a.columns = a.transposed ? m : k;
    b.rows = b.transposed ? n : k, b.columns = b.transposed ? k : n;
    c.rows = m, c.columns = n;
    return {m, n, k, 1, alpha, beta, a, b, c, c};
}

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    FAIL_WHEN_ASKED();
    *handle = new cublasContext;
    handles.insert(*handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    FAIL_WHEN_ASKED();
    handles.erase(checked(handle, __func__));
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) {
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    default:
        return "CUBLAS_STATUS_?";
    }
}

const char *cublasGetStatusString(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "the operation completed successfully";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "the functionality requested is not supported";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    default:
        return "unknown status";
    }
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    FAIL_WHEN_ASKED();
    checked(handle, __func__)->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t bytes) {
    FAIL_WHEN_ASKED();
    checked(handle, __func__);
    if ((uintptr_t)workspace % 256 != 0)
        die("cublasSetWorkspace: the workspace is not aligned to 256 bytes");
    emulation::check_device_memory(workspace, bytes, "cublasSetWorkspace", "workspace");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    FAIL_WHEN_ASKED();
    checked(handle, __func__);
    int known = CUBLAS_PEDANTIC_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    if ((mode & ~known) != 0) die("cublasSetMathMode: mode %d is not emulated", (int)mode);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a,
                                          cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType type_a,
                                          int lda, long long stride_a, const void *b,
                                          cudaDataType type_b, int ldb, long long stride_b,
                                          const void *beta, void *c, cudaDataType type_c, int ldc,
                                          long long stride_c, int batches,
                                          cublasComputeType_t compute, cublasGemmAlgo_t algo) {
    FAIL_WHEN_ASKED();
    const char *call = "cublasGemmStridedBatchedEx";
    checked(handle, call);
    check_compute(compute, call);
    if (algo != CUBLAS_GEMM_DEFAULT && algo != CUBLAS_GEMM_DEFAULT_TENSOR_OP)
        die("%s: algorithm %d; the library ignores it since sm_80", call, (int)algo);
    if (!alpha || !beta) die("%s: alpha or beta is NULL", call);
    Product p = product_of(call, op_a, op_b, m, n, k, *static_cast<const float *>(alpha),
                           {a, type_a, 0, 0, lda, stride_a, false, false},
                           {b, type_b, 0, 0, ldb, stride_b, false, false},
                           *static_cast<const float *>(beta),
                           {c, type_c, 0, 0, ldc, stride_c, false, false});
    p.batches = batches;
    emulation::check_product(p, call);
    emulation::enqueue_product(
        handle->stream, p,
        emulation::sum_order(emulation::usual_algorithm(m, n, batches), 1 + k % 2), call);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void *alpha, const void *a,
                            cudaDataType type_a, int lda, const void *b, cudaDataType type_b,
                            int ldb, const void *beta, void *c, cudaDataType type_c, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algo) {
    FAIL_WHEN_ASKED();
    return cublasGemmStridedBatchedEx(handle, op_a, op_b, m, n, k, alpha, a, type_a, lda, 0, b,
                                      type_b, ldb, 0, beta, c, type_c, ldc, 0, 1, compute, algo);
}

// Shapes are read now, on the host; the arrays of pointers lie on the device and are read when the
// work is done.
cublasStatus_t cublasGemmGroupedBatchedEx(
    cublasHandle_t handle, const cublasOperation_t op_a[], const cublasOperation_t op_b[],
    const int m[], const int n[], const int k[], const void *alpha, const void *const a[],
    cudaDataType_t type_a, const int lda[], const void *const b[], cudaDataType_t type_b,
    const int ldb[], const void *beta, void *const c[], cudaDataType_t type_c, const int ldc[],
    int groups, const int group_size[], cublasComputeType_t compute) {
    FAIL_WHEN_ASKED();
    const char *call = "cublasGemmGroupedBatchedEx";
    checked(handle, call);
    check_compute(compute, call);
    if (groups < 0) die("%s: %d groups", call, groups);
    if (type_a != type_b || type_a != type_c)
        die("%s: the library takes one type for A, B and C, not %d, %d and %d", call, (int)type_a,
            (int)type_b, (int)type_c);
    type_bytes(type_a, call);
    std::vector<Product> products;
    int64_t m_sum = 0, n_sum = 0;
    for (int g = 0; g < groups; g++) {
        if (group_size[g] < 0) die("%s: group %d has %d products", call, g, group_size[g]);
        Product p = product_of(
            call, op_a[g], op_b[g], m[g], n[g], k[g], static_cast<const float *>(alpha)[g],
            {nullptr, type_a, 0, 0, lda[g], 0, false, false},
            {nullptr, type_b, 0, 0, ldb[g], 0, false, false}, static_cast<const float *>(beta)[g],
            {nullptr, type_c, 0, 0, ldc[g], 0, false, false});
        for (int i = 0; i < group_size[g]; i++) products.push_back(p);
        m_sum += m[g], n_sum += n[g];
    }
    size_t bytes = products.size() * sizeof(void *);
    emulation::check_device_memory(a, bytes, call, "Aarray");
    emulation::check_device_memory(b, bytes, call, "Barray");
    emulation::check_device_memory(c, bytes, call, "Carray");
    // One kernel serves all groups, chosen by all their sizes.
    auto order = emulation::sum_order(emulation::usual_algorithm(m_sum, n_sum, groups), 1);
    emulation::enqueue(handle->stream, call, [=]() mutable {
        for (size_t i = 0; i < products.size(); i++) {
            Product p = products[i];
            p.a.data = a[i], p.b.data = b[i], p.c.data = p.d.data = c[i];
            emulation::check_product(p, call);
            if (p.m == 0 || p.n == 0) continue;
            // The library reads bf16 by vectors when k allows it.
            size_t aligned = p.a.type == CUDA_R_32F ? 4 : p.k % 8 == 0 ? 16 : p.k % 2 == 0 ? 4 : 2;
            for (const void *x : {p.a.data, p.b.data, p.c.data})
                if ((uintptr_t)x % aligned != 0)
                    die("%s: with k %ld the pointers of product %zu must be aligned to %zu bytes",
                        call, p.k, i, aligned);
            emulation::multiply(p.m, p.n, p.k, p.alpha, p.a.matrix(0), p.b.matrix(0), p.beta,
                                p.c.matrix(0), p.d.matrix(0), order);
        }
    });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
