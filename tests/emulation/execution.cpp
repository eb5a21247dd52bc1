// The emulated GPU: kernels of CUDA C, compiled as C++ (cuda_emulation.h), run here on one thread
// of the CPU.
//
// How it works. A kernel's blocks run one after the other. Each thread of a block is a fiber: a
// call of the kernel on a stack of its own, left only where CUDA lets threads wait for each other:
// __syncthreads, and operations of a warp (shuffles, votes, mma, ldmatrix), where the lanes of the
// mask meet and the last to come computes everybody's result. A fiber that must wait hands over to
// the next that may run, with a dozen instructions and no scheduler between. A thread that ends
// without having waited leaves its stack to the next, which then is a plain call.
//
// What it looks for. The order of blocks, of warps, and of lanes between two meetings is drawn anew
// (MOETRAIN_EMULATION_SEED: a number, "forward" or "reverse"), so that a missing barrier gives
// wrong results under some order, where a GPU would mostly be lucky. Shared memory is filled with
// 0xff bytes, which are NaN in every float type, before each block, and so is fresh device memory.
// cp.async arrives as late as allowed, or at once. Streams run late and interleaved (streams.cpp).
// Under AddressSanitizer every access of a kernel is checked against allocations and arrays, and
// device memory is out of reach of host code. Whatever CUDA leaves undefined and the emulator can
// see ends the process with kernel, block, thread and source line: divergent barriers, masks with
// lanes that have ended or never come, shuffles that read from outside the mask, host pointers as
// arguments, launches that no GPU accepts.
//
// What it cannot show: the weak order of memory between threads that run at the same time (a
// missing __threadfence), races within one statement, the bits of fast maths and of tensor cores'
// sums, registers, occupancy, speed, and what nvcc makes of the source. Blocks never run at the
// same time: one that waits for another in a loop hangs. A call of a function with a barrier in it
// is known by the line of that barrier alone. Shared arrays of kernels that are templates and not
// static have no red zones (a rule of the compiler's for names that the linker merges); indexing
// them is checked by UBSan.
//
// Long because fibers, blocks and streams hand control to each other.
#include "execution.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numeric>

namespace emulation {

Thread *current;
uint3 block_index;
dim3 block_dim, grid_dim;

// A fiber's stack, or the one that the process began with.
struct Stack {
    void *pointer; // where it was left
    const void *bottom;
    size_t bytes;
    void *fake; // AddressSanitizer's
};

namespace {

enum { STACK_BYTES = 256 << 10, WARPS = MOST_THREADS / 32, SHARED_ROOM = MOST_DYNAMIC_SHARED + 64 };

// An operation of a warp that some of its lanes have come to.
struct Meeting {
    unsigned mask, arrived;
    Finish finish;
    const char *operation;
    Place at;
};

struct Warp {
    unsigned lanes;  // exist
    unsigned ready;  // may run, and do not
    unsigned exited; // have ended
    unsigned turn;   // which of the ready goes first: 5 bits of rotation, 1 of direction
    unsigned open;   // used meetings
    Meeting meetings[32];
    void *operands[32];
};

struct Block {
    unsigned threads, ended;
    unsigned warps_ready; // those with a ready lane
    unsigned warp;        // runs now
    unsigned turn;
    unsigned stay;    // switches until another warp may go on in between
    unsigned arrived; // at the barrier
    Place barrier_at;
    unsigned generation; // barriers passed
    int predicates[2];   // of the barrier being passed and the one before
    Warp warps[WARPS];
} block;

Fiber fibers[MOST_THREADS];
std::vector<Stack *> parked; // stacks that no thread is on
Stack host, *left;           // `left`: the stack that was switched from
const Kernel *running;
alignas(32) char shared_room[SHARED_ROOM];
// Dynamic shared memory is promised 16-byte alignment and gets no more.
char *const dynamic_begin = shared_room + 16;

uint64_t random_state;
Order drawn_order;

inline uint64_t draw() { // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545f4914f6cdd1du >> 16;
}

__attribute__((constructor)) void read_seed() {
    const char *seed = getenv("MOETRAIN_EMULATION_SEED");
    drawn_order = Order::RANDOM;
    uint64_t number = 20240607;
    if (seed && strcmp(seed, "forward") == 0)
        drawn_order = Order::FORWARD;
    else if (seed && strcmp(seed, "reverse") == 0)
        drawn_order = Order::REVERSE;
    else if (seed && *seed)
        number = strtoull(seed, nullptr, 0);
    random_state = (number + 1) * 0x9e3779b97f4a7c15u | 1;
    for (int i = 0; i < 8; i++) draw();
}

} // namespace

Order order() {
    return drawn_order;
}
uint64_t random_bits() {
    return draw();
}

// " [kernel, block, thread]" on standard error, inside a kernel.
static void print_thread() {
    if (!current || !running) return;
    fprintf(stderr, " [%s, block %u,%u,%u thread %u,%u,%u]",
            function_name(running->function).c_str(), block_index.x, block_index.y, block_index.z,
            current->index.x, current->index.y, current->index.z);
}
void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fprintf(stderr, "emulated GPU: ");
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    print_thread();
    fputc('\n', stderr);
    fflush(stderr);
    abort();
}
#if EMULATION_ASAN
// After the report of a sanitizer.
static void print_thread_of_report() {
    if (!current || !running) return;
    fprintf(stderr, "emulated GPU:");
    print_thread();
    fputc('\n', stderr);
}
__attribute__((constructor)) static void complete_reports() {
    __sanitizer_set_death_callback(print_thread_of_report);
}
#endif

// Saves the callee's registers on the stack, notes it in *save and goes on where `to` was left.
extern "C" void emulation_switch(void **save, void *to);
asm(R"(
.text
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulation_switch, .-emulation_switch
)");

namespace {

inline void arrived_on(Stack *stack) {
#if EMULATION_ASAN
    __sanitizer_finish_switch_fiber(stack->fake, &left->bottom, &left->bytes);
#else
    (void)stack;
#endif
}

inline void switch_stack(Stack *from, Stack *to) {
    left = from;
#if EMULATION_ASAN
    __sanitizer_start_switch_fiber(&from->fake, to->bottom, to->bytes);
#endif
    emulation_switch(&from->pointer, to->pointer);
    arrived_on(from);
}

void run_threads();

Stack *new_stack() {
    size_t page = 4096;
    void *memory = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0)
        die("no memory for the stack of a thread");
    static unsigned made;
    Stack *stack = new Stack();
    stack->bottom = static_cast<char *>(memory) + page;
    stack->bytes = STACK_BYTES;
    // Tops are spread over the sets of the cache: a block touches the first lines of hundreds of
    // stacks again and again.
    char *top = static_cast<char *>(memory) + page + STACK_BYTES - 64 * (1 + made++ * 7 % 63);
    void **slot = reinterpret_cast<void **>(top);
    *--slot = nullptr; // the return address of run_threads, which never returns; aligns its frame
    *--slot = reinterpret_cast<void *>(run_threads);
    for (int i = 0; i < 6; i++) *--slot = nullptr;
    stack->pointer = slot;
    return stack;
}

// Of the set bits of `ready`, the first of a random turn.
inline unsigned first_of(unsigned ready, unsigned turn) {
    unsigned shift = turn & 31;
    unsigned rotated = ready >> shift | ready << (-shift & 31);
    unsigned first =
        turn & 32 ? 31 - (unsigned)__builtin_clz(rotated) : (unsigned)__builtin_ctz(rotated);
    return (first + shift) & 31;
}
inline unsigned new_turn() {
    if (drawn_order == Order::RANDOM) return (unsigned)draw() & 63;
    return drawn_order == Order::FORWARD ? 0 : 32;
}

// Takes a thread that may run, or NULL: of the same warp if there is one, mostly.
inline Fiber *choose() {
    unsigned w = block.warp;
    if (!block.warps[w].ready || --block.stay == 0) {
        block.stay = drawn_order == Order::RANDOM ? 1 + ((unsigned)draw() & 63) : 0;
        if (!block.warps_ready) return nullptr;
        w = block.warp = first_of(block.warps_ready, block.turn);
        block.turn = new_turn();
    }
    Warp &warp = block.warps[w];
    unsigned lane = first_of(warp.ready, warp.turn);
    warp.ready &= ~(1u << lane);
    if (!warp.ready) block.warps_ready &= ~(1u << w);
    return &fibers[w * 32 + lane];
}

inline void make_ready(unsigned w, unsigned lanes) {
    block.warps[w].ready |= lanes;
    block.warps[w].turn = new_turn();
    block.warps_ready |= 1u << w;
}

[[noreturn]] void deadlock() {
    current = nullptr;
    fprintf(stderr, "emulated GPU: threads wait for others that never come:\n");
    int shown = 0;
    for (unsigned i = 0; i < block.threads && shown < 8; i++) {
        const Fiber &fiber = fibers[i];
        if (!fiber.waits_for || block.warps[i / 32].exited >> (i % 32) & 1) continue;
        fprintf(stderr, "  thread %u,%u,%u in %s at %s:%u\n", fiber.index.x, fiber.index.y,
                fiber.index.z, fiber.waits_for, fiber.waits_at.file_name(), fiber.waits_at.line());
        shown++;
    }
    die("deadlock in %s, block %u,%u,%u (divergent barrier or mask)",
        function_name(running->function).c_str(), block_index.x, block_index.y, block_index.z);
}

// Lets others run until `self` may.
inline void wait(Fiber *self) {
    Fiber *next = choose();
    if (next == self) return;
    if (!next) deadlock();
    if (!next->stack) {
        if (parked.empty()) parked.push_back(new_stack());
        next->stack = parked.back();
        parked.pop_back();
    }
    current = next;
    switch_stack(self->stack, next->stack);
}

// The end of a thread: nobody may wait for it.
void end_thread(Fiber *self) {
    Warp &warp = block.warps[self->warp];
    if (block.arrived)
        die("a thread has ended while %u others wait in __syncthreads at %s:%u", block.arrived,
            block.barrier_at.file_name(), block.barrier_at.line());
    for (unsigned open = warp.open; open; open &= open - 1) {
        const Meeting &meeting = warp.meetings[__builtin_ctz(open)];
        if (meeting.mask >> self->lane & 1)
            die("lane %u has ended while others wait for it in %s with mask %08x at %s:%u",
                self->lane, meeting.operation, meeting.mask, meeting.at.file_name(),
                meeting.at.line());
    }
    warp.exited |= 1u << self->lane;
    block.ended++;
    self->stack = nullptr;
    self->waits_for = nullptr;
    self->copies.clear();
    self->copy_group = 0;
    self->products.clear();
    self->product_group = 0;
}

// What every fiber does: runs threads to their ends, one after the other.
void run_threads() {
    Fiber *self = static_cast<Fiber *>(current);
    Stack *stack = self->stack;
    arrived_on(stack);
    for (;;) {
        running->run(running->launched);
        self = static_cast<Fiber *>(current);
        end_thread(self);
        Fiber *next = choose();
        if (next && !next->stack) { // not started: goes on here
            next->stack = stack;
            current = next;
            continue;
        }
        if (!next && block.ended < block.threads) deadlock();
        parked.push_back(stack);
        current = next;
        switch_stack(stack, next ? next->stack : &host);
        // Taken out of `parked` for another thread.
    }
}

// Uninstrumented, since the arrays' red zones lie between them.
void fill_with_nan(void *data, size_t bytes) {
    asm volatile("rep stosb" : "+D"(data), "+c"(bytes) : "a"(0xff) : "memory");
}

void run_block(unsigned threads) {
    for (const SharedVariable &variable : shared_variables())
        fill_with_nan(variable.data, variable.bytes);
    fill_with_nan(dynamic_begin, running->dynamic_shared);
    block.threads = threads;
    block.ended = block.arrived = block.generation = block.warps_ready = block.warp = 0;
    block.predicates[0] = block.predicates[1] = 0;
    block.turn = new_turn();
    for (unsigned w = 0; w * 32 < threads; w++) {
        Warp &warp = block.warps[w];
        unsigned lanes = threads - w * 32;
        warp.lanes = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        warp.ready = warp.exited = warp.open = 0;
        make_ready(w, warp.lanes);
    }
    block.warp = first_of(block.warps_ready, block.turn);
    Fiber *first = choose();
    if (parked.empty()) parked.push_back(new_stack());
    first->stack = parked.back();
    parked.pop_back();
    current = first;
    switch_stack(&host, first->stack);
}

// The places of a walk over all blocks, in an order of chance: index -> (factor index + start) mod
// blocks.
struct Walk {
    uint64_t blocks, factor, start;
    explicit Walk(uint64_t n) : blocks(n), factor(1), start(0) {
        if (order() == Order::REVERSE) factor = n - 1, start = n - 1;
        if (order() != Order::RANDOM) return;
        do factor = random_bits() % n + 1;
        while (std::gcd(factor, n) != 1);
        start = random_bits() % n;
    }
    uint64_t place(uint64_t index) const {
        return (uint64_t)(((unsigned __int128)factor * index + start) % blocks);
    }
};

} // namespace

Fiber *this_fiber(const char *operation, Place at) {
    if (!current) die("%s:%u: %s outside of a kernel", at.file_name(), at.line(), operation);
    return static_cast<Fiber *>(current);
}
unsigned lanes_of_warp(unsigned warp) {
    return block.warps[warp].lanes;
}

void run_kernel(const Kernel &kernel) {
    if (running) die("a kernel is started inside a kernel");
    running = &kernel;
    DeviceAccess access;
    forbid(shared_room, SHARED_ROOM);
    allow(dynamic_begin, kernel.dynamic_shared);
    block_dim = kernel.block, grid_dim = kernel.grid;
    unsigned threads = block_dim.x * block_dim.y * block_dim.z;
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.index = {i % block_dim.x, i / block_dim.x % block_dim.y,
                       i / block_dim.x / block_dim.y};
        fiber.lane = i % 32, fiber.warp = i / 32;
    }
    uint64_t blocks = (uint64_t)grid_dim.x * grid_dim.y * grid_dim.z;
    Walk walk(blocks);
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t place = walk.place(i);
        block_index = {(unsigned)(place % grid_dim.x), (unsigned)(place / grid_dim.x % grid_dim.y),
                       (unsigned)(place / grid_dim.x / grid_dim.y)};
        run_block(threads);
    }
    current = nullptr;
    running = nullptr;
}

bool is_shared_memory(const void *data, size_t bytes) {
    const char *begin = static_cast<const char *>(data);
    if (begin >= dynamic_begin && begin + bytes <= dynamic_begin + running->dynamic_shared)
        return true;
    for (const SharedVariable &variable : shared_variables())
        if (begin >= variable.data && begin + bytes <= variable.data + variable.bytes) return true;
    return false;
}
void *dynamic_shared() {
    if (!current) die("dynamic shared memory outside of a kernel");
    return dynamic_begin;
}

static inline bool same_place(Place a, Place b) {
    // One pointer, mostly to the same description; equal places of two copies of a function have
    // two.
    if (memcmp(&a, &b, sizeof a) == 0) return true;
    return a.line() == b.line() && a.column() == b.column() &&
           (a.file_name() == b.file_name() || strcmp(a.file_name(), b.file_name()) == 0);
}

int barrier(bool predicate, Place at) {
    Fiber *self = this_fiber("__syncthreads", at);
    if (block.ended)
        die("%s:%u: __syncthreads after %u threads of the block have ended: all must come to it",
            at.file_name(), at.line(), block.ended);
    if (block.arrived == 0)
        block.barrier_at = at;
    else if (!same_place(block.barrier_at, at))
        die("divergent __syncthreads: one thread at %s:%u, others at %s:%u", at.file_name(),
            at.line(), block.barrier_at.file_name(), block.barrier_at.line());
    unsigned generation = block.generation;
    block.predicates[generation & 1] += predicate;
    if (++block.arrived == block.threads) {
        block.arrived = 0;
        block.generation++;
        block.predicates[block.generation & 1] = 0;
        for (unsigned w = 0; w * 32 < block.threads; w++) make_ready(w, block.warps[w].lanes);
        block.warp = first_of(block.warps_ready, block.turn);
    }
    self->waits_for = "__syncthreads";
    self->waits_at = at;
    wait(self);
    self->waits_for = nullptr;
    return block.predicates[generation & 1];
}

void check_source(unsigned mask, int source, const char *operation, Place at) {
    if (!(mask >> source & 1) || !(block.warps[current->warp].lanes >> source & 1))
        die("%s:%u: %s reads from lane %d, which is not in mask %08x", at.file_name(), at.line(),
            operation, source, mask & block.warps[current->warp].lanes);
}

void meet(unsigned mask, const char *operation, Finish finish, void *operand, Place at) {
    Fiber *self = this_fiber(operation, at);
    Warp &warp = block.warps[self->warp];
    unsigned mine = 1u << self->lane;
    mask &= warp.lanes; // the last warp of a block may be short
    if (!(mask & mine))
        die("%s:%u: %s by lane %u, which is not in mask %08x", at.file_name(), at.line(), operation,
            self->lane, mask);
    if (mask & warp.exited)
        die("%s:%u: %s with mask %08x, of which lanes %08x have ended", at.file_name(), at.line(),
            operation, mask, mask & warp.exited);
    unsigned slot = 32;
    for (unsigned open = warp.open; open; open &= open - 1)
        if (warp.meetings[__builtin_ctz(open)].mask == mask) {
            slot = (unsigned)__builtin_ctz(open);
            break;
        }
    if (slot == 32) {
        slot = (unsigned)__builtin_ctz(~warp.open);
        warp.open |= 1u << slot;
        warp.meetings[slot] = {mask, 0, finish, operation, at};
    }
    Meeting &meeting = warp.meetings[slot];
    if (meeting.finish != finish || !same_place(meeting.at, at))
        die("%s at %s:%u meets %s at %s:%u in mask %08x", operation, at.file_name(), at.line(),
            meeting.operation, meeting.at.file_name(), meeting.at.line(), mask);
    meeting.arrived |= mine;
    warp.operands[self->lane] = operand;
    if (meeting.arrived == mask) {
        finish(mask, warp.operands);
        warp.open &= ~(1u << slot);
        make_ready(self->warp, mask);
    }
    self->waits_for = operation;
    self->waits_at = at;
    wait(self);
    self->waits_for = nullptr;
}

} // namespace emulation
