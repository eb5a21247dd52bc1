#include "cublas_checks.h"

#include <algorithm>

#include "emulation.h"

namespace emulation {

int64_t type_bytes(cudaDataType type, const char *call) {
    if (type != CUDA_R_32F && type != CUDA_R_16BF)
        die("%s: data type %d is not emulated, only f32 and bf16", call, (int)type);
    return type == CUDA_R_32F ? 4 : 2;
}

int64_t Operand::extent() const {
    if (rows == 0 || columns == 0) return 0;
    return row_major ? (rows - 1) * ld + columns : (columns - 1) * ld + rows;
}

Matrix Operand::matrix(int64_t batch) const {
    const char *first =
        static_cast<const char *>(data) + batch * batch_stride * (type == CUDA_R_32F ? 4 : 2);
    int64_t row_step = row_major ? ld : 1, column_step = row_major ? 1 : ld;
    if (transposed) std::swap(row_step, column_step);
    return {first, type, row_step, column_step};
}

// From the first element of the first matrix to behind the last of the last.
static int64_t batch_bytes(const Operand &x, int64_t batches, const char *call) {
    if (x.extent() == 0 || batches == 0) return 0;
    return ((batches - 1) * x.batch_stride + x.extent()) * type_bytes(x.type, call);
}

static void check_operand(const Operand &x, int64_t batches, const char *call, const char *name) {
    int64_t least = std::max<int64_t>(1, x.row_major ? x.columns : x.rows);
    if (x.rows < 0 || x.columns < 0) die("%s: %s is %ld by %ld", call, name, x.rows, x.columns);
    if (x.ld < least)
        die("%s: the leading dimension of %s is %ld, at least %ld is needed", call, name, x.ld,
            least);
    if (batches > 1 && x.batch_stride < 0)
        die("%s: the stride between batches of %s is %ld", call, name, x.batch_stride);
    int64_t bytes = batch_bytes(x, batches, call);
    if (bytes == 0) return;
    if (!x.data) die("%s: %s is NULL", call, name);
    if ((uintptr_t)x.data % (size_t)type_bytes(x.type, call) != 0)
        die("%s: %s is not aligned to its elements", call, name);
    check_device_memory(x.data, (size_t)bytes, call, name);
}

void check_product(const Product &p, const char *call) {
    if (p.m < 0 || p.n < 0 || p.k < 0 || p.batches < 0)
        die("%s: m %ld, n %ld, k %ld, %ld batches", call, p.m, p.n, p.k, p.batches);
    int64_t batches = p.m == 0 || p.n == 0 ? 0 : p.batches;
    check_operand(p.a, p.k == 0 ? 0 : batches, call, "A");
    check_operand(p.b, p.k == 0 ? 0 : batches, call, "B");
    check_operand(p.d, batches, call, "D (or C, the result)");
    if (p.beta != 0) check_operand(p.c, batches, call, "C");
    if (p.a.type != p.b.type) die("%s: A and B differ in type", call);
    if (p.c.type != p.d.type) die("%s: C and D differ in type", call);
    if (p.a.type == CUDA_R_32F && p.d.type != CUDA_R_32F)
        die("%s: the library has no product of f32 matrices with a bf16 result", call);
    if (batches > 1 && p.d.batch_stride < p.d.extent() && p.d.ld >= p.m)
        die("%s: the results of the batches overlap (stride %ld, extent %ld)", call,
            p.d.batch_stride, p.d.extent());
    if (p.beta != 0 && p.c.data == p.d.data &&
        (p.c.ld != p.d.ld || p.c.batch_stride != p.d.batch_stride))
        die("%s: C and D are the same memory with different layouts", call);

    auto overlaps = [&](const Operand &x, int64_t count) {
        auto *from = static_cast<const char *>(x.data), *to = static_cast<const char *>(p.d.data);
        return from < to + batch_bytes(p.d, batches, call) &&
               to < from + batch_bytes(x, count, call);
    };
    if (p.k > 0 && (overlaps(p.a, batches) || overlaps(p.b, batches)))
        die("%s: the result overlaps A or B", call);
    if (p.beta != 0 && p.c.data != p.d.data && overlaps(p.c, batches))
        die("%s: D overlaps C without being C", call);
}

void enqueue_product(cudaStream_t stream, const Product &p, SumOrder order, const char *call) {
    if (p.m == 0 || p.n == 0 || p.batches == 0) return;
    enqueue(stream, call, [p, order] {
        for (int64_t i = 0; i < p.batches; i++)
            multiply(p.m, p.n, p.k, p.alpha, p.a.matrix(i), p.b.matrix(i), p.beta, p.c.matrix(i),
                     p.d.matrix(i), order);
    });
}

static int power_of_two_in(int64_t x) {
    int power = 0;
    for (; x > 0 && x % 2 == 0; x /= 2) power++;
    return power;
}

int usual_algorithm(int64_t m, int64_t n, int64_t batches) {
    // Sizes that differ by a factor 2, 4 or 8 in one dimension get different ones for certain;
    // others nearly always.
    uint64_t mixed = 0x9e3779b97f4a7c15u;
    for (int64_t x : {m, n, batches}) {
        mixed ^= (uint64_t)(x >> power_of_two_in(x));
        mixed *= 0xd6e8feb86659fd93u;
        mixed ^= mixed >> 32;
    }
    uint64_t powers = (uint64_t)power_of_two_in(m) + 3 * (uint64_t)power_of_two_in(n) +
                      5 * (uint64_t)power_of_two_in(batches);
    return (int)((mixed % ALGORITHMS + powers) % ALGORITHMS);
}

SumOrder sum_order(int tile, int splits) {
    static const int blocks[] = {3, 4, 5, 6, 7, 8, 10, 11};
    return {blocks[tile % 8], splits};
}

} // namespace emulation
