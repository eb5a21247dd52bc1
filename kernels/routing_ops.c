#include "kernels/routing_ops.h"

#include <math.h>
#include <string.h>

#include "kernels/op_checks.h"

// ---- router -------------------------------------------------------------------------------------

static void check_choices(Tensor ids, Tensor weights, int64_t N, int64_t K) {
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(weights, F32, N, K);
}

static void check_routing(Routing routing, Tensor logits, bool given) {
    int64_t N = logits.shape[0], E = logits.shape[1], K = routing.ids.shape[1];
    CHECK_SHAPE_2D(logits, F32, N, E);
    check_choices(routing.ids, routing.weights, N, K);
    CHECK(K >= 1 && (K <= E || given), "%lld experts a token of %lld", (long long)K, (long long)E);
    CHECK_SHAPE_1D(routing.lse, F32, N);
    if (routing.squares.data) CHECK_SHAPE_1D(routing.squares, F32, N);
}

void router_forward(Device *dev, Routing routing, RouterSums sums, Tensor logits, Tensor bias,
                    RouterRule rule) {
    int64_t parts = sums.prob_sum.shape[0];
    check_routing(routing, logits, rule.given);
    CHECK_SHAPE_2D(sums.prob_sum, F64, parts, logits.shape[1]);
    CHECK_SHAPE_1D(sums.entropy_sum, F64, parts);
    CHECK_SHAPE_1D(sums.lse2_sum, F64, parts);
    check_parts(parts, logits.shape[0]);
    if (bias.data && rule.kind == SINKHORN) CHECK_SHAPE_2D(bias, F32, parts, logits.shape[1]);
    if (bias.data && rule.kind != SINKHORN) CHECK_SHAPE_1D(bias, F32, logits.shape[1]);
    int64_t groups = rule.groups, size = groups > 1 ? logits.shape[1] / groups : logits.shape[1];
    CHECK(groups <= 1 || rule.given ||
              (groups <= ROUTER_GROUPS_MAX && size * groups == logits.shape[1] &&
               rule.top_groups >= 1 && rule.top_groups <= groups &&
               rule.top_groups * size >= routing.ids.shape[1]),
          "%lld experts of the best %lld of %lld groups of %lld", (long long)routing.ids.shape[1],
          (long long)rule.top_groups, (long long)groups, (long long)logits.shape[1]);
    RouterSums filled = {
        .prob_sum = sums.prob_sum, .entropy_sum = sums.entropy_sum, .lse2_sum = sums.lse2_sum};
    dev->backend->op.router_forward(dev, routing, filled, logits, bias, rule);
}

void router_backward(Device *dev, Tensor dlogits, Tensor dweights, Routing routing, Tensor logits,
                     RouterRule rule, Tensor balance, float z_scale) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = balance.shape[0];
    check_routing(routing, logits, rule.given);
    CHECK_SHAPE_2D(dlogits, F32, N, E);
    CHECK_SHAPE_2D(dweights, F32, N, routing.ids.shape[1]);
    CHECK_SHAPE_2D(balance, F32, parts, E);
    check_parts(parts, N);
    dev->backend->op.router_backward(dev, dlogits, dweights, routing, logits, rule, balance,
                                     z_scale);
}

void sinkhorn_bias(Device *dev, Tensor bias, Tensor logits, Tensor a, Tensor c,
                   int64_t iterations) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = bias.shape[0];
    CHECK_SHAPE_2D(bias, F32, parts, E);
    CHECK_SHAPE_2D(logits, F32, N, E);
    CHECK_SHAPE_2D(a, F32, N, E);
    CHECK_SHAPE_1D(c, F64, N);
    check_parts(parts, N);
    CHECK(iterations >= 1, "%lld iterations", (long long)iterations);
    dev->backend->op.sinkhorn_bias(dev, bias, logits, a, c, iterations);
}

static void check_noise(Tensor a, Tensor b) {
    CHECK_SHAPE_2D(a, F32, a.shape[0], a.shape[1]);
    CHECK_SHAPE_2D(b, F32, a.shape[0], a.shape[1]);
}

void router_noise_forward(Device *dev, Tensor out, Tensor logits, Tensor scale, RouterNoise noise) {
    check_noise(logits, scale);
    check_noise(logits, out);
    dev->backend->op.router_noise_forward(dev, out, logits, scale, noise);
}

void router_noise_backward(Device *dev, Tensor dscale, Tensor dlogits, Tensor scale,
                           RouterNoise noise) {
    check_noise(dlogits, scale);
    check_noise(dlogits, dscale);
    dev->backend->op.router_noise_backward(dev, dscale, dlogits, scale, noise);
}

void router_jitter(Device *dev, Tensor out, Tensor x, float amount, RouterNoise noise) {
    check_noise(out, x);
    dev->backend->op.router_jitter(dev, out, x, amount, noise);
}

// ---- experts that no score chooses --------------------------------------------------------------

void choose_in_turn(Device *dev, Tensor ids, int64_t E, int64_t first_token) {
    int64_t K = ids.shape[1];
    CHECK_SHAPE_2D(ids, I32, ids.shape[0], K);
    CHECK(K >= 1 && K <= E && E <= INT32_MAX && first_token >= 0, "%lld of %lld experts in turn",
          (long long)K, (long long)E);
    dev->backend->op.choose_in_turn(dev, ids, E, first_token);
}

void choices_of_heads(Device *dev, Tensor out, Tensor ids, int64_t E) {
    int64_t choices = tensor_elements(ids), N = out.shape[0];
    CHECK_SHAPE_2D(ids, I32, ids.shape[0], ids.shape[1]);
    CHECK(N > 0 && ids.shape[0] % N == 0 && choices / N * E <= INT32_MAX,
          "%lld choices of %lld tokens", (long long)choices, (long long)N);
    CHECK_SHAPE_2D(out, I32, N, choices / N);
    dev->backend->op.choices_of_heads(dev, out, ids, E);
}

void choose_by_draw(Device *dev, Tensor ids, Tensor tokens, Tensor ends, ExpertDraw draw) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    CHECK_SHAPE_2D(ids, I32, N, K);
    if (tokens.data) CHECK_SHAPE_1D(tokens, I32, N);
    if (ends.data) CHECK_SHAPE_1D(ends, I32, draw.experts);
    CHECK(K >= 1 && K <= draw.experts && K <= MOST_DRAWN && draw.experts <= INT32_MAX,
          "%lld of %lld experts drawn", (long long)K, (long long)draw.experts);
    dev->backend->op.choose_by_draw(dev, ids, tokens, ends, draw);
}

// ---- capacity -----------------------------------------------------------------------------------

void capacity_assign(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped, Tensor ids,
                     Tensor weights, CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], groups = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1];
    check_choices(ids, weights, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(tokens_per_expert, I32, groups, E);
    CHECK_SHAPE_2D(dropped, I32, groups, E);
    CHECK_SHAPE_1D(order, I32, N * K + E + 1);
    check_parts(groups, N);
    dev->backend->op.capacity_assign(dev, kept, tokens_per_expert, dropped, ids, weights, rule,
                                     order);
}

void capacity_assign_documents(Device *dev, Tensor kept, Tensor tokens_per_expert, Tensor dropped,
                               Tensor ids, Tensor weights, Tensor positions, Tensor capacities,
                               CapacityRule rule, Tensor order) {
    int64_t N = ids.shape[0], K = ids.shape[1], sequences = tokens_per_expert.shape[0],
            E = tokens_per_expert.shape[1];
    check_choices(ids, weights, N, K);
    check_parts(sequences, N);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(tokens_per_expert, I32, sequences, E);
    CHECK_SHAPE_2D(dropped, I32, sequences, E);
    CHECK_SHAPE_1D(positions, I32, N);
    CHECK_SHAPE_1D(capacities, I32, N / sequences + 1);
    CHECK_SHAPE_1D(order, I32, N * K + E + 1);
    dev->backend->op.capacity_assign_documents(dev, kept, tokens_per_expert, dropped, ids, weights,
                                               positions, capacities, rule, order);
}

void keep_zero_choices(Device *dev, Tensor kept, Tensor travels, Tensor ids, int64_t E) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(travels, U8, N, K);
    CHECK(E >= 0 && E <= INT32_MAX, "%lld experts", (long long)E);
    dev->backend->op.keep_zero_choices(dev, kept, travels, ids, E);
}

void expert_load(Device *dev, RouterSums sums, Tensor ids, Tensor weights, Tensor kept,
                 bool kept_alone) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    check_parts(parts, N);
    CHECK_SHAPE_2D(sums.tokens_per_expert, I32, parts, E);
    CHECK_SHAPE_2D(sums.dropped, I32, parts, E);
    CHECK_SHAPE_2D(sums.weight_mass, F64, parts, E);
    check_choices(ids, weights, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    RouterSums filled = {.weight_mass = sums.weight_mass,
                         .tokens_per_expert = sums.tokens_per_expert,
                         .dropped = sums.dropped};
    dev->backend->op.expert_load(dev, filled, ids, weights, kept, kept_alone);
}

void router_totals(Device *dev, RouterTotals to, Tensor balance, RouterSums sums, Tensor counts,
                   BalanceRule rule) {
    int64_t parts = sums.tokens_per_expert.shape[0], E = sums.tokens_per_expert.shape[1];
    int64_t rows = to.totals.shape[0], columns = to.totals.shape[1];
    CHECK_SHAPE_2D(sums.tokens_per_expert, I32, parts, E);
    CHECK_SHAPE_2D(sums.dropped, I32, parts, E);
    CHECK_SHAPE_2D(sums.prob_sum, F64, parts, E);
    CHECK_SHAPE_2D(sums.weight_mass, F64, parts, E);
    CHECK_SHAPE_1D(sums.entropy_sum, F64, parts);
    CHECK_SHAPE_1D(sums.lse2_sum, F64, parts);
    CHECK_SHAPE_2D(balance, F32, parts, E);
    CHECK_SHAPE_2D(to.totals, F64, rows, columns);
    CHECK_SHAPE_1D(to.routed, I64, E);
    CHECK_SHAPE_1D(to.dropped, I64, to.dropped.shape[0] < E ? to.dropped.shape[0] : E);
    if (counts.data) CHECK_SHAPE_2D(counts, I64, counts.shape[0], E);
    if (sums.first_choices.data) CHECK_SHAPE_2D(sums.first_choices, I32, parts, E);
    CHECK(rows > 0 && parts % rows == 0, "%lld parts do not divide into %lld rows of totals",
          (long long)parts, (long long)rows);
    CHECK(to.z >= 0 && to.z < columns && to.entropy >= 0 && to.entropy < columns &&
              to.weight_mass >= 0 && to.weight_mass + E <= columns,
          "columns %lld, %lld, and %lld experts from %lld on, do not lie within %lld",
          (long long)to.z, (long long)to.entropy, (long long)E, (long long)to.weight_mass,
          (long long)columns);
    CHECK(rule.count >= 0 && rule.count <= LOAD_TERMS_MAX, "%d terms", rule.count);
    for (int i = 0; i < rule.count; i++) {
        LoadTerm term = rule.terms[i];
        CHECK(term.column >= 0 && term.column < columns, "term %d has no column", i);
        CHECK(term.counts_row < 0 || (counts.data && term.counts_row < counts.shape[0]),
              "term %d has no counts", i);
        CHECK(term.counts_row >= 0 || (term.parts > 0 && parts % term.parts == 0),
              "term %d: %lld parts do not divide into runs of %lld", i, (long long)parts,
              (long long)term.parts);
    }
    dev->backend->op.router_totals(dev, to, balance, sums, counts, rule);
}

void sum_columns(Device *dev, Tensor out, Tensor x, bool add) {
    CHECK_SHAPE_1D(out, I64, x.shape[1]);
    CHECK_SHAPE_2D(x, x.dtype == I64 ? I64 : I32, x.shape[0], out.shape[0]);
    dev->backend->op.sum_columns(dev, out, x, add);
}

void count_ids(Device *dev, Tensor counts, Tensor ids, Tensor kept) {
    CHECK_SHAPE_1D(counts, I64, counts.shape[0]);
    CHECK_SHAPE_2D(ids, I32, ids.shape[0], ids.shape[1]);
    if (kept.data) CHECK_SHAPE_2D(kept, U8, ids.shape[0], ids.shape[1]);
    dev->backend->op.count_ids(dev, counts, ids, kept);
}

void count_first_choices(Device *dev, Tensor counts, Tensor ids) {
    CHECK_SHAPE_2D(counts, I32, counts.shape[0], counts.shape[1]);
    CHECK_SHAPE_2D(ids, I32, ids.shape[0], ids.shape[1]);
    CHECK(ids.shape[1] >= 1, "tokens without choices");
    check_parts(counts.shape[0], ids.shape[0]);
    dev->backend->op.count_first_choices(dev, counts, ids);
}

void count_squares(Device *dev, Tensor counts, Tensor squares, int64_t E) {
    CHECK_SHAPE_1D(counts, I64, 3);
    CHECK_SHAPE_1D(squares, F32, squares.shape[0]);
    CHECK(E >= 1, "%lld experts", (long long)E);
    dev->backend->op.count_squares(dev, counts, squares, E);
}

double root_mean_square(const int64_t *counts) {
    if (counts[2] == 0) return 0;
    return sqrt(((double)counts[0] + (double)counts[1] * 0x1p-32) / (double)counts[2]);
}

void quantile_counts(Device *dev, Tensor counts, Tensor logits, Tensor lse, Tensor bias, int64_t K,
                     RouterRule rule) {
    int64_t N = logits.shape[0], E = logits.shape[1];
    CHECK_SHAPE_2D(counts, I64, E, QUANTILE_BINS);
    CHECK_SHAPE_2D(logits, F32, N, E);
    CHECK_SHAPE_1D(lse, F32, N);
    CHECK_SHAPE_1D(bias, F32, E);
    CHECK(K >= 1 && K < E, "%lld of %lld experts", (long long)K, (long long)E);
    dev->backend->op.quantile_counts(dev, counts, logits, lse, bias, K, rule);
}

// The edge of a bin that is nearer to 0; 0 where smaller numbers share the bin.
static double quantile_edge(int bin) {
    int j = bin >= QUANTILE_HALF ? bin - QUANTILE_HALF : QUANTILE_HALF - bin;
    uint32_t bits = (uint32_t)(QUANTILE_LEAST + j) << QUANTILE_SHIFT;
    float edge;
    memcpy(&edge, &bits, sizeof edge);
    if (j == 0) return 0;
    return bin >= QUANTILE_HALF ? (double)edge : -(double)edge;
}

double quantile_largest(const int64_t *counts, int64_t n) {
    int64_t above = 0;
    int bin = QUANTILE_BINS - 1;
    for (; bin > 0 && above + counts[bin] < n; bin--) above += counts[bin];
    double low = quantile_edge(bin), high = quantile_edge(bin + 1);
    double share = counts[bin] > 0 ? ((double)(n - above) - 0.5) / (double)counts[bin] : 0.5;
    return high - (high - low) * share;
}

// ---- slots --------------------------------------------------------------------------------------

void slot_weights_forward(Device *dev, Tensor dispatch, Tensor combine, Tensor logits, int64_t T) {
    int64_t N = logits.shape[0], S = logits.shape[1];
    CHECK_SHAPE_2D(logits, F32, N, S);
    CHECK_SHAPE_2D(dispatch, F32, N, S);
    CHECK_SHAPE_2D(combine, F32, N, S);
    CHECK(T > 0 && N % T == 0, "%lld tokens are not sequences of %lld", (long long)N, (long long)T);
    dev->backend->op.slot_weights_forward(dev, dispatch, combine, logits, T);
}

void slot_weights_backward(Device *dev, Tensor dlogits, Tensor ddispatch, Tensor dcombine,
                           Tensor dispatch, Tensor combine, int64_t T) {
    int64_t N = dlogits.shape[0], S = dlogits.shape[1];
    CHECK_SHAPE_2D(dlogits, F32, N, S);
    CHECK_SHAPE_2D(ddispatch, F32, N, S);
    CHECK_SHAPE_2D(dcombine, F32, N, S);
    CHECK_SHAPE_2D(dispatch, F32, N, S);
    CHECK_SHAPE_2D(combine, F32, N, S);
    CHECK(T > 0 && N % T == 0, "%lld tokens are not sequences of %lld", (long long)N, (long long)T);
    dev->backend->op.slot_weights_backward(dev, dlogits, ddispatch, dcombine, dispatch, combine, T);
}

void count_slot_weights(Device *dev, Tensor counts, Tensor weights) {
    int64_t E = counts.shape[0], S = weights.shape[1];
    CHECK_SHAPE_1D(counts, I64, E);
    CHECK_SHAPE_2D(weights, F32, weights.shape[0], S);
    CHECK(E > 0 && S % E == 0, "%lld slots of %lld experts", (long long)S, (long long)E);
    dev->backend->op.count_slot_weights(dev, counts, weights);
}

// ---- permutation --------------------------------------------------------------------------------

void permutation_plan(Device *dev, Tensor slot_row, Tensor row_choice, Tensor counts, Tensor ids,
                      Tensor kept, Tensor places, int64_t parts, int64_t padded_rows) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    int64_t rows = padded_rows < 0 ? N * K : counts.shape[0] * parts * padded_rows;
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    if (padded_rows < 0 && row_choice.shape[0] < rows) rows = row_choice.shape[0];
    CHECK_SHAPE_1D(row_choice, I32, rows);
    CHECK_SHAPE_2D(counts, I32, counts.shape[0], parts);
    CHECK_SHAPE_1D(places, I32, counts.shape[0]);
    check_parts(parts, N);
    dev->backend->op.permutation_plan(dev, slot_row, row_choice, counts, ids, kept, places, parts,
                                      padded_rows);
}

// Whether `chunks` divides every rank's experts.
static bool chunks_divide(int64_t chunks, ExchangeCut cut) {
    return chunks > 0 && cut.experts.large % chunks == 0 &&
           (deal_is_even(cut.experts, cut.ranks) || cut.experts.small % chunks == 0);
}

void exchange_plan(Device *dev, ExchangePlan plan, Tensor counts, Tensor all_counts,
                   ExchangeCut cut, int64_t parts) {
    int64_t ep = cut.ranks, local = deal_count(cut.experts, cut.rank);
    int64_t shards = deal_first(cut.shards, ep);
    int64_t chunks = plan.send_rows.shape[0], max_rows = plan.to_expert.shape[0];
    CHECK_SHAPE_1D(all_counts, I32, local * shards);
    CHECK_SHAPE_2D(counts, I32, deal_first(cut.experts, ep), deal_count(cut.shards, cut.rank));
    CHECK_SHAPE_1D(plan.offsets, I64, local * parts + 1);
    CHECK_SHAPE_2D(plan.send_rows, I64, chunks, ep);
    CHECK_SHAPE_2D(plan.receive_rows, I64, chunks, ep);
    CHECK_SHAPE_1D(plan.to_expert, I32, max_rows);
    CHECK_SHAPE_1D(plan.to_received, I32, max_rows);
    CHECK(chunks_divide(chunks, cut) && parts > 0 && shards % parts == 0,
          "%lld experts in %lld chunks, %lld shards in %lld parts", (long long)local,
          (long long)chunks, (long long)shards, (long long)parts);
    dev->backend->op.exchange_plan(dev, plan, counts, all_counts, cut, parts);
}

void expert_row_numbers(Device *dev, Tensor numbers, Tensor offsets, Tensor all_counts,
                        Tensor experts, ExchangeCut cut, RowNumbering rule) {
    int64_t local = deal_count(cut.experts, cut.rank);
    CHECK_SHAPE_1D(numbers, I64, numbers.shape[0]);
    CHECK_SHAPE_1D(all_counts, I32, local * deal_first(cut.shards, cut.ranks));
    CHECK_SHAPE_1D(offsets, I64, offsets.shape[0]);
    CHECK_SHAPE_1D(experts, I32, deal_first(cut.experts, cut.ranks));
    CHECK(offsets.shape[0] > 1 && (offsets.shape[0] - 1) % local == 0,
          "%lld offsets of %lld experts", (long long)offsets.shape[0], (long long)local);
    dev->backend->op.expert_row_numbers(dev, numbers, offsets, all_counts, experts, cut, rule);
}

void gather_rows(Device *dev, Tensor out, Tensor x, Tensor index, int64_t rows, int64_t divisor) {
    DType T = storage(x);
    CHECK_SHAPE_2D(out, T, out.shape[0], x.shape[1]);
    CHECK_SHAPE_2D(x, T, x.shape[0], out.shape[1]);
    CHECK_SHAPE_1D(index, I32, index.shape[0]);
    CHECK(rows >= 0 && rows <= out.shape[0] && rows <= index.shape[0] && divisor > 0,
          "gather of %lld rows by %lld indices into %lld rows", (long long)rows,
          (long long)index.shape[0], (long long)out.shape[0]);
    dev->backend->op.gather_rows(dev, out, x, index, rows, divisor);
}

void combine_forward(Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    int64_t N = out.shape[0], K = slot_row.shape[1];
    DType T = storage(y);
    CHECK_SHAPE_2D(out, T, N, y.shape[1]);
    CHECK_SHAPE_2D(y, T, y.shape[0], out.shape[1]);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    if (weights.data) CHECK_SHAPE_2D(weights, F32, N, K);
    dev->backend->op.combine_forward(dev, out, y, slot_row, weights);
}

void combine_backward(Device *dev, Tensor dy, Tensor dweights, Tensor dout, Tensor y,
                      Tensor slot_row, Tensor row_choice, Tensor weights) {
    int64_t N = dout.shape[0], D = dout.shape[1], K = slot_row.shape[1];
    DType T = storage(y);
    CHECK_SHAPE_2D(dout, T, N, D);
    CHECK_SHAPE_2D(y, T, y.shape[0], D);
    CHECK_SHAPE_2D(dy, T, y.shape[0], D);
    CHECK_SHAPE_2D(slot_row, I32, N, K);
    if (row_choice.data) {
        CHECK_SHAPE_1D(row_choice, I32, row_choice.shape[0]);
        CHECK(row_choice.shape[0] <= dy.shape[0], "choices of %lld rows, dy has %lld",
              (long long)row_choice.shape[0], (long long)dy.shape[0]);
    }
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(dweights, F32, N, K);
    dev->backend->op.combine_backward(dev, dy, dweights, dout, y, slot_row, row_choice, weights);
}

static void check_identity(Tensor to, Tensor from, Tensor ids, Tensor weights, int64_t E) {
    int64_t N = from.shape[0], D = from.shape[1], K = ids.shape[1];
    CHECK_SHAPE_2D(from, storage(from), N, D);
    CHECK_SHAPE_2D(to, from.dtype, N, D);
    check_choices(ids, weights, N, K);
    CHECK(E >= 0 && E <= INT32_MAX, "%lld experts", (long long)E);
}

void identity_experts_forward(Device *dev, Tensor out, Tensor x, Tensor ids, Tensor weights,
                              int64_t E) {
    check_identity(out, x, ids, weights, E);
    dev->backend->op.identity_experts_forward(dev, out, x, ids, weights, E);
}

void identity_experts_backward(Device *dev, Tensor dx, Tensor dweights, Tensor dout, Tensor x,
                               Tensor ids, Tensor weights, int64_t E) {
    check_identity(dx, dout, ids, weights, E);
    CHECK_SHAPE_2D(x, dout.dtype, dout.shape[0], dout.shape[1]);
    CHECK_SHAPE_2D(dweights, F32, ids.shape[0], ids.shape[1]);
    dev->backend->op.identity_experts_backward(dev, dx, dweights, dout, x, ids, weights, E);
}

void renormalize_forward(Device *dev, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(scaled, F32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    dev->backend->op.renormalize_forward(dev, scaled, weights, kept);
}

void renormalize_backward(Device *dev, Tensor dscaled, Tensor scaled, Tensor weights, Tensor kept) {
    int64_t N = weights.shape[0], K = weights.shape[1];
    CHECK_SHAPE_2D(weights, F32, N, K);
    CHECK_SHAPE_2D(scaled, F32, N, K);
    CHECK_SHAPE_2D(dscaled, F32, N, K);
    CHECK_SHAPE_2D(kept, U8, N, K);
    dev->backend->op.renormalize_backward(dev, dscaled, scaled, weights, kept);
}
