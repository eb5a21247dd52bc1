// Router against the reference on every device: choices exactly, also with ties; weights,
// statistics and gradients in f32; the sums that a training step takes from it.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    Tensor logits, ids, weights, lse, prob_sum, entropy_sum, lse2_sum, dweights, dlogits, balance;
    Tensor squares;
    Tensor bias, given; // data NULL: none
    RouterRule rule;
    int64_t parts;
} Case;

static const float z_scale = 0.01f;

static void new_outputs(Case *c) {
    int64_t N = c->logits.shape[0], E = c->logits.shape[1], K = c->dweights.shape[1];
    c->ids = c->given.data ? copy_of(c->given) : new_2d(I32, N, K);
    c->weights = new_2d(F32, N, K);
    c->lse = new_1d(F32, N);
    c->squares = new_1d(F32, N);
    c->prob_sum = new_2d(F64, c->parts, E);
    c->entropy_sum = new_1d(F64, c->parts);
    c->lse2_sum = new_1d(F64, c->parts);
    c->dlogits = new_2d(F32, N, E);
}

static Case new_case(int64_t N, int64_t E, int64_t K, int64_t parts, RouterRule rule) {
    Case c = {
        .logits = random_2d(N, E), .dweights = random_2d(N, K), .balance = random_2d(parts, E)};
    c.rule = rule;
    c.parts = parts;
    new_outputs(&c);
    return c;
}

static Routing routing_of(const Case *c) {
    return (Routing){c->ids, c->weights, c->lse, c->squares};
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    RouterSums sums = {
        .prob_sum = c->prob_sum, .entropy_sum = c->entropy_sum, .lse2_sum = c->lse2_sum};
    router_forward(dev, routing_of(c), sums, c->logits, c->bias, c->rule);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    router_backward(dev, c->dlogits, c->dweights, routing_of(c), c->logits, c->rule, c->balance,
                    z_scale);
}
static void run_both(Device *dev, void *context) {
    run_forward(dev, context);
    run_backward(dev, context);
}
static void run_on_device(Device *dev, Case *c) {
    run_on(dev, run_both, c,
           TENSORS(&c->logits, &c->ids, &c->weights, &c->lse, &c->squares, &c->prob_sum,
                   &c->entropy_sum, &c->lse2_sum, &c->dweights, &c->dlogits, &c->balance,
                   &c->bias));
}

// Rows [first, first + count) and parts [first_part, …) of `whole` have the bits of `part`, which
// computed them alone.
static void expect_same_results(const char *what, const Case *part, const Case *whole,
                                int64_t first, int64_t first_part) {
    int64_t rows = part->logits.shape[0], parts = part->parts;
    const struct {
        const char *name;
        Tensor part, whole;
        bool of_parts;
    } outputs[] = {
        {"ids", part->ids, whole->ids, false},
        {"weights", part->weights, whole->weights, false},
        {"lse", part->lse, whole->lse, false},
        {"squares", part->squares, whole->squares, false},
        {"dlogits", part->dlogits, whole->dlogits, false},
        {"prob_sum", part->prob_sum, whole->prob_sum, true},
        {"entropy_sum", part->entropy_sum, whole->entropy_sum, true},
        {"lse2_sum", part->lse2_sum, whole->lse2_sum, true},
    };
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        bool of_parts = outputs[i].of_parts;
        Tensor same =
            tensor_rows(outputs[i].whole, of_parts ? first_part : first, of_parts ? parts : rows);
        expect(memcmp(outputs[i].part.data, same.data, tensor_bytes(same)) == 0, "%s differs %s",
               outputs[i].name, what);
    }
}

// A part computed alone gives the bits it has among others: ranks may hold any number of parts.
static void expect_parts_alone(Device *dev, const Case *c) {
    int64_t rows = c->logits.shape[0] / c->parts;
    for (int64_t p = 0; p < c->parts; p++) {
        Case one = *c;
        one.parts = 1;
        one.logits = tensor_rows(c->logits, p * rows, rows);
        one.dweights = tensor_rows(c->dweights, p * rows, rows);
        if (c->bias.rank == 2) one.bias = tensor_rows(c->bias, p, 1);
        if (c->given.data) one.given = tensor_rows(c->given, p * rows, rows);
        one.balance = tensor_rows(c->balance, p, 1);
        new_outputs(&one);
        run_on_device(dev, &one);
        expect_same_results("in a part alone", &one, c, p * rows, p);
    }
}

// Another order of blocks and threads changes no bit.
static void expect_same_on_other_schedule(Device *dev, const Case *c) {
    if (dev->place == ON_HOST) return;
    Case again = *c;
    new_outputs(&again);
    begin_other_schedule();
    run_on_device(dev, &again);
    end_other_schedule();
    expect_same_results("when run again", &again, c, 0, 0);
}

// Whether numbers lie farther apart than rounding in f32 can tell, with numbers of size 1: each of
// the largest `count` from the next.
static bool are_apart(const double *keys, int64_t E, int64_t count) {
    double last = INFINITY;
    for (int64_t k = 0; k <= count && k < E; k++) {
        double next = -INFINITY;
        for (int64_t e = 0; e < E; e++)
            if (keys[e] < last && keys[e] > next) next = keys[e];
        if (last - next < 64 * F32_EPS) return false;
        last = next;
    }
    return true;
}

// Whether a token's choices, and those of its groups, are decided.
static bool is_decided(const float *z, const float *bias, RouterRule rule, int64_t E, int64_t K) {
    double lse = 0, keys[1024], group[ROUTER_GROUPS_MAX];
    CHECK(E <= 1024, "%lld experts", (long long)E);
    for (int64_t e = 0; e < E; e++) lse += exp((double)z[e]);
    for (int64_t e = 0; e < E; e++) keys[e] = reference_key(z, bias, rule, log(lse), e, K);
    if (rule.groups <= 1) return are_apart(keys, E, K);
    int64_t size = E / rule.groups;
    for (int64_t g = 0; g < rule.groups; g++)
        group[g] = reference_group_score(keys + g * size, rule, size, K);
    return are_apart(keys, E, E) && are_apart(group, rule.groups, rule.groups);
}

static float tied_logit(void) { // the two zeros tie
    return random_below(2) ? -0.0f : (float)random_below(3) - 1.0f;
}

// Moves the logits until the choices by score are decided.
static void decide(Case *c) {
    int64_t N = c->logits.shape[0], E = c->logits.shape[1], K = c->dweights.shape[1];
    for (int64_t n = 0; n < N; n++) {
        float *z = tensor_f32(c->logits) + n * E;
        const float *bias = c->bias.data ? tensor_f32(c->bias) : NULL;
        if (c->bias.rank == 2) bias += n / (N / c->parts) * E;
        for (int64_t e = 0; e < E; e++) z[e] *= 0.25f;
        while (!is_decided(z, bias, c->rule, E, K))
            for (int64_t e = 0; e < E; e++) z[e] += (float)random_below(1000) / 1000.0f;
    }
}

// With ties the biases are 0 or 1, so that keys are equal or far from each other.
static void give_bias(Case *c, bool ties) {
    int64_t E = c->logits.shape[1], rows = c->rule.kind == SINKHORN ? c->parts : 1;
    c->bias = rows == 1 && c->rule.kind != SINKHORN ? new_1d(F32, E) : new_2d(F32, rows, E);
    for (int64_t e = 0; e < rows * E; e++)
        tensor_f32(c->bias)[e] =
            (float)(ties ? random_below(2) : random_below(1000)) / (ties ? 1.0f : 3000.0f);
}

// Distinct ids in any order, of which some are no expert.
static void give_ids(Case *c) {
    int64_t N = c->logits.shape[0], E = c->logits.shape[1], K = c->dweights.shape[1];
    c->given = new_2d(I32, N, K);
    for (int64_t n = 0; n < N; n++) {
        int64_t first = random_below(E), step = random_below(2) ? 1 : E - 1;
        for (int64_t k = 0; k < K; k++) {
            bool none = k >= E || random_below(4) == 0;
            tensor_i32(c->given)[n * K + k] =
                (int32_t)(none ? (random_below(2) ? E + random_below(5) : -1 - random_below(5))
                               : (first + k * step) % E);
        }
    }
}

static void check(int64_t N, int64_t E, int64_t K, int64_t parts, RouterRule rule, bool ties,
                  bool biased) {
    Case c = new_case(N, E, K, parts, rule);
    if (rule.given) give_ids(&c);
    float *z = tensor_f32(c.logits);
    for (int64_t i = 0; i < N * E; i++) z[i] = ties ? tied_logit() : 8.0f * z[i];
    if (biased) give_bias(&c, ties);
    if ((biased || rule.groups > 1) && !ties) decide(&c);
    const float *bias = biased ? tensor_f32(c.bias) : NULL;
    int32_t *ids = (rule.given ? copy_of(c.given) : new_2d(I32, N, K)).data;
    double *weights = new_doubles(N * K), *lse = new_doubles(N), *prob = new_doubles(parts * E);
    double *entropy = new_doubles(parts), *lse2 = new_doubles(parts), *dz = new_doubles(N * E);
    double *squares = new_doubles(N);
    for (int64_t i = 0; i < N * E; i++)
        squares[i / E] = (i % E == 0 ? 0 : squares[i / E]) + (double)z[i] * (double)z[i];
    for (int64_t p = 0, rows = N / parts; p < parts; p++) {
        int64_t n = p * rows;
        reference_router_forward(ids + n * K, weights + n * K, lse + n, prob + p * E, entropy + p,
                                 lse2 + p, z + n * E,
                                 bias && c.bias.rank == 2 ? bias + p * E : bias, rule, rows, E, K);
        reference_router_backward(dz + n * E, tensor_f32(c.dweights) + n * K, ids + n * K,
                                  z + n * E, rule, tensor_f32(c.balance) + p * E, (double)z_scale,
                                  rows, E, K);
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("router on %s N=%lld E=%lld K=%lld parts=%lld rule %d%s%s%s%s groups %lld",
                   dev->name, (long long)N, (long long)E, (long long)K, (long long)parts, rule.kind,
                   rule.normalize_top_k ? " normalised" : "", ties ? " ties" : "",
                   biased ? " bias" : "", rule.given ? " given" : "", (long long)rule.groups);
        new_outputs(&c);
        run_on_device(dev, &c);
        expect_same_bytes("ids", c.ids, ids);
        // Logits up to 8: z - lse is rounded to 2^-21, and so are weights and probabilities,
        // relatively. Against that the order of the f64 sums is nothing.
        double relative = 32 * F32_EPS;
        expect_near("weights", c.weights, weights, relative, NULL, 0);
        expect_near("lse", c.lse, lse, 4 * F32_EPS, NULL, 4 * F32_EPS);
        // A lane adds every 16th at most, and what is left over one by one.
        expect_near("squares", c.squares, squares, (double)(16 + E / 16) * F32_EPS, NULL, 0);
        expect_near("prob_sum", c.prob_sum, prob, relative, NULL, 0);
        expect_near("entropy_sum", c.entropy_sum, entropy, relative, NULL,
                    (double)N * log((double)E + 1) * 32 * F32_EPS);
        expect_near("lse2_sum", c.lse2_sum, lse2, 16 * F32_EPS, NULL, 0);
        // Gradients are products of numbers of size 1 (weights, dweights, balance) and 0.02 · lse.
        expect_near("dlogits", c.dlogits, dz, relative, NULL, 32 * F32_EPS);
        expect_same_on_other_schedule(dev, &c);
        if (parts > 1) expect_parts_alone(dev, &c);
    }
    expect_same_for_any_threads(run_both, &c,
                                (Tensor[]){c.ids, c.weights, c.lse, c.squares, c.prob_sum,
                                           c.entropy_sum, c.lse2_sum, c.dlogits},
                                8);
    release_all();
}

// Logits that are not numbers must not produce ids outside of the experts, nor one twice: memory
// safety depends on them.
static void check_nan(int64_t E, int64_t K, RouterRule rule) {
    for (int d = 0; d < device_count(); d++) {
        begin_case("NaN logits on %s E=%lld", device_at(d)->name, (long long)E);
        Case c = new_case(4, E, K, 1, rule);
        memset(c.logits.data, 0xFF, (size_t)E * sizeof(float)); // token 0: NaN of all ones
        for (int64_t e = 0; e < 2; e++) tensor_f32(c.logits)[E + e] = -NAN; // token 1: some
        tensor_f32(c.logits)[2 * E] = INFINITY;
        run_on_device(device_at(d), &c);
        for (int64_t i = 0; i < 4 * K; i++) {
            const int32_t *of_token = tensor_i32(c.ids) + i / K * K;
            expect(of_token[i % K] >= 0 && of_token[i % K] < E, "id %d", of_token[i % K]);
            for (int64_t k = 0; k < i % K; k++)
                expect(of_token[k] != of_token[i % K], "id %d twice", of_token[k]);
        }
        for (int n = 0; n < 3; n++) expect(isnan(tensor_f32(c.lse)[n]), "the NaN is hidden");
        expect(isfinite(tensor_f32(c.lse)[3]), "the NaN spreads to another token");
        release_all();
    }
}

// Logits of token n that a router may learn: very small ones together, where sums of sigmoids are
// next to nothing, very large ones, and both.
static float extreme_logit(int64_t n, int64_t E, int64_t e) {
    static const float levels[] = {0, -20, -60, -86, -104, -1e4f, -1e30f, 20, 90, 1e4f};
    enum { LEVELS = sizeof levels / sizeof *levels };
    if (n < LEVELS) return levels[n]; // all the same
    if (n < 2 * LEVELS)               // one, a hair better
        return levels[n - LEVELS] * (e == E - 1 ? 0.999f : 1);
    if (n < 3 * LEVELS) return e == 0 ? 0 : levels[n - 2 * LEVELS]; // one of another size
    return levels[random_below(LEVELS)];
}

// A router cannot make the balance loss small by making its scores small: the probabilities of a
// token sum to 1, and its chosen experts have at least their share of them, so that E·Σ f·P of a
// token is at least 1. The gradients and weights stay finite.
static void check_probabilities_cannot_vanish(int64_t E, int64_t K, RouterRule rule) {
    const int64_t N = 64;
    for (int d = 0; d < device_count(); d++) {
        begin_case("probabilities of extreme logits on %s E=%lld K=%lld rule %d",
                   device_at(d)->name, (long long)E, (long long)K, rule.kind);
        Case c = new_case(N, E, K, N, rule); // each token is a part
        for (int64_t i = 0; i < N * E; i++)
            tensor_f32(c.logits)[i] = extreme_logit(i / E, E, i % E);
        run_on_device(device_at(d), &c);
        for (int64_t n = 0; n < N; n++) {
            // Probabilities in f32 within 2^-21 (see check); a softmax by way of lse is as exact as
            // that is, whose size is the logits'.
            double delta = 32 * F32_EPS;
            if (router_score(rule, K) == SCORE_EXP)
                delta += fabs((double)tensor_f32(c.lse)[n]) * F32_EPS;
            const double *P = tensor_f64(c.prob_sum) + n * E;
            double sum = 0, balance = 0;
            for (int64_t e = 0; e < E; e++) sum += P[e];
            for (int64_t k = 0; k < K; k++)
                balance += (double)E / (double)K * P[tensor_i32(c.ids)[n * K + k]];
            double weight = 0, whole = router_scales(rule.kind) ? rule.scaling_factor : 1;
            for (int64_t k = 0; k < K; k++) weight += (double)tensor_f32(c.weights)[n * K + k];
            if (router_weighing(rule, K) == WEIGH_OVER_CHOSEN)
                expect(fabs(weight - whole) <= 8 * F32_EPS * whole,
                       "token %lld: weights sum to %.9g", (long long)n, weight);
            expect(fabs(sum - 1) <= delta, "token %lld: probabilities sum to %.9g", (long long)n,
                   sum);
            expect(balance >= 1 - delta, "token %lld: balance %.9g", (long long)n, balance);
            double entropy = tensor_f64(c.entropy_sum)[n], most = log((double)E);
            expect(entropy >= -delta && entropy <= most + delta * (1 + most),
                   "token %lld: entropy %.9g", (long long)n, entropy);
        }
        for (int64_t i = 0; i < N * K; i++)
            expect(isfinite(tensor_f32(c.weights)[i]), "weight %lld", (long long)i);
        for (int64_t i = 0; i < N * E; i++)
            expect(isfinite(tensor_f32(c.dlogits)[i]), "gradient %lld", (long long)i);
        release_all();
    }
}

// ---- totals -------------------------------------------------------------------------------------

typedef struct TotalsCase {
    RouterTotals to;
    RouterSums sums;
    Tensor balance, counts;
    BalanceRule rule;
} TotalsCase;

static void run_totals(Device *dev, void *context) {
    TotalsCase *c = context;
    router_totals(dev, c->to, c->balance, c->sums, c->counts, c->rule);
}

static Tensor random_f64(Tensor x) {
    for (int64_t i = 0; i < tensor_elements(x); i++)
        tensor_f64(x)[i] = (double)(1 + random_below(1 << 20)) / 1024.0;
    return x;
}
static Tensor random_counts(int64_t parts, int64_t E, int64_t bound) {
    Tensor x = new_2d(I32, parts, E);
    for (int64_t i = 0; i < parts * E; i++) tensor_i32(x)[i] = (int32_t)random_below(bound);
    return x;
}
// The choices that a term counts, from the words of its rule.
static double counted(const TotalsCase *c, LoadTerm term, int64_t p, int64_t e) {
    int64_t E = c->sums.tokens_per_expert.shape[1];
    if (term.counts_row >= 0) return (double)tensor_i64(c->counts)[term.counts_row * E + e];
    double count = 0;
    Tensor load = c->sums.first_choices.data ? c->sums.first_choices : c->sums.tokens_per_expert;
    for (int64_t q = 0; q < c->sums.tokens_per_expert.shape[0]; q++)
        if (q / term.parts == p / term.parts) count += (double)tensor_i32(load)[q * E + e];
    return count;
}
static Tensor random_i64(int64_t E, int64_t bound) {
    Tensor x = new_1d(I64, E);
    for (int64_t e = 0; e < E; e++) tensor_i64(x)[e] = random_below(bound);
    return x;
}

// What the op adds to the totals, element by element from its formula.
static double wanted_addition(const TotalsCase *c, int64_t row, int64_t column) {
    int64_t parts = c->sums.tokens_per_expert.shape[0], E = c->sums.tokens_per_expert.shape[1];
    int64_t of_row = parts / c->to.totals.shape[0];
    double sum = 0;
    for (int64_t p = row * of_row; p < (row + 1) * of_row; p++) {
        if (column >= c->to.weight_mass && column < c->to.weight_mass + E)
            sum += tensor_f64(c->sums.weight_mass)[p * E + column - c->to.weight_mass];
        if (column == c->to.z) sum += c->rule.per_step_token * tensor_f64(c->sums.lse2_sum)[p];
        if (column == c->to.entropy)
            sum += c->rule.per_step_token * tensor_f64(c->sums.entropy_sum)[p];
        for (int i = 0; i < c->rule.count; i++)
            for (int64_t e = 0; e < E && column == c->rule.terms[i].column; e++)
                sum += (double)E * c->rule.per_step_token * counted(c, c->rule.terms[i], p, e) /
                       c->rule.terms[i].choices * tensor_f64(c->sums.prob_sum)[p * E + e];
    }
    return sum;
}

// `terms` of the words below, from a different one on in each case.
static void check_totals(int64_t parts, int64_t rows, int64_t E, int terms, int first_term) {
    int64_t columns = E + 16;
    const LoadTerm words[] = {{0.01, 123, 1, -1, E + 5},
                              {0.3, 7, parts / rows, -1, E + 8},
                              {1, 5000, 1, 0, 0},
                              {0, 9, parts, -1, E + 11},
                              {1e-4, 12345, 1, 1, E + 15}};
    TotalsCase c = {.rule = {.count = terms, .per_step_token = 1.0 / 777}};
    for (int i = 0; i < terms; i++) c.rule.terms[i] = words[(first_term + i) % 5];
    c.sums = (RouterSums){random_f64(new_2d(F64, parts, E)),
                          random_f64(new_1d(F64, parts)),
                          random_f64(new_1d(F64, parts)),
                          random_f64(new_2d(F64, parts, E)),
                          random_counts(parts, E, 1000),
                          random_counts(parts, E, 100),
                          (Tensor){0}};
    if (first_term % 2) c.sums.first_choices = random_counts(parts, E, 500);
    c.counts = tensor_reshape_2d(random_i64(2 * E, 100000), 2, E);
    Tensor before = random_f64(new_2d(F64, rows, columns)), routed = random_i64(E, 1000);
    Tensor dropped = random_i64(E, 1000);
    int64_t may_drop = first_term % 2 ? E - E / 3 : E; // the others drop nothing
    double *totals = new_doubles(rows * columns), *balance = new_doubles(parts * E);
    // Columns that nobody may touch on all sides.
    c.to = (RouterTotals){.z = E + 3, .entropy = E + 7, .weight_mass = 2};
    c.to.totals = before;
    for (int64_t i = 0; i < rows * columns; i++)
        totals[i] = tensor_f64(before)[i] + wanted_addition(&c, i / columns, i % columns);
    memset(balance, 0, (size_t)(parts * E) * sizeof *balance);
    for (int64_t i = 0; i < parts * E; i++)
        for (int t = 0; t < terms; t++)
            balance[i] += c.rule.terms[t].coefficient * (double)E * c.rule.per_step_token /
                          c.rule.terms[t].choices * counted(&c, c.rule.terms[t], i / E, i % E);
    int64_t *routed_want = copy_of(routed).data, *dropped_want = copy_of(dropped).data;
    for (int64_t i = 0; i < parts * E; i++) {
        routed_want[i % E] +=
            tensor_i32(c.sums.tokens_per_expert)[i] - tensor_i32(c.sums.dropped)[i];
        if (i % E < may_drop) dropped_want[i % E] += tensor_i32(c.sums.dropped)[i];
    }
    void *first_balance = NULL;
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("totals on %s parts=%lld rows=%lld E=%lld, %d terms from %d on", dev->name,
                   (long long)parts, (long long)rows, (long long)E, terms, first_term);
        c.to.totals = copy_of(before);
        c.to.routed = copy_of(routed);
        Tensor all_dropped = copy_of(dropped);
        c.to.dropped = tensor_range(all_dropped, 0, may_drop);
        c.balance = new_2d(F32, parts, E);
        run_on(dev, run_totals, &c,
               TENSORS(&c.to.totals, &c.to.routed, &c.to.dropped, &c.balance, &c.sums.prob_sum,
                       &c.sums.entropy_sum, &c.sums.lse2_sum, &c.sums.weight_mass,
                       &c.sums.tokens_per_expert, &c.sums.dropped, &c.counts,
                       &c.sums.first_choices));
        // Numbers that are not negative: each of the additions rounds by 2^-53 of the sum, each
        // product by as much.
        expect_near("totals", c.to.totals, totals, (double)(parts * E + 8) * 0x1p-53, NULL, 0);
        expect_near("balance", c.balance, balance, 2 * F32_EPS, NULL, 0);
        if (!first_balance) first_balance = c.balance.data; // no sums: equal on every device
        expect_same_bytes("balance, against the CPU's,", c.balance, first_balance);
        expect_same_bytes("routed", c.to.routed, routed_want);
        expect_same_bytes("dropped", all_dropped, dropped_want);
    }
    release_all();
}

typedef struct ColumnsCase {
    Tensor out, x;
    bool add;
} ColumnsCase;

static void run_columns(Device *dev, void *context) {
    ColumnsCase *c = context;
    sum_columns(dev, c->out, c->x, c->add);
}

static void check_sum_columns(int64_t parts, int64_t E, DType dtype, bool add) {
    ColumnsCase c = {.x = new_2d(dtype, parts, E), .add = add};
    Tensor before = random_i64(E, INT64_C(1) << 40);
    int64_t *want = copy_of(before).data;
    if (!add) memset(want, 0, (size_t)E * sizeof *want);
    for (int64_t i = 0; i < parts * E; i++) { // sums beyond 32 bits
        int64_t x = INT32_MAX - random_below(1000);
        if (dtype == I64)
            tensor_i64(c.x)[i] = x *= 1000;
        else
            tensor_i32(c.x)[i] = (int32_t)x;
        want[i % E] += x;
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("sum_columns on %s of %lld x %lld %s%s", device_at(d)->name, (long long)parts,
                   (long long)E, dtype_name(dtype), add ? ", added" : "");
        c.out = copy_of(before);
        run_on(device_at(d), run_columns, &c, TENSORS(&c.out, &c.x));
        expect_same_bytes("out", c.out, want);
    }
    release_all();
}

static void bench(int64_t N, int64_t E, int64_t K) {
    static const struct {
        const char *name;
        RouterRule rule;
    } rows[] = {
        {"softmax_topk", {.kind = SOFTMAX_TOPK}},
        {"topk_softmax", {.kind = TOPK_SOFTMAX}},
        {"sigmoid", {.kind = SIGMOID, .scaling_factor = 1}},
        {"sqrtsoftplus", {.kind = SQRT_SOFTPLUS, .scaling_factor = 1}},
        {"sigmoid, 2 of 4 groups", {SIGMOID, .scaling_factor = 1, .groups = 4, .top_groups = 2}},
        {"softmax_topk, given", {.kind = SOFTMAX_TOPK, .given = true}},
    };
    for (int threads = 1; threads <= 2; threads++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            Device dev = open_cpu(threads);
            Case c = new_case(N, E, K, 1, rows[i].rule);
            if (c.rule.given) {
                give_ids(&c);
                memcpy(c.ids.data, c.given.data, tensor_bytes(c.ids));
            }
            double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
            printf("%-28s %lld tokens, %lld experts, top-%lld, %d threads: forward %.1f us, "
                   "backward %.1f us\n",
                   rows[i].name, (long long)N, (long long)E, (long long)K, threads, 1e6 * f,
                   1e6 * b);
            release_all();
        }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench(512, 8, 2);
        bench(4096, 64, 2);
        bench(4096, 512, 8);
        return 0;
    }
    static const RouterRule rules[] = {{.kind = SOFTMAX_TOPK},
                                       {.kind = TOPK_SOFTMAX},
                                       {.kind = TOPK_SOFTMAX, .normalize_top_k = true},
                                       {.kind = SIGMOID, .scaling_factor = 2.5},
                                       {.kind = SQRT_SOFTPLUS, .scaling_factor = 1.5},
                                       {.kind = SIGMOID, .scaling_factor = 0.5, .alone = true}};
    enum { RULES = sizeof rules / sizeof *rules };
    for (int r = 0; r < RULES; r++)
        for (int variant = 0; variant < 4; variant++) {
            bool ties = variant & 1, biased = variant & 2;
            check(0, 4, 2, 1, rules[r], ties, biased);
            check(1, 1, 1, 1, rules[r], ties, biased);
            check(5, 3, 3, 1, rules[r], ties, biased);
            check(32, 8, 2, 4, rules[r], ties, biased);
            check(33, 65, 1, 1, rules[r], ties, biased);
            check(12, 512, 8, 2, rules[r], ties, biased);
        }
    // How many lanes and registers of a GPU hold a token depends on E, how it is read on E % 4; 32
    // to 128 tokens are a block's.
    static const int64_t widths[] = {7, 16, 31, 64, 128, 130, 256, 333, 1000, 1001};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        for (int r = 0; r < RULES; r++)
            if (r == (int)(i % 3) || router_scales(rules[r].kind))
                check(34, widths[i], widths[i] < 6 ? widths[i] : 6, 2, rules[r], i % 2, i % 3 == 1);
    for (int r = 0; r < RULES; r++) { // the best groups' experts alone
        RouterRule grouped = rules[r];
        grouped.groups = 4, grouped.top_groups = 2;
        check(9, 8, 3, 1, grouped, false, r % 2);
        check(20, 64, 6, 2, grouped, false, r % 2);
        check(9, 132, 2, 1, grouped, !router_scales(rules[r].kind), false);
        check_nan(8, 3, grouped);
        grouped.groups = 32, grouped.top_groups = 3;
        check(6, router_scales(rules[r].kind) ? 320 : 64, 5, 1, grouped, false, r % 2 == 0);
        grouped.groups = 16, grouped.top_groups = 8;
        check(6, 16, 8, 1, grouped, false, true);
    }
    for (int64_t K = 1; K <= 3; K += 2) { // a bias of the logits for each part
        RouterRule sinkhorn = {.kind = SINKHORN, .scaling_factor = 1};
        check(32, 8, K, 4, sinkhorn, false, true);
        check(12, 130, K, 2, sinkhorn, true, true);
        check(12, 30, K, 2, sinkhorn, false, false);
    }
    for (int r = 0; r < RULES; r++) { // chosen by something else
        RouterRule given = rules[r];
        given.given = true;
        check(0, 4, 2, 1, given, false, false);
        check(9, 1, 1, 1, given, true, false);
        check(32, 8, 2, 4, given, false, true);
        check(20, 5, 7, 2, given, true, false); // more choices than experts
        check(33, 65, 1, 1, given, false, false);
        check(12, 130, 40, 2, given, false, false);
    }
    // Kinds that share their weights with others: noise is in the logits, the rest is chosen by
    // something else.
    static const RouterRule alike[] = {{.kind = NOISY_TOPK},
                                       {.kind = HASH, .given = true},
                                       {.kind = EXPERT_CHOICE, .given = true}};
    for (int i = 0; i < 3; i++) check(32, 8, 3, 4, alike[i], false, false);
    check(5, 100, 64, 1, rules[0], false, false); // more choices than lanes
    check(5, 100, 64, 1, rules[3], false, true);
    check(5, 13, 13, 1, rules[1], true, false);
    check(2500, 5, 2, 1, rules[1], false, false); // more blocks than a warp sums at once
    for (int r = 0; r < RULES; r++) {
        check_nan(6, 3, rules[r]);
        check_nan(133, 5, rules[r]);
        check_probabilities_cannot_vanish(4, 2, rules[r]);
        check_probabilities_cannot_vanish(70, 1, rules[r]);
        check_probabilities_cannot_vanish(300, 8, rules[r]);
    }
    check_totals(1, 1, 1, 1, 0);
    for (int first = 0; first < 5; first++) check_totals(8, 2, 5, 1, first);
    check_totals(12, 4, 300, 5, 0);
    check_totals(12, 4, 70, 3, 3);
    check_totals(6, 3, 4, 0, 0);
    for (int add = 0; add < 2; add++) {
        check_sum_columns(0, 3, I32, add);
        check_sum_columns(1, 1, I64, add);
        check_sum_columns(40, 70, I32, add);
        check_sum_columns(3, 40, I64, add);
    }
    return failures();
}
