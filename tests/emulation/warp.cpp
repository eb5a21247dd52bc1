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

namespace {

// 16 of depth of a line of the panel, widened to f32. The swizzle is of the address, as in
// hardware.
__attribute__((no_sanitize("address", "undefined"))) void read_line(float to[16], SharedPanel panel,
                                                                    bool outermost, int row) {
    for (int k = 0; k < 16; k++) {
        int64_t at =
            outermost ? row / 64 * (int64_t)panel.next + k * 128 + row % 64 * 2 : row * 128 + k * 2;
        uintptr_t address = (uintptr_t)panel.first + (uintptr_t)at;
        address ^= (address >> 7 & 7) << 4;
        uint16_t bits;
        memcpy(&bits, (const void *)address, sizeof bits);
        uint32_t wide = (uint32_t)bits << 16;
        memcpy(to + k, &wide, sizeof wide);
    }
}

// A thread's part of the product: two rows by columns 2t, 2t + 1 of every eight. The order of the
// sum is that of finish_product.
__attribute__((no_sanitize("address", "undefined"), optimize("O3"))) void
multiply(const LateProduct &p, int thread) {
    int lane = thread % 32, g = lane / 4, t = lane % 4;
    float a[2][16], b[16];
    for (int half = 0; half < 2; half++)
        if (p.in_registers)
            memcpy(a[half], p.rows[half], sizeof a[half]);
        else
            read_line(a[half], p.a, p.a_outermost, thread % 128 / 32 * 16 + g + 8 * half);
    for (int column = 2 * t; column < p.columns; column += column % 2 ? 7 : 1) {
        read_line(b, p.b, p.b_outermost, column);
        for (int half = 0; half < 2; half++) {
            float total = a[half][0] * b[0];
            for (int k = 1; k < 16; k++) total += a[half][k] * b[k];
            float *d = p.d + column / 8 * 4 + 2 * half + column % 2;
            *d = p.keep ? *d + total : total;
        }
    }
}

void check_panel(SharedPanel panel, bool outermost, int rows, Place at) {
    // From the first byte to the last that the product reads; a panel begins on a multiple of 1024.
    int64_t bytes = outermost ? (int64_t)(rows / 64 - 1) * panel.next + 16 * 128
                              : (int64_t)(rows - 1) * 128 + 32;
    if ((uintptr_t)panel.first % 1024 % (outermost ? 1024 : 128) % 32 != 0)
        die("%s:%u: wgmma of a panel at %p, which no step of 16 begins", at.file_name(), at.line(),
            (const void *)panel.first);
    if (!is_shared_memory(panel.first, (size_t)bytes))
        die("%s:%u: wgmma of %lld bytes at %p, outside of shared memory", at.file_name(), at.line(),
            (long long)bytes, (const void *)panel.first);
}

} // namespace

static void multiply_at_once_or_later(const LateProduct &product) {
    Fiber *self = static_cast<Fiber *>(current);
    // Products of a thread end in order: at once only when none is under way.
    if (self->products.empty() && (order() == Order::REVERSE || one_in(8)))
        multiply(product, (int)self->index.x);
    else
        self->products.push_back(product);
}

void multiply_later(float *d, int columns, SharedPanel a, bool a_outermost, SharedPanel b,
                    bool b_outermost, bool keep, Place at) {
    check_whole_warp("wgmma", at);
    check_panel(a, a_outermost, 64, at);
    check_panel(b, b_outermost, columns, at);
    multiply_at_once_or_later({d,
                               columns,
                               a,
                               b,
                               a_outermost,
                               b_outermost,
                               keep,
                               false,
                               {},
                               this_fiber("wgmma", at)->product_group});
}

namespace {

struct RowsOfWarp {
    const uint32_t *a;
    float (*rows)[16];
};

// A register has two elements of a row; the four lanes of a row have all sixteen.
void finish_rows(unsigned, void *const operands[32]) {
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 16; i++) {
            const RowsOfWarp *to = static_cast<const RowsOfWarp *>(operands[lane]);
            int k = i / 4 * 2, r = i % 4, column = k + r / 2 * 8;
            uint32_t two = static_cast<const RowsOfWarp *>(operands[lane / 4 * 4 + i / 4])->a[r];
            uint32_t low = two << 16, high = two & 0xffff0000u;
            memcpy(&to->rows[r % 2][column], &low, 4);
            memcpy(&to->rows[r % 2][column + 1], &high, 4);
        }
}

} // namespace

void add_later(float *d, int columns, const uint32_t a[4], SharedPanel b, Place at) {
    check_whole_warp("wgmma", at);
    check_panel(b, true, columns, at);
    LateProduct product = {d,    columns, {},   b,  false,
                           true, true,    true, {}, this_fiber("wgmma", at)->product_group};
    RowsOfWarp operand = {a, product.rows};
    meet(0xffffffffu, "wgmma", finish_rows, &operand, at);
    multiply_at_once_or_later(product);
}

void close_products() {
    static_cast<Fiber *>(current)->product_group++;
}

void wait_products(int pending) {
    Fiber *self = static_cast<Fiber *>(current);
    size_t ended = 0;
    while (ended < self->products.size() &&
           self->products[ended].group + (unsigned)pending < self->product_group)
        multiply(self->products[ended++], (int)self->index.x);
    self->products.erase(self->products.begin(), self->products.begin() + (ptrdiff_t)ended);
}

} // namespace emulation
