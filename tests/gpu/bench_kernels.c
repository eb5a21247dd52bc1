// Every kernel against its roofline, on one device: time, the bytes it must move or the operations
// it must do (counted here from the shapes), and the share of what this device was measured to copy
// and to multiply in the same run. Tensors that the last call left in a cache come faster than the
// copy, which is too large for it: shares above 100 % are those.
//   bench_kernels [cuda|cpu] [tokens]        (default: cuda, 16384)
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/arena.h"
#include "kernels/clock.h"
#include "kernels/kernels.h"
#include "kernels/self_test.h"

enum {
    D = 2048,
    F = 4096,
    V = 50304,
    E = 64,
    K = 2,
    HEADS = 16,
    KV = 4,
    HEAD = 128,
    T = 2048,
    PARAMETERS = 1 << 26, // of one optimizer step
    SKIPPED = 77
};

static Device dev;
static Arena arena, host;
static int64_t N;                         // tokens
static double copy_ceiling, gemm_ceiling; // bytes/s, operations/s in bf16

// ---- memory -------------------------------------------------------------------------------------

// Every tensor is taken twice: measured, then placed; see `main`.
static Tensor device_2d(DType dtype, int64_t n0, int64_t n1) {
    return arena_2d(&arena, dtype, n0, n1);
}

// Numbers in [-1, 1], the same PIECE of them again and again.
static Tensor filled_2d(DType dtype, int64_t n0, int64_t n1) {
    enum { PIECE = 1 << 22 };
    Tensor x = device_2d(dtype, n0, n1);
    size_t mark = arena_mark(&arena), host_mark = arena_mark(&host);
    Tensor there = arena_1d(&arena, F32, PIECE), here = arena_1d(&host, F32, PIECE);
    if (x.data) {
        for (int64_t i = 0; i < PIECE; i++)
            tensor_f32(here)[i] = (float)((uint32_t)i * 2654435761u % 2001) * 1e-3f - 1.0f;
        device_upload(&dev, there, here);
        for (int64_t first = 0, all = tensor_elements(x); first < all; first += PIECE) {
            int64_t count = all - first < PIECE ? all - first : PIECE;
            Tensor to = tensor_range(x, first, count), from = tensor_range(there, 0, count);
            (dtype == BF16 ? convert : copy)(&dev, to, from);
        }
        device_synchronize(&dev);
    }
    arena_release(&arena, mark);
    arena_release(&host, host_mark);
    return x;
}

// All elements the same number.
static Tensor constant_2d(int64_t n0, int64_t n1, float number) {
    Tensor x = device_2d(F32, n0, n1);
    size_t mark = arena_mark(&host);
    Tensor here = arena_2d(&host, F32, n0, n1);
    if (x.data) {
        for (int64_t i = 0; i < n0 * n1; i++) tensor_f32(here)[i] = number;
        device_upload(&dev, x, here);
        device_synchronize(&dev);
    }
    arena_release(&host, mark);
    return x;
}

static Tensor numbers_1d(int64_t n, int64_t below) {
    Tensor x = arena_1d(&arena, I32, n);
    size_t mark = arena_mark(&host);
    Tensor there = arena_1d(&host, I32, n);
    if (x.data) {
        for (int64_t i = 0; i < n; i++)
            tensor_i32(there)[i] = (int32_t)((uint64_t)(i * 2654435761u >> 7) % (uint64_t)below);
        device_upload(&dev, x, there);
        device_synchronize(&dev);
    }
    arena_release(&host, mark);
    return x;
}

// ---- measuring ----------------------------------------------------------------------------------

typedef void (*Op)(void *context);

// Seconds of one call: the fastest of some batches of calls, each waited for at its end. Calls of a
// second and more, on a CPU, are made only twice.
static double seconds_of(Op op, void *context) {
    enum { BATCHES = 5 };
    op(context);
    device_synchronize(&dev);
    double begin = clock_seconds();
    op(context);
    device_synchronize(&dev);
    double once = clock_seconds() - begin, best = once;
    int calls = once < 2e-3 ? (int)(2e-2 / (once + 1e-6)) + 1 : 3;
    for (int batch = 0; batch < BATCHES && once < 1.0; batch++) {
        begin = clock_seconds();
        for (int i = 0; i < calls; i++) op(context);
        device_synchronize(&dev);
        best = fmin(best, (clock_seconds() - begin) / calls);
    }
    return best;
}

static void report(const char *name, Op op, void *context, double bytes, double operations) {
    double seconds = seconds_of(op, context);
    double memory = bytes / copy_ceiling, arithmetic = operations / gemm_ceiling;
    printf("%-34s %10.1f us  %8.1f GB/s  %8.2f TFLOP/s  %5.1f %% of %s\n", name, 1e6 * seconds,
           1e-9 * bytes / seconds, 1e-12 * operations / seconds,
           100 * fmax(memory, arithmetic) / seconds, memory > arithmetic ? "copy" : "GEMM");
    fflush(stdout);
}

// The numbers that all cases read: filled once.
typedef struct Tensors {
    Tensor a, b, c; // (N, D) bf16
    Tensor x, sum;  // (N, D) f32
    NormParams norm, dnorm;
    Tensor rstd, partial, wide_x;
    Tensor hidden, dhidden, act; // (N, 2F), (N, 2F), (N, F) bf16
    Tensor qkv, dqkv, heads, dheads, lse, cosines, sines;
    Tensor logits, losses, targets; // (N, V) bf16
    Tensor router_logits, router_dlogits, dweights, balance;
    Routing routing;
    RouterSums sums;
    Tensor kept, places, tokens_per_expert, dropped, order, slot_row, row_choice, counts;
    Tensor rows, rows_out; // (N·K, D) bf16
    Tensor table, dtable, tokens, embedding_order;
    Tensor dense, experts, dexperts, ddense; // (D, D), (E, D, D)
    Tensor w, g, m, v, copy, groups, offsets, squares;
    int64_t expert_rows[E + 1];
    Tensor expert_offsets;
} Tensors;

static const AttentionShape shape = {HEADS, KV, HEAD, HEAD};
static const AttentionRule attention_rule = {
    .shape = {HEADS, KV, HEAD, HEAD}, .T = T, .scale = 0.088f};
static const NormRule norm_rule = {RMSNORM, 1e-5f};
static const RouterRule router_rule = {.kind = SOFTMAX_TOPK};
static Tensors t;

static void place(void) {
    t.a = filled_2d(BF16, N, D), t.b = filled_2d(BF16, N, D), t.c = filled_2d(BF16, N, D);
    t.x = filled_2d(F32, N, D), t.sum = device_2d(F32, N, D);
    t.norm.weight = tensor_reshape_1d(filled_2d(F32, 1, D), D);
    t.rstd = device_2d(F32, 1, N);
    t.dnorm.weight = arena_1d(&arena, F32, D);
    t.partial = device_2d(F32, 4, D);
    t.hidden = filled_2d(BF16, N, 2 * F), t.dhidden = device_2d(BF16, N, 2 * F);
    t.act = filled_2d(BF16, N, F);
    int64_t width = attention_qkv_width(shape);
    t.qkv = filled_2d(BF16, N, width), t.dqkv = device_2d(BF16, N, width);
    t.heads = device_2d(BF16, N, HEADS * HEAD), t.dheads = filled_2d(BF16, N, HEADS * HEAD);
    t.lse = device_2d(F32, N, HEADS);
    t.cosines = constant_2d(T, HEAD / 2, 0.6f), t.sines = constant_2d(T, HEAD / 2, 0.8f);
    t.logits = filled_2d(BF16, N, V);
    t.losses = arena_1d(&arena, F32, N);
    t.targets = numbers_1d(N, V);
    t.router_logits = filled_2d(F32, N, E), t.router_dlogits = device_2d(F32, N, E);
    t.routing.ids = device_2d(I32, N, K), t.routing.weights = device_2d(F32, N, K);
    t.dweights = filled_2d(F32, N, K);
    t.routing.lse = arena_1d(&arena, F32, N);
    t.sums.prob_sum = device_2d(F64, 4, E);
    t.sums.entropy_sum = arena_1d(&arena, F64, 4), t.sums.lse2_sum = arena_1d(&arena, F64, 4);
    t.balance = filled_2d(F32, 4, E);
    t.kept = device_2d(U8, N, K);
    t.tokens_per_expert = device_2d(I32, 4, E), t.dropped = device_2d(I32, 4, E);
    t.order = arena_1d(&arena, I32, N * K + E + 1);
    t.slot_row = device_2d(I32, N, K);
    t.row_choice = arena_1d(&arena, I32, N * K);
    t.counts = device_2d(I32, E, 4);
    t.rows = filled_2d(BF16, N * K, D), t.rows_out = device_2d(BF16, N * K, D);
    t.table = filled_2d(F32, V, D), t.dtable = device_2d(F32, V, D);
    t.tokens = numbers_1d(N, V);
    t.embedding_order = arena_1d(&arena, I32, N + V + 1);
    t.dense = tensor_reshape_3d(filled_2d(BF16, D, D), 1, D, D);
    t.ddense = tensor_reshape_3d(device_2d(F32, D, D), 1, D, D);
    t.experts = tensor_reshape_3d(filled_2d(BF16, E * D, D), E, D, D);
    t.dexperts = arena_3d(&arena, F32, E, D, D);
    int64_t n = PARAMETERS;
    t.w = tensor_reshape_1d(filled_2d(F32, 1, n), n),
    t.g = tensor_reshape_1d(filled_2d(F32, 1, n), n);
    t.m = arena_1d(&arena, F32, n), t.v = arena_1d(&arena, F32, n);
    t.copy = arena_1d(&arena, BF16, n);
    t.groups = arena_1d(&arena, U8, n / 16);
    t.offsets = arena_1d(&arena, I64, 2), t.squares = arena_1d(&arena, F64, 1);
    t.expert_offsets = arena_1d(&arena, I64, E + 1);
    t.places = arena_1d(&arena, I32, E);
    for (int e = 0; e <= E; e++) t.expert_rows[e] = N * K / E * e;
    if (!t.offsets.data) return;
    device_upload(&dev, t.offsets, tensor_1d((int64_t[]){0, n}, I64, 2));
    device_upload(&dev, t.expert_offsets, tensor_1d(t.expert_rows, I64, E + 1));
    int32_t places[E];
    for (int e = 0; e < E; e++) places[e] = e;
    device_upload(&dev, t.places, tensor_1d(places, I32, E));
    device_synchronize(&dev);
}

// ---- the cases ----------------------------------------------------------------------------------

static Segments dense_rows(void) {
    static int64_t offsets[2];
    offsets[1] = N;
    return (Segments){.groups = 1, .parts = 1, .offsets = offsets};
}
static Segments expert_rows(void) {
    return (Segments){
        .groups = E, .parts = 1, .offsets = t.expert_rows, .device_offsets = t.expert_offsets};
}

#define CASE(name, call)                                                                           \
    static void name(void *context) {                                                              \
        (void)context;                                                                             \
        call;                                                                                      \
    }
CASE(run_copy, copy(&dev, t.b, t.a))
CASE(run_gemm, matmul_forward(&dev, t.b, t.a, t.dense, dense_rows()))
CASE(run_gemm_input, matmul_backward_input(&dev, t.b, t.a, t.dense, dense_rows()))
CASE(run_gemm_weight, matmul_backward_weight(&dev, t.ddense, t.a, t.b, dense_rows()))
CASE(run_grouped, matmul_forward(&dev, t.rows_out, t.rows, t.experts, expert_rows()))
CASE(run_grouped_input, matmul_backward_input(&dev, t.rows_out, t.rows, t.experts, expert_rows()))
CASE(run_grouped_weight,
     matmul_backward_weight(&dev, t.dexperts, t.rows_out, t.rows, expert_rows()))
CASE(run_norm, normalize_forward(&dev, t.b, t.rstd, t.sum, t.x, t.a, t.norm, norm_rule))
CASE(run_norm_backward,
     normalize_backward(&dev, t.sum, t.dnorm, t.a, t.x, t.rstd, t.norm, norm_rule, t.partial))
CASE(run_rope, rope(&dev, t.qkv, shape, t.cosines, t.sines, ((RowPositions){.T = T}), false))
CASE(run_attention, attention_forward(&dev, t.heads, t.lse, (Tensor){0}, t.qkv, attention_rule))
CASE(run_attention_backward,
     attention_backward(&dev, t.dqkv, (Tensor){0}, t.dheads, t.qkv, t.heads, t.lse, attention_rule))
CASE(run_activation, activation_forward(&dev, t.act, t.hidden, SWIGLU))
CASE(run_activation_backward, activation_backward(&dev, t.dhidden, t.act, t.hidden, SWIGLU))
CASE(run_router, router_forward(&dev, t.routing, t.sums, t.router_logits, (Tensor){0}, router_rule))
CASE(run_router_backward, router_backward(&dev, t.router_dlogits, t.dweights, t.routing,
                                          t.router_logits, router_rule, t.balance, 1e-3f))
CASE(run_capacity,
     capacity_assign(&dev, t.kept, t.tokens_per_expert, t.dropped, t.routing.ids, t.routing.weights,
                     (CapacityRule){N / 4 * K / E * 5 / 4, DROP_PROBABILITY, {0}, 0}, t.order))
CASE(run_dropless,
     capacity_assign(&dev, t.kept, t.tokens_per_expert, t.dropped, t.routing.ids, t.routing.weights,
                     (CapacityRule){-1, DROP_POSITION, {0}, 0}, t.order))
CASE(run_plan, permutation_plan(&dev, t.slot_row, t.row_choice, t.counts, t.routing.ids, t.kept,
                                t.places, 4, -1))
CASE(run_gather, gather_rows(&dev, t.rows, t.a, t.row_choice, N *K, K))
CASE(run_combine, combine_forward(&dev, t.b, t.rows, t.slot_row, t.routing.weights))
CASE(run_combine_backward, combine_backward(&dev, t.rows_out, t.dweights, t.a, t.rows, t.slot_row,
                                            (Tensor){0}, t.routing.weights))
CASE(run_loss, cross_entropy(&dev, t.losses, t.logits, t.targets, 1e-4f))
CASE(run_embedding, embedding_forward(&dev, t.sum, t.tokens, t.table))
CASE(run_embedding_backward,
     embedding_backward(&dev, t.dtable, t.x, t.tokens, 4, t.embedding_order))
CASE(run_adamw, adamw_update(&dev, t.w, t.copy, t.g, t.m, t.v, t.groups,
                             (AdamW){{1e-4f}, {0.1f}, 0.9f, 0.95f, 1e-8f, 0.1f, 0.05f, 1.0f}))
CASE(run_squares, sum_of_squares(&dev, t.squares, t.g, t.offsets, (Tensor){0}))

// Bytes are those that an op must move: every tensor of its contract (kernels.h) once, read and
// written. Weights of a norm, sums over parts and the like are left out where they are less than a
// thousandth.
static void run_all(void) {
    double rows = (double)N, d = D, f = F, v = V, e = E, choices = rows * K;
    double gemm = 2 * rows * d * d, grouped = 2 * choices * d * d, expert_weights = e * d * d;
    double width = (double)attention_qkv_width(shape), heads = HEADS * HEAD,
           parameters = PARAMETERS;
    // Of two products of tiles: half of the keys, on average, for a query.
    double attention = 2 * 2 * rows * heads * (double)(T + 1) / 2;
    copy_ceiling = 2 * 2 * rows * d / seconds_of(run_copy, NULL);
    gemm_ceiling = 1e9 * device_measure_gemm_gflops(&dev, BF16);
    printf("%s\n%lld tokens, d_model %d, %d experts top-%d of width %d, %d heads on %d, T %d, "
           "vocabulary %d, bf16\nceilings measured: copy %.0f GB/s, GEMM %.2f TFLOP/s\n",
           dev.description, (long long)N, D, E, K, D, HEADS, KV, T, V, 1e-9 * copy_ceiling,
           1e-12 * gemm_ceiling);
    // As trained by default (train.reproducible: ranks), and by what the libraries like best (off,
    // run).
    static const char *const names[2][6] = {
        {"matmul forward", "matmul input gradient", "matmul weight gradient", "experts forward",
         "experts input gradient", "experts weight gradient"},
        {"matmul forward, fixed order", "matmul input gradient, fixed",
         "matmul weight gradient, fixed", "experts forward, fixed order",
         "experts input gradient, fixed", "experts weight gradient, fixed"}};
    for (int fixed = 1; fixed >= 0; fixed--) {
        const char *const *name = names[fixed];
        dev.fixed_order = fixed;
        report(name[0], run_gemm, NULL, 4 * rows * d + 2 * d * d, gemm);
        report(name[1], run_gemm_input, NULL, 4 * rows * d + 2 * d * d, gemm);
        report(name[2], run_gemm_weight, NULL, 4 * rows * d + 4 * d * d, gemm);
        report(name[3], run_grouped, NULL, 4 * choices * d + 2 * expert_weights, grouped);
        report(name[4], run_grouped_input, NULL, 4 * choices * d + 2 * expert_weights, grouped);
        report(name[5], run_grouped_weight, NULL, 4 * choices * d + 4 * expert_weights, grouped);
    }
    dev.fixed_order = true;
    report("attention forward", run_attention, NULL, rows * (2 * width + 2 * heads + 4 * HEADS),
           attention);
    report("attention backward", run_attention_backward, NULL,
           rows * (4 * width + 4 * heads + 4 * HEADS), 2.5 * attention);
    report("rope", run_rope, NULL, 4 * rows * (HEADS + KV) * HEAD + 4.0 * T * HEAD, 0);
    report("rmsnorm with residual", run_norm, NULL, rows * (12 * d + 4), 0);
    report("rmsnorm backward", run_norm_backward, NULL, rows * (14 * d + 4), 0);
    report("swiglu forward", run_activation, NULL, 6 * rows * f, 0);
    report("swiglu backward", run_activation_backward, NULL, 10 * rows * f, 0);
    report("router forward", run_router, NULL, rows * (4 * e + 4) + 8 * choices, 0);
    report("router backward", run_router_backward, NULL, rows * (8 * e + 4) + 12 * choices, 0);
    report("capacity", run_capacity, NULL, 9 * choices, 0);
    run_dropless(NULL); // what follows moves every choice
    report("permutation plan", run_plan, NULL, 13 * choices, 0);
    report("gather (dispatch)", run_gather, NULL, choices * (2 * d + 4) + 2 * rows * d, 0);
    report("combine forward", run_combine, NULL, choices * (2 * d + 8) + 2 * rows * d, 0);
    report("combine backward", run_combine_backward, NULL, choices * (4 * d + 12) + 2 * rows * d,
           0);
    report("cross-entropy in place", run_loss, NULL, rows * (4 * v + 8), 0);
    report("embedding forward", run_embedding, NULL, rows * (8 * d + 4), 0);
    report("embedding backward", run_embedding_backward, NULL, rows * (4 * d + 4) + 4 * v * d, 0);
    report("adamw", run_adamw, NULL, (30 + 1.0 / 16) * parameters, 0);
    report("sum of squares", run_squares, NULL, 4 * parameters, 0);
}

// ---- experts of known models --------------------------------------------------------------------

// The experts of one rank: `groups` of them, (n, depth), with `each` rows.
typedef struct Experts {
    const char *name;
    int64_t groups, each, n, depth;
} Experts;

static Tensor expert_x, expert_w, expert_y, expert_dw, expert_offsets;
static int64_t expert_bounds[65];
static int64_t expert_groups;

static Segments known_rows(void) {
    return (Segments){.groups = expert_groups,
                      .parts = 1,
                      .offsets = expert_bounds,
                      .device_offsets = expert_offsets};
}
CASE(run_known, matmul_forward(&dev, expert_y, expert_x, expert_w, known_rows()))
CASE(run_known_input, matmul_backward_input(&dev, expert_x, expert_y, expert_w, known_rows()))
CASE(run_known_weight, matmul_backward_weight(&dev, expert_dw, expert_y, expert_x, known_rows()))

static void bench_experts(const Experts *e) {
    int64_t rows = e->groups * e->each;
    Arena device, here;
    arena_measure(&device, "experts", &dev);
    arena_measure(&here, "experts", NULL);
    Tensor host_offsets = {0};
    for (int placing = 0; placing < 2; placing++) {
        expert_x = arena_2d(&device, BF16, rows, e->depth);
        expert_y = arena_2d(&device, BF16, rows, e->n);
        expert_w = arena_3d(&device, BF16, e->groups, e->n, e->depth);
        expert_dw = arena_3d(&device, F32, e->groups, e->n, e->depth);
        expert_offsets = arena_1d(&device, I64, e->groups + 1);
        host_offsets = arena_1d(&here, I64, e->groups + 1);
        if (placing) break;
        arena_allocate(&device);
        arena_allocate(&here);
    }
    expert_groups = e->groups;
    for (int64_t g = 0; g <= e->groups; g++)
        tensor_i64(host_offsets)[g] = expert_bounds[g] = g * e->each;
    device_upload(&dev, expert_offsets, host_offsets);
    double operations = 2.0 * (double)rows * (double)e->n * (double)e->depth;
    double matrices = (double)(e->groups * e->n * e->depth);
    double moved = 2.0 * (double)rows * (double)(e->n + e->depth);
    for (int fixed = 1; fixed >= 0; fixed--) {
        dev.fixed_order = fixed;
        printf("%s: %lld experts of %lld by %lld, %lld rows each%s\n", e->name,
               (long long)e->groups, (long long)e->n, (long long)e->depth, (long long)e->each,
               fixed ? ", fixed order" : "");
        report("  forward", run_known, NULL, moved + 2 * matrices, operations);
        report("  input gradient", run_known_input, NULL, moved + 2 * matrices, operations);
        report("  weight gradient", run_known_weight, NULL, moved + 4 * matrices, operations);
    }
    arena_free(&device);
    arena_free(&here);
}

int main(int argc, char **argv) {
    Error err = {0};
    if (!device_open(&dev, argc > 1 ? argv[1] : "cuda", 0, 0, 1, &err)) {
        printf("skipped: %s\n", err.message);
        return SKIPPED;
    }
    N = argc > 2 ? strtoll(argv[2], NULL, 10) : 16384;
    CHECK(N >= T && N % T == 0 && N * K % E == 0, "%lld tokens, wanted a multiple of %d",
          (long long)N, T);
    arena_measure(&arena, "benchmark", &dev);
    arena_measure(&host, "benchmark", NULL);
    place();
    arena_allocate(&arena);
    arena_allocate(&host);
    place();
    run_all();
    arena_free(&arena);
    arena_free(&host);
    // 8192 tokens a GPU on 8 of them, up-projection: the shapes of Mixtral 8x7B and of
    // DeepSeek-V3's experts.
    static const Experts known[] = {{"mixtral", 1, 16384, 28672, 4096},
                                    {"deepseek", 32, 2048, 4096, 7168}};
    for (size_t i = 0; i < 2 && dev.place == ON_DEVICE; i++) bench_experts(&known[i]);
    device_close(&dev);
    return 0;
}
