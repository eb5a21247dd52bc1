// Permutation, exchange plan, dispatch and combine: the integer parts exactly, the sums against the
// reference. Long because it is a list of cases.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Matrices of T lie in flat tensors, `shift` elements behind their start: matrix() views them, on
// either device, so that rows can start at addresses that no vector load may touch.
typedef struct Case {
    DType T;
    int64_t N, K, E, parts, D, padded_rows, shift;
    int64_t rows; // of row_choice
    int64_t used; // rows that a choice has
    Tensor ids, weights, kept, places, slot_row, row_choice, counts;
    Tensor padding; // row_choice where combine_backward clears the rows of no choice; else no data
    Tensor x, y, out, dout, dy, dweights; // x, out, dout (N, D) T; y, dy (rows, D) T
    Tensor scaled, dscaled;
} Case;

// A permutation of n numbers, i32.
static Tensor random_order(int64_t n) {
    Tensor order = new_1d(I32, n);
    int32_t *at = tensor_i32(order);
    for (int64_t i = 0; i < n; i++) {
        int64_t j = random_below(i + 1);
        at[i] = at[j];
        at[j] = (int32_t)i;
    }
    return order;
}

static const RngStream drop_stream = {.seed = 7, .purpose = RNG_DROP, .a = 3, .b = 1};

static Tensor matrix(const Case *c, Tensor flat) {
    int64_t rows = (flat.shape[0] - c->shift) / c->D;
    return tensor_reshape_2d(tensor_range(flat, c->shift, rows * c->D), rows, c->D);
}

// Marks the choices that survive; experts take `capacity` of a part, or all when it is negative.
static void keep(Case *c, int64_t capacity) {
    Tensor chosen = new_2d(I32, c->parts, c->E), dropped = new_2d(I32, c->parts, c->E);
    CapacityRule rule = {capacity, DROP_RANDOM, drop_stream, 0};
    capacity_assign(device_at(0), c->kept, chosen, dropped, c->ids, c->weights, rule,
                    new_1d(I32, c->N * c->K + c->E + 1));
}

// Routing of N tokens to K different experts; `used` experts get all the tokens, the others starve.
static Case new_case(int64_t N, int64_t K, int64_t E, int64_t used, int64_t parts,
                     int64_t capacity) {
    Case c = {.T = F32, .N = N, .K = K, .E = E, .parts = parts, .padded_rows = -1};
    c.ids = new_2d(I32, N, K);
    c.weights = random_2d(N, K);
    for (int64_t n = 0; n < N; n++) {
        int64_t first = random_below(used);
        for (int64_t k = 0; k < K; k++) {
            tensor_i32(c.ids)[n * K + k] = (int32_t)((first + k) % used);
            tensor_f32(c.weights)[n * K + k] = (float)(1 + random_below(9)) / 16.0f;
        }
    }
    c.places = random_order(E);
    c.kept = new_2d(U8, N, K);
    keep(&c, capacity);
    return c;
}

static void name_case(const Case *c, const char *what, const Device *dev) {
    begin_case("%s on %s: N=%lld K=%lld E=%lld parts=%lld D=%lld padded_rows=%lld shift=%lld %s",
               what, dev->name, (long long)c->N, (long long)c->K, (long long)c->E,
               (long long)c->parts, (long long)c->D, (long long)c->padded_rows, (long long)c->shift,
               dtype_name(c->T));
}

// ---- plan ---------------------------------------------------------------------------------------

static void new_plan(Case *c, int64_t padded_rows) {
    c->padded_rows = padded_rows;
    c->rows = padded_rows < 0 ? c->N * c->K : c->E * c->parts * padded_rows;
    c->slot_row = new_2d(I32, c->N, c->K);
    c->row_choice = new_1d(I32, c->rows);
    c->counts = new_2d(I32, c->E, c->parts);
}

static void run_plan(Device *dev, void *context) {
    Case *c = context;
    permutation_plan(dev, c->slot_row, c->row_choice, c->counts, c->ids, c->kept, c->places,
                     c->parts, c->padded_rows);
}

static void make_reference_plan(Case *c, int64_t padded_rows) {
    new_plan(c, padded_rows);
    reference_permutation_plan(tensor_i32(c->slot_row), tensor_i32(c->row_choice),
                               tensor_i32(c->counts), tensor_i32(c->ids), tensor_u8(c->kept),
                               tensor_i32(c->places), c->N, c->K, c->E, c->parts, padded_rows);
    c->used = 0;
    for (int64_t i = 0; i < c->E * c->parts; i++) c->used += tensor_i32(c->counts)[i];
}

// The emulated GPU runs blocks and warps in an order that the seed draws: a result that it changes
// is wrong.
static void check_plan(Case *c, int64_t padded_rows) {
    make_reference_plan(c, padded_rows);
    Tensor slot_row = c->slot_row, row_choice = c->row_choice, counts = c->counts;
    for (int i = 0; i < device_count(); i++)
        for (int run = 0; run < 2; run++) {
            new_plan(c, padded_rows);
            name_case(c, run ? "plan, another order" : "plan", device_at(i));
            if (run) begin_other_schedule();
            run_on(
                device_at(i), run_plan, c,
                TENSORS(&c->slot_row, &c->row_choice, &c->counts, &c->ids, &c->kept, &c->places));
            end_other_schedule();
            expect_same_bytes("slot_row", c->slot_row, slot_row.data);
            expect_same_bytes("row_choice", c->row_choice, row_choice.data);
            expect_same_bytes("counts", c->counts, counts.data);
        }
}

// A list with just the room for what is kept: where capacity bounds that, there is no more.
static void check_short_plan(Case *c) {
    make_reference_plan(c, -1);
    Tensor slot_row = c->slot_row, kept_rows = tensor_range(c->row_choice, 0, c->used);
    for (int i = 0; i < device_count(); i++) {
        new_plan(c, -1);
        c->row_choice = new_1d(I32, c->used);
        name_case(c, "short plan", device_at(i));
        run_on(device_at(i), run_plan, c,
               TENSORS(&c->slot_row, &c->row_choice, &c->counts, &c->ids, &c->kept, &c->places));
        expect_same_bytes("slot_row", c->slot_row, slot_row.data);
        expect_same_bytes("row_choice", c->row_choice, kept_rows.data);
    }
}

static int64_t longest_run(const Case *c) {
    int32_t longest = 0;
    for (int64_t i = 0; i < c->E * c->parts; i++)
        if (tensor_i32(c->counts)[i] > longest) longest = tensor_i32(c->counts)[i];
    return longest;
}

static void check_plans(int64_t N, int64_t K, int64_t E, int64_t used, int64_t parts) {
    static const int64_t capacities[] = {-1, 0, 1, 3};
    for (size_t i = 0; i < sizeof capacities / sizeof *capacities; i++) {
        Case c = new_case(N, K, E, used, parts, capacities[i]);
        check_short_plan(&c);
        check_plan(&c, -1);
        check_plan(&c, longest_run(&c));
        check_plan(&c, longest_run(&c) + 3);
        for (int64_t j = 0; j < N * K; j++) // what does not travel may have any number
            if (!tensor_u8(c.kept)[j])
                tensor_i32(c.ids)[j] = (int32_t)(j % 5 ? E + j % 5 * 1000000 : INT32_MIN);
        check_plan(&c, -1);
        check_plan(&c, longest_run(&c) + 1);
        name_case(&c, "plan", device_at(0));
        expect_same_for_any_threads(run_plan, &c, (Tensor[]){c.slot_row, c.row_choice, c.counts},
                                    3);
        release_all();
    }
}

static void check_long_plan(int64_t N, int64_t K, int64_t E, int64_t parts) {
    Case c = new_case(N, K, E, E, parts, -1);
    check_plan(&c, -1);
    release_all();
}

// ---- rows ---------------------------------------------------------------------------------------

static Tensor new_rows(const Case *c, int64_t rows) {
    return new_1d(c->T, rows * c->D + c->shift);
}
static Tensor random_rows(const Case *c, int64_t rows) {
    return stored_as(c->T, random_1d(rows * c->D + c->shift));
}

static void run_gather(Device *dev, void *context) {
    Case *c = context;
    int64_t rows = c->padded_rows < 0 ? c->used : c->rows;
    gather_rows(dev, matrix(c, c->y), matrix(c, c->x), c->row_choice, rows, c->K);
}
static void run_combine(Device *dev, void *context) {
    Case *c = context;
    combine_forward(dev, matrix(c, c->out), matrix(c, c->y), c->slot_row, c->weights);
}
static void run_combine_with_weights_1(Device *dev, void *context) {
    Case *c = context;
    combine_forward(dev, matrix(c, c->out), matrix(c, c->y), c->slot_row,
                    tensor_2d(NULL, F32, c->N, c->K));
}
static void run_combine_backward(Device *dev, void *context) {
    Case *c = context;
    combine_backward(dev, matrix(c, c->dy), c->dweights, matrix(c, c->dout), matrix(c, c->y),
                     c->slot_row, c->padding, c->weights);
}
static void run_rows(Device *dev, void *context) {
    run_gather(dev, context);
    run_combine(dev, context);
    run_combine_backward(dev, context);
}
static void run_on_rows(Device *dev, void (*run)(Device *dev, void *context), Case *c) {
    run_on(dev, run, c,
           TENSORS(&c->slot_row, &c->row_choice, &c->weights, &c->x, &c->y, &c->out, &c->dout,
                   &c->dy, &c->dweights, &c->padding));
}

// Bytes of row r of a matrix.
static char *row_of(const Case *c, Tensor flat, int64_t r) {
    return (char *)flat.data + (size_t)(c->shift + r * c->D) * dtype_bytes(c->T);
}
static size_t row_bytes(const Case *c) {
    return (size_t)c->D * dtype_bytes(c->T);
}

static void check_gathered(Case *c, Device *dev) {
    c->y = new_rows(c, c->rows);
    Tensor want = copy_of(c->y);
    for (int64_t r = 0; r < (c->padded_rows < 0 ? c->used : c->rows); r++) {
        int32_t choice = tensor_i32(c->row_choice)[r];
        memset(row_of(c, want, r), 0, row_bytes(c));
        if (choice >= 0) memcpy(row_of(c, want, r), row_of(c, c->x, choice / c->K), row_bytes(c));
    }
    run_on_rows(dev, run_gather, c);
    expect_same_bytes("gathered rows", c->y, want.data);
}

// Weights and rows of numbers below 1: K rounded products, and K sums of which the k-th is below k.
static double combine_error(const Case *c) {
    return F32_EPS * (double)(c->K * (c->K + 1));
}

static void check_combined(Case *c, Device *dev) {
    const float *y = tensor_f32(widened(matrix(c, c->y)));
    double *want = new_doubles(c->N * c->D);
    for (int weighted = 0; weighted < 2; weighted++) {
        c->out = new_rows(c, c->N);
        reference_combine_forward(want, y, tensor_i32(c->slot_row),
                                  weighted ? tensor_f32(c->weights) : NULL, c->N, c->D, c->K);
        run_on_rows(dev, weighted ? run_combine : run_combine_with_weights_1, c);
        expect_near(weighted ? "out" : "out with weights 1", matrix(c, c->out), want,
                    storage_eps(c->T), NULL, 1.01 * combine_error(c));
    }
}

static void check_combine_backward(Case *c, bool clears, Device *dev) {
    c->padding = clears ? copy_of(c->row_choice) : tensor_1d(NULL, I32, c->rows);
    Tensor y = copy_of(c->y), zeros = new_rows(c, 1);
    memset(zeros.data, 0, tensor_bytes(zeros));
    c->dy = new_rows(c, c->rows);
    c->dweights = new_2d(F32, c->N, c->K);
    double *dy = new_doubles(c->rows * c->D), *dweights = new_doubles(c->N * c->K);
    reference_combine_backward(dy, dweights, tensor_f32(widened(matrix(c, c->dout))),
                               tensor_f32(widened(matrix(c, c->y))), tensor_i32(c->slot_row),
                               tensor_f32(c->weights), c->N, c->D, c->K);
    run_on_rows(dev, run_combine_backward, c);
    // One product, rounded, and once more when stored. A dot of D products below 1: rounding errors
    // of random sign.
    double product = c->T == F32 ? F32_EPS : BF16_EPS + 2 * F32_EPS;
    double dot = F32_EPS * (4 + 2 * sqrt((double)c->D)) * sqrt((double)c->D);
    Tensor got = matrix(c, c->dy), untouched = new_rows(c, 1);
    for (int64_t r = 0; r < c->rows; r++) {
        if (tensor_i32(c->row_choice)[r] < 0) {
            Tensor want = clears ? zeros : untouched;
            expect(memcmp(row_of(c, c->dy, r), row_of(c, want, 0), row_bytes(c)) == 0,
                   "row %lld of dy, which no choice names, is %s", (long long)r,
                   clears ? "not cleared" : "written");
        } else {
            expect_near("dy", tensor_rows(got, r, 1), dy + r * c->D, product, NULL, 0);
        }
    }
    expect_near("dweights", c->dweights, dweights, 0, NULL, dot);
    expect_same_bytes("y", c->y, y.data);

    Tensor apart = c->dy, dweights_apart = c->dweights;
    c->dy = c->y;
    c->dweights = new_2d(F32, c->N, c->K);
    run_on_rows(dev, run_combine_backward, c);
    for (int64_t r = 0; r < c->rows; r++) {
        bool written = clears || tensor_i32(c->row_choice)[r] >= 0;
        expect(memcmp(row_of(c, c->dy, r), row_of(c, written ? apart : y, r), row_bytes(c)) == 0,
               "row %lld of dy differs in place", (long long)r);
    }
    expect_same_bytes("dweights in place", c->dweights, dweights_apart.data);
    c->y = y;
}

// The last token's row and gate gradients have the same bits when it is the only token.
static void check_alone(const Case *c, Device *dev) {
    if (c->N == 0) return;
    Case one = *c;
    one.N = 1;
    one.slot_row = copy_of(tensor_rows(c->slot_row, c->N - 1, 1));
    one.weights = copy_of(tensor_rows(c->weights, c->N - 1, 1));
    one.out = new_rows(&one, 1);
    one.dout = new_rows(&one, 1);
    memcpy(row_of(&one, one.dout, 0), row_of(c, c->dout, c->N - 1), row_bytes(c));
    one.dy = new_rows(&one, c->rows);
    one.dweights = new_2d(F32, 1, c->K);
    run_on_rows(dev, run_combine, &one);
    run_on_rows(dev, run_combine_backward, &one);
    expect(memcmp(row_of(&one, one.out, 0), row_of(c, c->out, c->N - 1), row_bytes(c)) == 0,
           "a token alone has another row");
    expect_same_bytes("dweights of a token alone", one.dweights,
                      tensor_rows(c->dweights, c->N - 1, 1).data);
}

static void check_rows(Case c, DType T, int64_t D, int64_t shift, int64_t padded_rows) {
    c.T = T;
    c.D = D;
    c.shift = shift;
    make_reference_plan(&c, padded_rows);
    c.x = random_rows(&c, c.N);
    c.dout = random_rows(&c, c.N);
    c.out = new_rows(&c, c.N);
    c.dy = new_rows(&c, c.rows);
    c.dweights = new_2d(F32, c.N, c.K);
    for (int i = 0; i < device_count(); i++) {
        Device *dev = device_at(i);
        name_case(&c, "rows", dev);
        check_gathered(&c, dev);
        check_combined(&c, dev);
        check_combine_backward(&c, false, dev);
        check_combine_backward(&c, true, dev);
        check_alone(&c, dev);
        Tensor outputs[] = {c.y, c.out, c.dweights};
        Tensor before[] = {copy_of(c.y), copy_of(c.out), copy_of(c.dweights)};
        c.dy = new_rows(&c, c.rows);
        begin_other_schedule();
        run_on_rows(dev, run_rows, &c);
        end_other_schedule();
        for (int j = 0; j < 3; j++)
            expect(memcmp(outputs[j].data, before[j].data, tensor_bytes(before[j])) == 0,
                   "output %d differs in another order", j);
        if (i == 0)
            expect_same_for_any_threads(run_rows, &c, (Tensor[]){c.y, c.out, c.dy, c.dweights}, 4);
    }
    release_all();
}

static void check_all_rows(int64_t N, int64_t K, int64_t E, int64_t parts, int64_t D) {
    static const DType storage[] = {F32, BF16};
    for (int t = 0; t < 2; t++) {
        check_rows(new_case(N, K, E, E, parts, -1), storage[t], D, 0, -1);
        check_rows(new_case(N, K, E, E, parts, 1), storage[t], D, 0, -1);
        check_rows(new_case(N, K, E, E, parts, 2), storage[t], D, 0, 3);
        // Rows that start at an odd address: the scalar path at a width that would have allowed the
        // other.
        check_rows(new_case(N, K, E, E, parts, -1), storage[t], D, 1, -1);
    }
}

// Without a divisor: any rows in any order, again and again, and zeros.
static void check_gather_any(DType T, int64_t D) {
    Case c = {.T = T, .N = 7, .K = 1, .D = D, .rows = 41, .padded_rows = 0};
    c.x = random_rows(&c, c.N);
    c.row_choice = new_1d(I32, c.rows);
    for (int64_t r = 0; r < c.rows; r++)
        tensor_i32(c.row_choice)[r] = (int32_t)random_below(c.N + 1) - 1;
    for (int i = 0; i < device_count(); i++) {
        name_case(&c, "gather", device_at(i));
        check_gathered(&c, device_at(i));
    }
    release_all();
}

// Identity experts, nothing dropped, weights that sum to 1: the layer returns its input.
static void check_identity(void) {
    Case c = new_case(50, 2, 8, 8, 2, -1);
    c.D = 24;
    for (int64_t n = 0; n < c.N; n++) // halves and quarters: exact in f32
        tensor_f32(c.weights)[2 * n] = 0.75f, tensor_f32(c.weights)[2 * n + 1] = 0.25f;
    make_reference_plan(&c, -1);
    c.x = random_rows(&c, c.N);
    double *want = new_doubles(c.N * c.D);
    for (int64_t i = 0; i < c.N * c.D; i++) want[i] = (double)tensor_f32(c.x)[i];
    for (int i = 0; i < device_count(); i++) {
        name_case(&c, "combine after dispatch is the identity", device_at(i));
        c.y = new_rows(&c, c.rows);
        c.out = new_rows(&c, c.N);
        run_on_rows(device_at(i), run_gather, &c);
        run_on_rows(device_at(i), run_combine, &c);
        expect_near("out", c.out, want, F32_EPS, NULL, 0);
    }
    release_all();
}

// ---- weights after drops ------------------------------------------------------------------------

static void run_renormalize(Device *dev, void *context) {
    Case *c = context;
    renormalize_forward(dev, c->scaled, c->weights, c->kept);
    renormalize_backward(dev, c->dscaled, c->scaled, c->weights, c->kept);
}

static void check_renormalize(int64_t N, int64_t K, int64_t E, int64_t capacity) {
    Case c = new_case(N, K, E, E, 1, capacity);
    Tensor dscaled = random_2d(N, K);
    double *scaled = new_doubles(N * K), *dweights = new_doubles(N * K);
    reference_renormalize_forward(scaled, tensor_f32(c.weights), tensor_u8(c.kept), N, K);
    reference_renormalize_backward(dweights, tensor_f32(dscaled), tensor_f32(c.weights),
                                   tensor_u8(c.kept), N, K);
    for (int i = 0; i < device_count(); i++) {
        name_case(&c, "renormalize", device_at(i));
        c.scaled = new_2d(F32, N, K);
        c.dscaled = copy_of(dscaled);
        run_on(device_at(i), run_renormalize, &c,
               TENSORS(&c.scaled, &c.dscaled, &c.weights, &c.kept));
        expect_near("scaled", c.scaled, scaled, F32_EPS * (double)(K + 2), NULL, 0);
        // Divides by a sum of weights that is at least 1/16.
        expect_near("dweights", c.dscaled, dweights, 0, NULL, 16 * F32_EPS * 4 * (double)(K + 1));
    }
    release_all();
}

// ---- exchange plan ------------------------------------------------------------------------------

typedef struct Exchange {
    ExchangePlan plan;
    Tensor counts, all_counts, experts, numbers;
    ExchangeCut cut;
    int64_t parts;
    RowNumbering numbering;
} Exchange;

static void run_exchange_plan(Device *dev, void *context) {
    Exchange *x = context;
    exchange_plan(dev, x->plan, x->counts, x->all_counts, x->cut, x->parts);
    expert_row_numbers(dev, x->numbers, x->plan.offsets, x->all_counts, x->experts, x->cut,
                       x->numbering);
}

static ExchangePlan new_exchange(int64_t ep, int64_t local, int64_t chunks, int64_t parts,
                                 int64_t max_rows) {
    return (ExchangePlan){.offsets = new_1d(I64, local * parts + 1),
                          .send_rows = new_2d(I64, chunks, ep),
                          .receive_rows = new_2d(I64, chunks, ep),
                          .to_expert = new_1d(I32, max_rows),
                          .to_received = new_1d(I32, max_rows)};
}

// (rows, columns) i32 of experts and shards, which begin there in the counts of all; returns what
// they add up to.
static int64_t take_counts(int32_t *to, const int32_t *counts, int64_t G, int64_t first_expert,
                           int64_t experts, int64_t first_shard, int64_t shards) {
    int64_t sum = 0;
    for (int64_t e = 0; e < experts; e++)
        for (int64_t s = 0; s < shards; s++)
            sum += *to++ = counts[(first_expert + e) * G + first_shard + s];
    return sum;
}

// Every rank's plan from the counts of all; `spare` more or fewer rows than the rank receives.
static void check_exchange(int64_t ep, int64_t E, Deal shards, int64_t chunks, int64_t parts,
                           int64_t most, int64_t spare) {
    enum { RANKS = 8 };
    int64_t first_expert[RANKS + 1], first_shard[RANKS + 1], G = deal_first(shards, ep);
    ExchangeCut cut = {ep, 0, deal_evenly(E, ep), shards};
    for (int64_t rank = 0; rank <= ep; rank++) {
        first_expert[rank] = deal_first(cut.experts, rank);
        first_shard[rank] = deal_first(shards, rank);
    }
    ReferenceCut reference = {ep, first_expert, first_shard};
    Tensor counts = new_2d(I32, E, G), experts = random_order(E);
    for (int64_t i = 0; i < E * G; i++) // half of them 0: experts that get nothing
        tensor_i32(counts)[i] = random_below(2) ? (int32_t)random_below(most + 1) : 0;
    for (int64_t rank = 0; rank < ep; rank++) {
        int64_t local = first_expert[rank + 1] - first_expert[rank], received = 0;
        int64_t S = first_shard[rank + 1] - first_shard[rank];
        Exchange x = {.cut = cut, .parts = parts, .experts = experts};
        x.cut.rank = rank;
        x.counts = new_2d(I32, E, S);
        x.all_counts = new_1d(I32, local * G);
        take_counts(tensor_i32(x.counts), tensor_i32(counts), G, 0, E, first_shard[rank], S);
        for (int64_t source = 0; source < ep; source++)
            received +=
                take_counts(tensor_i32(x.all_counts) + local * first_shard[source],
                            tensor_i32(counts), G, first_expert[rank], local, first_shard[source],
                            first_shard[source + 1] - first_shard[source]);
        int64_t max_rows = received + spare < 0 ? 0 : received + spare;
        ExchangePlan want = new_exchange(ep, local, chunks, parts, max_rows);
        reference_exchange_plan((ReferenceExchange){want.offsets.data, want.send_rows.data,
                                                    want.receive_rows.data, want.to_expert.data,
                                                    want.to_received.data},
                                tensor_i32(counts), reference, rank, chunks, parts, max_rows);
        x.numbering = (RowNumbering){3, G + 4, most + 1};
        Tensor numbers = new_1d(I64, received);
        reference_expert_row_numbers(numbers.data, tensor_i32(counts), tensor_i32(experts),
                                     reference, rank, x.numbering);
        for (int i = 0; i < device_count(); i++) {
            begin_case("exchange plan on %s: rank %lld of %lld, %lld experts, %lld shards, %lld "
                       "chunks, %lld parts, max_rows %lld of %lld",
                       device_at(i)->name, (long long)rank, (long long)ep, (long long)local,
                       (long long)S, (long long)chunks, (long long)parts, (long long)max_rows,
                       (long long)received);
            x.plan = new_exchange(ep, local, chunks, parts, max_rows);
            x.numbers = new_1d(I64, max_rows);
            run_on(device_at(i), run_exchange_plan, &x,
                   TENSORS(&x.plan.offsets, &x.plan.send_rows, &x.plan.receive_rows,
                           &x.plan.to_expert, &x.plan.to_received, &x.counts, &x.all_counts,
                           &x.experts, &x.numbers));
            expect_same_bytes("offsets", x.plan.offsets, want.offsets.data);
            expect_same_bytes("send_rows", x.plan.send_rows, want.send_rows.data);
            expect_same_bytes("receive_rows", x.plan.receive_rows, want.receive_rows.data);
            expect_same_bytes("to_expert", x.plan.to_expert, want.to_expert.data);
            expect_same_bytes("to_received", x.plan.to_received, want.to_received.data);
            expect_same_bytes("numbers",
                              tensor_rows(x.numbers, 0, max_rows < received ? max_rows : received),
                              numbers.data);
        }
    }
    release_all();
}

static void check_exchanges(void) {
    check_exchange(1, 1, deal_evenly(1, 1), 1, 1, 0, 0); // nothing at all
    check_exchange(1, 4, deal_evenly(2, 1), 1, 2, 5, 0);
    check_exchange(1, 6, deal_evenly(4, 1), 3, 1, 3, 7);
    check_exchange(2, 8, deal_evenly(2, 2), 2, 1, 9, 0);
    check_exchange(2, 8, deal_evenly(6, 2), 1, 3, 4,
                   3); // a part that crosses from one rank's shards to the next's
    check_exchange(2, 12, deal_evenly(8, 2), 6, 8, 2, 1);
    check_exchange(4, 8, deal_evenly(8, 4), 2, 4, 6, 0);
    check_exchange(4, 16, deal_evenly(4, 4), 4, 2, 40, 5);
    check_exchange(4, 12, deal_evenly(8, 4), 3, 8, 7, -1); // not every row fits
    check_exchange(2, 8, deal_evenly(4, 2), 2, 2, 6, -11);
    check_exchange(4, 16, deal_evenly(8, 4), 1, 1, 6, -1000);
    check_exchange(2, 1400, deal_evenly(2, 2), 7, 2, 1,
                   4);                                 // more segments than a block has threads
    check_exchange(3, 8, (Deal){1, 4, 2}, 1, 8, 5, 0); // uneven shares of both
    check_exchange(5, 8, (Deal){3, 2, 1}, 1, 4, 5, 2);
    check_exchange(7, 8, (Deal){1, 2, 1}, 1, 8, 9, -3);
    check_exchange(3, 10, deal_evenly(6, 3), 1, 2, 4, 0);
    check_exchange(4, 8, (Deal){1, 4, 2}, 2, 1, 4, 0);
}

// ---- measuring ----------------------------------------------------------------------------------

static void bench(int64_t N, int64_t K, int64_t E, int64_t D, int64_t capacity) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        Case c = new_case(N, K, E, E, 1, capacity);
        c.D = D;
        new_plan(&c, -1);
        double plan = time_call(run_plan, &dev, &c);
        for (int64_t i = 0; i < E; i++) c.used += tensor_i32(c.counts)[i];
        c.x = random_rows(&c, N);
        c.dout = random_rows(&c, N);
        c.y = new_rows(&c, c.rows);
        c.out = new_rows(&c, N);
        c.dy = new_rows(&c, c.rows);
        c.dweights = new_2d(F32, N, K);
        double rows = time_call(run_rows, &dev, &c);
        printf("%lld tokens, top-%lld of %lld, D %lld, capacity %lld, %d threads: plan %.1f us, "
               "rows %.1f us, %.1f GB/s\n",
               (long long)N, (long long)K, (long long)E, (long long)D, (long long)capacity, threads,
               1e6 * plan, 1e6 * rows, 4e-9 * (double)(c.used * D * 7) / rows);
        release_all();
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 2, 8, 128, -1);
        bench(4096, 2, 8, 256, -1);
        bench(4096, 2, 512, 256, -1);
        bench(4096, 8, 512, 256, 64);
        bench(4096, 8, 64, 256, 512);
        return 0;
    }
    check_plans(0, 2, 4, 4, 1);
    check_plans(1, 1, 1, 1, 1);
    check_plans(13, 3, 5, 4, 1);
    check_plans(64, 2, 8, 8, 4);
    check_plans(40, 8, 512, 300, 2);
    check_plans(1100, 4, 9, 9, 2);      // two chunks a part
    check_plans(130, 2, 1500, 1500, 2); // two tiles of experts
    check_plans(66, 1, 3, 2, 33);
    check_long_plan(67600, 1, 2, 1); // more chunks of a part than a warp has lanes
    check_long_plan(33, 1, 300, 33); // more runs than a block adds up at once
    check_all_rows(0, 2, 4, 1, 8);
    check_all_rows(1, 1, 1, 1, 1);
    check_all_rows(13, 3, 5, 1, 17);
    check_all_rows(33, 2, 8, 3, 64);
    check_all_rows(24, 9, 16, 2, 40);
    check_all_rows(5, 3, 4, 1, 1040); // a block a row
    check_all_rows(3, 5, 6, 1, 333);
    static const DType storage[] = {F32, BF16};
    for (int t = 0; t < 2; t++)
        for (int64_t D = 1; D < 2000; D = D * 3 + 5) check_gather_any(storage[t], D);
    check_identity();
    check_renormalize(0, 2, 4, -1);
    check_renormalize(13, 3, 5, 1);
    check_renormalize(333, 2, 8, 20);
    check_renormalize(70, 8, 16, -1);
    check_exchanges();
    return failures();
}
