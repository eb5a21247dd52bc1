// What lanes do together when they have met: votes, integer reductions, matrix products, matrix
// loads; and copies to shared memory that arrive late.
#include "execution.h"

namespace emulation {

namespace {

template <typename Combine> void reduce(unsigned mask, void *const operands[32], Combine combine) {
    bool first = true;
    unsigned total = 0;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        unsigned value = (unsigned)static_cast<Voted *>(operands[__builtin_ctz(rest)])->value;
        total = first ? value : combine(total, value);
        first = false;
    }
    for (unsigned rest = mask; rest; rest &= rest - 1)
        static_cast<Voted *>(operands[__builtin_ctz(rest)])->result = total;
}

} // namespace

void finish_ballot(unsigned mask, void *const operands[32]) {
    unsigned ballot = 0;
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        int lane = __builtin_ctz(rest);
        ballot |= (unsigned)static_cast<Voted *>(operands[lane])->value << lane;
    }
    for (unsigned rest = mask; rest; rest &= rest - 1)
        static_cast<Voted *>(operands[__builtin_ctz(rest)])->result = ballot;
}

void finish_match_any(unsigned mask, void *const operands[32]) {
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        Voted *mine = static_cast<Voted *>(operands[__builtin_ctz(rest)]);
        mine->result = 0;
        for (unsigned others = mask; others; others &= others - 1) {
            int lane = __builtin_ctz(others);
            if (static_cast<Voted *>(operands[lane])->value == mine->value)
                mine->result |= 1u << lane;
        }
    }
}

void finish_add(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return a + b; });
}
void finish_min(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return (int)b < (int)a ? b : a; });
}
void finish_max(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return (int)b > (int)a ? b : a; });
}
void finish_unsigned_min(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return b < a ? b : a; });
}
void finish_unsigned_max(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return b > a ? b : a; });
}
void finish_and(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return a & b; });
}
void finish_or(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return a | b; });
}
void finish_xor(unsigned mask, void *const operands[32]) {
    reduce(mask, operands, [](unsigned a, unsigned b) { return a ^ b; });
}

namespace {

struct Product {
    float *d;
    const uint32_t *a, *b;
};

// Products of bf16 are exact in f32; they are added in f32 in the order of k, and d last. A tensor
// core adds in groups and may truncate, so that only a tolerance can compare the two. Not
// instrumented, and optimised in every build: whole models train through it.
__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) void
finish_product(unsigned, void *const operands[32]) {
    typedef float Row __attribute__((vector_size(32)));
    float a[16][16], b[16][8];
    Row sum[16];
    for (int lane = 0; lane < 32; lane++) {
        const Product *part = static_cast<const Product *>(operands[lane]);
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            int row = g + 8 * (i & 1), column = 2 * t + 8 * (i >> 1);
            uint32_t low = part->a[i] << 16, high = part->a[i] & 0xffff0000u;
            memcpy(&a[row][column], &low, 4);
            memcpy(&a[row][column + 1], &high, 4);
        }
        for (int i = 0; i < 2; i++) {
            int row = 2 * t + 8 * i;
            uint32_t low = part->b[i] << 16, high = part->b[i] & 0xffff0000u;
            memcpy(&b[row][g], &low, 4);
            memcpy(&b[row + 1][g], &high, 4);
        }
    }
    Row of_b[16];
    memcpy(of_b, b, sizeof of_b);
    for (int row = 0; row < 16; row++) {
        Row total = a[row][0] * of_b[0];
        for (int k = 1; k < 16; k++) total += a[row][k] * of_b[k];
        sum[row] = total;
    }
    for (int lane = 0; lane < 32; lane++) {
        float *d = static_cast<const Product *>(operands[lane])->d;
        int g = lane / 4, t = lane % 4;
        d[0] += sum[g][2 * t];
        d[1] += sum[g][2 * t + 1];
        d[2] += sum[g + 8][2 * t];
        d[3] += sum[g + 8][2 * t + 1];
    }
}

struct MatrixLoad {
    uint32_t *r;
    const void *row;
};

__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) void
load(void *const operands[32], bool transposed) {
    uint16_t elements[4][8][8];
    for (int lane = 0; lane < 32; lane++)
        memcpy(elements[lane / 8][lane % 8], static_cast<const MatrixLoad *>(operands[lane])->row,
               16);
    for (int lane = 0; lane < 32; lane++) {
        uint32_t *r = static_cast<const MatrixLoad *>(operands[lane])->r;
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++) {
            uint32_t first = transposed ? elements[i][2 * t][g] : elements[i][g][2 * t];
            uint32_t second = transposed ? elements[i][2 * t + 1][g] : elements[i][g][2 * t + 1];
            r[i] = first | second << 16;
        }
    }
}
void finish_load(unsigned, void *const operands[32]) {
    load(operands, false);
}
void finish_transposed_load(unsigned, void *const operands[32]) {
    load(operands, true);
}

void check_whole_warp(const char *operation, Place at) {
    if (!current) die("%s:%u: %s outside of a kernel", at.file_name(), at.line(), operation);
    if (lanes_of_warp(current->warp) != 0xffffffffu)
        die("%s:%u: %s needs a warp of 32 threads", at.file_name(), at.line(), operation);
}

} // namespace

void multiply_matrices(float d[4], const uint32_t a[4], const uint32_t b[2], Place at) {
    check_whole_warp("mma", at);
    Product operand = {d, a, b};
    meet(0xffffffffu, "mma", finish_product, &operand, at);
}

void load_matrices(uint32_t r[4], const void *shared_row, bool transposed, Place at) {
    check_whole_warp("ldmatrix", at);
    if ((uintptr_t)shared_row % 16 != 0)
        die("%s:%u: ldmatrix of a row at %p, which is not 16-byte aligned", at.file_name(),
            at.line(), shared_row);
    if (!is_shared_memory(shared_row, 16))
        die("%s:%u: ldmatrix of 16 bytes at %p, outside of shared memory", at.file_name(),
            at.line(), shared_row);
    MatrixLoad operand = {r, shared_row};
    meet(0xffffffffu, "ldmatrix", transposed ? finish_transposed_load : finish_load, &operand, at);
}

// Where a copy's bytes arrive is up to the machine: mostly as late as allowed, so that a missing
// wait shows, and some at once, so that a buffer which is still being read shows.
static void arrive(const LateCopy &copy) {
    if (copy.global)
        memcpy(copy.shared, copy.global, 16);
    else
        memset(copy.shared, 0, 16);
}

void copy_later(void *shared, const void *global, bool inside, Place at) {
    Fiber *self = this_fiber("cp.async", at);
    if ((uintptr_t)shared % 16 != 0 || (inside && (uintptr_t)global % 16 != 0))
        die("%s:%u: cp.async from %p to %p: both must be 16-byte aligned", at.file_name(),
            at.line(), global, shared);
    if (!is_shared_memory(shared, 16))
        die("%s:%u: cp.async to %p, outside of shared memory", at.file_name(), at.line(), shared);
    if (inside && !is_device_memory(global, 16))
        die("%s:%u: cp.async reads 16 bytes at %p, outside of device memory", at.file_name(),
            at.line(), global);
    LateCopy copy = {shared, inside ? global : nullptr, self->copy_group};
    if (order() == Order::REVERSE || one_in(8))
        arrive(copy);
    else
        self->copies.push_back(copy);
}

void close_copies() {
    static_cast<Fiber *>(current)->copy_group++;
}

void wait_copies(int pending) {
    Fiber *self = static_cast<Fiber *>(current);
    size_t arrived = 0;
    while (arrived < self->copies.size() &&
           self->copies[arrived].group + (unsigned)pending < self->copy_group)
        arrive(self->copies[arrived++]);
    self->copies.erase(self->copies.begin(), self->copies.begin() + (ptrdiff_t)arrived);
}

} // namespace emulation
