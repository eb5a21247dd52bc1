#include "model/dispatch.h"

#include "kernels/integers.h"
#include "model/exchange_check.h"

static int64_t experts_here(const Dispatch *d) {
    return deal_count(d->cut.experts, d->cut.rank);
}
// Of this rank's quantity, which has as much of each shard: that of all ranks of the group.
static int64_t of_group(const Dispatch *d, const Work *work, int64_t quantity) {
    return quantity / work->shape.shards * deal_first(d->cut.shards, d->cut.ranks);
}
// Whether all ranks of the group have equally many experts and equally many shards.
static bool is_even(const Dispatch *d) {
    return deal_is_even(d->cut.experts, d->cut.ranks) && deal_is_even(d->cut.shards, d->cut.ranks);
}

// Rows that so many experts get of so many tokens while all that can be chosen is chosen equally
// often.
static int64_t even_rows(const Dispatch *d, int64_t tokens, int64_t experts) {
    int64_t choices = tokens * d->shape.K, all = d->shape.choosable;
    return choices / all * experts + (choices % all * experts + all - 1) / all;
}

// Rows that can reach this rank at worst: every token of the group once for each of this rank's
// experts, up to its K choices; less where capacity limits an expert, or where only the even case
// is being planned.
static int64_t most_rows(const Dispatch *d, const Work *work) {
    int64_t local = experts_here(d), K = d->shape.K, tokens = of_group(d, work, d->shape.tokens);
    if (d->padded_rows >= 0) return d->padded_rows * of_group(d, work, work->shape.shards) * local;
    int64_t rows = work->even_routing ? even_rows(d, tokens, local) : tokens * smaller(K, local);
    if (d->shape.capacity < 0) return rows;
    return smaller(rows, d->shape.capacity * of_group(d, work, d->shape.groups) * local);
}

// Rows that this rank can send at worst: every choice, or as many as capacity lets through.
static int64_t most_sent(const Dispatch *d, const Work *work) {
    int64_t E = d->shape.places->E, tokens = d->shape.tokens;
    int64_t choices = work->even_routing ? even_rows(d, tokens, E) : tokens * d->shape.K;
    if (d->padded_rows >= 0) return E * work->shape.shards * d->padded_rows;
    if (d->shape.capacity < 0) return choices;
    return smaller(choices, d->shape.capacity * d->shape.groups * E);
}

// As many as were asked for at most, each with the same number of a rank's experts.
static int64_t chunks_of(const Dispatch *d, const Work *work) {
    Deal experts = d->cut.experts;
    int64_t chunks = d->cut.ranks == 1 ? 1 : smaller(work->shape.chunks, CHUNKS_MAX);
    int64_t other = deal_is_even(experts, d->cut.ranks) ? experts.large : experts.small;
    while (chunks > 1 && (experts.large % chunks != 0 || other % chunks != 0)) chunks--;
    return chunks;
}

// The three parts of `totals`; they lie where it lies.
static ExchangePlan parts_of(const Dispatch *d, Tensor totals, const Work *work) {
    int64_t chunks = d->chunks, ep = work->shape.ep_size;
    int64_t offsets = experts_here(d) * work->shape.expert_parts + 1;
    return (ExchangePlan){
        .offsets = tensor_range(totals, 0, offsets),
        .send_rows = tensor_reshape_2d(tensor_range(totals, offsets, chunks * ep), chunks, ep),
        .receive_rows =
            tensor_reshape_2d(tensor_range(totals, offsets + chunks * ep, chunks * ep), chunks, ep),
    };
}

void dispatch_layout(Dispatch *d, DispatchShape shape, Work *work, Arena *activations) {
    int64_t E = shape.places->E, ep = work->shape.ep_size;
    d->shape = shape;
    d->cut = (ExchangeCut){ep, work->shape.ep_rank, deal_evenly(E, ep), work->shape.group_shards};
    d->padded_rows = shape.padded ? shape.capacity * (shape.groups / work->shape.shards) : -1;
    d->max_rows = most_rows(d, work);
    d->max_sent = most_sent(d, work);
    int64_t chunks = d->chunks = chunks_of(d, work);
    d->slot_row = arena_2d(activations, I32, shape.tokens, shape.K);
    d->row_choice = arena_1d(activations, I32, d->max_sent);
    d->counts = arena_2d(activations, I32, E, work->shape.shards);
    d->all_counts =
        arena_1d(activations, I32, experts_here(d) * of_group(d, work, work->shape.shards));
    d->totals = arena_1d(activations, I64,
                         experts_here(d) * work->shape.expert_parts + 1 + 2 * chunks * ep);
    d->host_totals = arena_mirror(work->host, d->totals);
    d->plan = parts_of(d, d->totals, work);
    d->host_plan = parts_of(d, d->host_totals, work);
    d->send_first = arena_2d(work->host, I64, chunks, ep);
    if (!is_even(d)) d->count_runs = arena_2d(work->host, I64, 2, ep);
    // With one rank in the group received rows are expert rows: there is no order to keep.
    d->plan.to_expert = arena_1d(activations, I32, ep > 1 ? d->max_rows : 0);
    d->plan.to_received = arena_1d(activations, I32, ep > 1 ? d->max_rows : 0);
    d->planned_for = -1;
}

bool dispatch_check(const Dispatch *d, Error *err) {
    if (d->max_rows <= INT32_MAX && d->max_sent <= INT32_MAX) return true;
    return error_set(err, EXIT_CONFIG,
                     "a rank would send up to %lld and receive up to %lld rows in a micro-batch, "
                     "which are numbered with 32 bits; use %smore train.micro_batches or a "
                     "smaller train.batch",
                     (long long)d->max_sent, (long long)d->max_rows,
                     d->shape.padded ? "moe.dispatch=exact, a smaller moe.capacity_factor or "
                                       "moe.min_capacity, "
                                     : "");
}

void dispatch_cost(const Dispatch *d, const Work *work, double sent_bytes[TRAFFIC_KINDS]) {
    int64_t counts = (d->shape.places->E - experts_here(d)) * work->shape.shards;
    if (d->padded_rows >= 0) return; // known beforehand
    sent_bytes[TRAFFIC_COUNTS] +=
        (double)work->shape.micro_batches * (double)(counts * (int64_t)sizeof(int32_t));
}

static int64_t sum_of(Tensor x) {
    int64_t sum = 0;
    for (int64_t i = 0; i < tensor_elements(x); i++) sum += tensor_i64(x)[i];
    return sum;
}

// From the counts to everything the host must know: the one place where it waits for the device in
// a layer.
static void plan_exchange(Dispatch *d, Work *work) {
    int64_t ep = work->shape.ep_size, chunks = d->chunks;
    exchange_plan(work->dev, d->plan, d->counts, d->all_counts, d->cut, work->shape.expert_parts);
    device_download(work->dev, d->host_totals, d->totals);
    d->sent = sum_of(d->host_plan.send_rows);
    d->received = sum_of(d->host_plan.receive_rows);
    CHECK(d->received <= d->max_rows && d->sent <= d->max_sent,
          "%lld rows received, room for %lld; %lld sent, room for %lld", (long long)d->received,
          (long long)d->max_rows, (long long)d->sent, (long long)d->max_sent);
    // Sent rows are ordered by (rank, chunk): experts are, and a rank's chunks are runs of its
    // experts.
    int64_t row = 0;
    for (int64_t peer = 0; peer < ep; peer++)
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            tensor_i64(d->send_first)[chunk * ep + peer] = row;
            row += tensor_i64(d->host_plan.send_rows)[chunk * ep + peer];
        }
}

// Padded: every count is padded_rows. Done once as long as the memory stays, with numbers that the
// host knows.
static void plan_padded(Dispatch *d, Work *work) {
    Arena host;
    int64_t sent = tensor_elements(d->counts), received = tensor_elements(d->all_counts);
    arena_measure(&host, "padded counts", NULL);
    arena_1d(&host, I32, larger(sent, received));
    arena_allocate(&host);
    Tensor full = arena_1d(&host, I32, larger(sent, received));
    for (int64_t i = 0; i < full.shape[0]; i++) tensor_i32(full)[i] = (int32_t)d->padded_rows;
    device_upload(work->dev, d->counts, tensor_range(full, 0, sent));
    device_upload(work->dev, d->all_counts, tensor_range(full, 0, received));
    arena_free(&host);
    plan_exchange(d, work);
    d->planned_for = work->memory_uses;
}

// Each rank gets what is sent to its experts: the same number from all, or runs of numbers.
static void exchange_counts(Dispatch *d, Work *work) {
    int64_t ep = d->cut.ranks, sent = tensor_elements(d->counts);
    if (ep == 1) {
        copy(work->dev, d->all_counts, tensor_reshape_1d(d->counts, sent));
    } else if (is_even(d)) {
        all_to_all(work->groups.expert_parallel, d->all_counts, d->counts, TRAFFIC_COUNTS);
    } else {
        int64_t *there = tensor_i64(d->count_runs), *back = there + ep;
        for (int64_t peer = 0; peer < ep; peer++) {
            there[peer] = deal_count(d->cut.experts, peer) * work->shape.shards;
            back[peer] = experts_here(d) * deal_count(d->cut.shards, peer);
        }
        all_to_all_rows(work->groups.expert_parallel,
                        tensor_reshape_2d(d->all_counts, d->all_counts.shape[0], 1),
                        (RowRuns){back, NULL}, tensor_reshape_2d(d->counts, sent, 1),
                        (RowRuns){there, NULL}, TRAFFIC_COUNTS);
    }
}

void dispatch_plan(Dispatch *d, Work *work, Tensor ids, Tensor kept) {
    if (d->padded_rows >= 0 && d->planned_for != work->memory_uses) plan_padded(d, work);
    permutation_plan(work->dev, d->slot_row, d->row_choice, d->counts, ids, kept,
                     d->shape.places->places, work->shape.shards, d->padded_rows);
    if (d->padded_rows >= 0) return;
    exchange_counts(d, work);
    plan_exchange(d, work);
}

ExpertChunk dispatch_chunk(const Dispatch *d, const Work *work, int64_t chunk) {
    int64_t experts = experts_here(d) / d->chunks;
    int64_t parts = work->shape.expert_parts, first = chunk * experts;
    return (ExpertChunk){
        .first_expert = first,
        .rows = {.groups = experts,
                 .parts = parts,
                 .offsets = tensor_i64(d->host_plan.offsets) + first * parts,
                 .device_offsets =
                     tensor_range(d->plan.offsets, first * parts, experts * parts + 1)},
    };
}

void dispatch_gather(const Dispatch *d, Work *work, Tensor sent_rows, Tensor x) {
    gather_rows(work->dev, sent_rows, x, d->row_choice, d->sent,
                d->shape.tokens * d->shape.K / x.shape[0]);
}

// ---- several ranks ------------------------------------------------------------------------------

// A chunk's share of the received rows, and its two sides of the exchange.
typedef struct Travel {
    int64_t first, count; // received rows, and expert rows: both are ordered by chunk first
    RowRuns there, back;  // rows of each rank, seen from the sent rows and from the received rows
} Travel;

static Travel travel_of(const Dispatch *d, const Work *work, int64_t chunk) {
    const int64_t *offsets = dispatch_chunk(d, work, chunk).rows.offsets;
    int64_t ep = work->shape.ep_size;
    int64_t segments = experts_here(d) / d->chunks * work->shape.expert_parts;
    RowRuns there = {tensor_i64(d->host_plan.send_rows) + chunk * ep,
                     tensor_i64(d->send_first) + chunk * ep};
    RowRuns back = {tensor_i64(d->host_plan.receive_rows) + chunk * ep, NULL};
    // Padded and in one piece both sides are the same equal runs: said by form, it becomes one
    // all-to-all of fixed size.
    if (d->padded_rows >= 0 && d->chunks == 1 && is_even(d)) there = back;
    return (Travel){offsets[0], offsets[segments] - offsets[0], there, back};
}

// Forward, tokens are dispatched as such; backward, gradients take their ways (moe_layer.c).
static ExchangeWay way_there(TrafficKind kind) {
    return kind == TRAFFIC_DISPATCH ? DISPATCH_TOKENS : DISPATCH_GRADIENTS;
}
static ExchangeWay way_back(TrafficKind kind) {
    return kind == TRAFFIC_COMBINE ? COMBINE_OUTPUTS : COMBINE_GRADIENTS;
}

Pending dispatch_send(Dispatch *d, Work *work, int64_t chunk, Tensor received, Tensor sent_rows,
                      TrafficKind kind) {
    Travel t = travel_of(d, work, chunk);
    exchange_check_add(work, d->shape.layer, way_there(kind), SIDE_SENT, sent_rows, t.there);
    return all_to_all_rows_begin(work->groups.expert_parallel,
                                 tensor_rows(received, t.first, t.count), t.back, sent_rows,
                                 t.there, kind);
}

void dispatch_arrive(Dispatch *d, Work *work, int64_t chunk, Pending *pending, Tensor expert_rows,
                     Tensor received, TrafficKind kind) {
    Travel t = travel_of(d, work, chunk);
    collective_wait(pending);
    exchange_check_add(work, d->shape.layer, way_there(kind), SIDE_RECEIVED,
                       tensor_rows(received, t.first, t.count), t.back);
    gather_rows(work->dev, tensor_rows(expert_rows, t.first, t.count), received,
                tensor_range(d->plan.to_expert, t.first, t.count), t.count, 1);
}

Pending dispatch_return(Dispatch *d, Work *work, int64_t chunk, Tensor sent_rows, Tensor received,
                        Tensor expert_rows, TrafficKind kind) {
    Travel t = travel_of(d, work, chunk);
    Tensor leaving = tensor_rows(received, t.first, t.count);
    gather_rows(work->dev, leaving, expert_rows,
                tensor_range(d->plan.to_received, t.first, t.count), t.count, 1);
    exchange_check_add(work, d->shape.layer, way_back(kind), SIDE_SENT, leaving, t.back);
    return all_to_all_rows_begin(work->groups.expert_parallel, sent_rows, t.there, leaving, t.back,
                                 kind);
}

void dispatch_returned(Dispatch *d, Work *work, int64_t chunk, Pending *pending, Tensor sent_rows,
                       TrafficKind kind) {
    Travel t = travel_of(d, work, chunk);
    collective_wait(pending);
    exchange_check_add(work, d->shape.layer, way_back(kind), SIDE_RECEIVED, sent_rows, t.there);
}
