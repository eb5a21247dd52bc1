#include "worker/simulation/replay.h"

#include <math.h>
#include <stdlib.h>

#include "comm/shard_run.h"
#include "kernels/integers.h"

typedef struct Replay {
    const StepGraph *graph;
    const Cluster *cluster;
    double crowd;         // ranks for a CPU, at least 1
    double memory;        // bytes a second of a rank, of those of its node that compute at once
    double *clock;        // (ranks) seconds since the step began
    double *phase;        // (ranks) what each computes next
    double *times;        // (ranks, TIMED_KINDS)
    double *tokens;       // (ranks) of a micro-batch
    double *rows;         // (ranks) the share of its group's choices that its experts take
    double *group_tokens; // (groups)
    double *way;  // (groups) seconds of one chunk on its way there or back, of the half at work
    double *link; // (groups) until when the group's exchanges are on their way
    double *dispatched, *combined, *next; // (groups) when a chunk arrives
    double sums;                          // until when sums of gradients are on their way
} Replay;

// ---- computing ----------------------------------------------------------------------------------

static double seconds_of(const Replay *replay, double flops, double bytes) {
    const Cluster *cluster = replay->cluster;
    return (flops / cluster->products + bytes / replay->memory) / cluster->reached;
}

// How long rank r of those from `first` on computes: they get equal shares of their CPUs until they
// are done.
static double shared_seconds(const Replay *replay, int64_t first, int64_t end, int64_t r) {
    double own = replay->phase[r], all = 0;
    if (replay->crowd == 1) return own;
    for (int64_t other = first; other < end; other++) all += fmin(replay->phase[other], own);
    return fmax(own, all / (double)replay->cluster->node_cpus);
}

// Every rank computes its `phase`.
static void compute(Replay *replay) {
    int64_t ranks = replay->graph->ranks, size = replay->cluster->node_ranks;
    for (int64_t first = 0; first < ranks; first += size) {
        int64_t end = smaller(first + size, ranks);
        for (int64_t r = first; r < end; r++) {
            double seconds = shared_seconds(replay, first, end, r);
            replay->clock[r] += seconds;
            replay->times[r * TIMED_KINDS + TIMED_OWN] += seconds;
        }
    }
}

static void wait_until(Replay *replay, int64_t first, int64_t count, double until, TimedKind kind) {
    for (int64_t r = first; r < first + count; r++) {
        double waited = until - replay->clock[r];
        if (waited <= 0) continue;
        replay->times[r * TIMED_KINDS + kind] += waited;
        replay->clock[r] = until;
    }
}

static double latest(const Replay *replay, int64_t first, int64_t count) {
    double most = 0;
    for (int64_t r = first; r < first + count; r++) most = fmax(most, replay->clock[r]);
    return most;
}

// ---- messages -----------------------------------------------------------------------------------

static int64_t node_of(const Replay *replay, int64_t rank) {
    return rank / replay->cluster->node_ranks;
}

// So many messages that a rank sends together, of so many bytes in all.
static double inside_seconds(const Replay *replay, int64_t messages, double bytes) {
    const Link *link = &replay->cluster->inside;
    if (messages == 0) return 0;
    return replay->crowd *
           (link->latency + (double)(messages - 1) * link->gap + bytes / link->bandwidth);
}

static double between_seconds(const Replay *replay, int64_t messages, double bytes) {
    const Cluster *cluster = replay->cluster;
    if (messages == 0) return 0;
    int64_t sharing = smaller(cluster->node_ranks, replay->graph->ranks);
    double share = fmin(1, (double)cluster->between_links / (double)sharing);
    return cluster->between.latency + (double)(messages - 1) * cluster->between.gap +
           bytes / (share * cluster->between.bandwidth);
}

// A sum over `count` ranks, `stride` apart, that have so many nodes of the tree at most.
static double sum_seconds(const Replay *replay, int64_t count, int64_t stride, double elements,
                          double width, int nodes) {
    double seconds = 0;
    if (count == 1 || elements <= 0) return 0;
    if (!is_power_of_two(count) || nodes > 1) {
        int64_t near = 0; // of the first rank: as many of the others are in its node
        for (int64_t r = 1; r < count; r++) near += node_of(replay, r * stride) == 0;
        double slice = elements / (double)count * width;
        double one = inside_seconds(replay, near, slice * (double)near) +
                     between_seconds(replay, count - 1 - near, slice * (double)(count - 1 - near));
        double added = 3 * slice * (double)(nodes * count - 1);
        return (nodes + 1) * one + seconds_of(replay, 0, added) * replay->crowd;
    }
    double kept = elements * width;
    for (int64_t distance = 1; distance < count; distance *= 2) {
        bool far = false;
        kept /= 2;
        for (int64_t r = 0; r < count && !far; r++)
            far = node_of(replay, r * stride) != node_of(replay, (r ^ distance) * stride);
        double there = far ? between_seconds(replay, 1, kept) : inside_seconds(replay, 1, kept);
        seconds += 2 * there + seconds_of(replay, 0, 3 * kept) * replay->crowd;
    }
    return seconds;
}

// All ranks, which have come by then, do what takes so long.
static void do_together(Replay *replay, double seconds, TimedKind kind) {
    int64_t ranks = replay->graph->ranks;
    if (seconds > 0) wait_until(replay, 0, ranks, latest(replay, 0, ranks) + seconds, kind);
}

// A sum of gradients begins: the device does it while the backward pass goes on, one after another.
static void begin_sum(Replay *replay, GraphSum sum) {
    const StepGraph *graph = replay->graph;
    int64_t ep = graph->expert_parallel;
    int nodes = graph->fixed_tree ? shard_nodes_most(graph->deal) : 1;
    double seconds = sum_seconds(replay, graph->ranks, 1, sum.dense, sizeof(float), nodes) +
                     sum_seconds(replay, graph->ranks / ep, ep, sum.expert, sizeof(float), 1);
    if (!replay->cluster->overlap) {
        do_together(replay, seconds, TIMED_REDUCTION);
        return;
    }
    replay->sums = fmax(replay->sums, latest(replay, 0, graph->ranks)) + seconds;
}

// ---- experts ------------------------------------------------------------------------------------

static double share_of(const GraphHalf *half, int64_t expert) {
    if (half->padded) return half->most_share;
    double share = half->load ? half->load[expert] : 1 / (double)half->experts;
    return fmin(share, half->most_share);
}

// Which share of its group's choices each rank's experts take.
static void share_rows(Replay *replay, const GraphHalf *half) {
    const StepGraph *graph = replay->graph;
    Deal deal = deal_evenly(half->experts, graph->expert_parallel);
    for (int64_t r = 0; r < graph->ranks; r++) {
        int64_t place = r % graph->expert_parallel, first = deal_first(deal, place);
        replay->rows[r] = 0;
        for (int64_t e = first; e < first + deal_count(deal, place); e++)
            replay->rows[r] += share_of(half, e);
    }
}

// How long a chunk of a group's rows travels, there or back: as long as its busiest rank sends, or
// receives.
static double way_seconds(const Replay *replay, const GraphHalf *half, int64_t first,
                          int64_t chunks) {
    int64_t ep = replay->graph->expert_parallel, end = first + ep;
    double all_tokens = replay->group_tokens[first / ep], all_rows = 0, most = 0;
    for (int64_t r = first; r < end; r++) all_rows += replay->rows[r];
    double token_bytes = half->token_bytes / 2 / (double)chunks;
    for (int64_t begin = first, next; begin < end; begin = next) {
        double tokens = 0, rows = 0; // of the ranks of this node
        for (next = begin; next < end && node_of(replay, next) == node_of(replay, begin); next++) {
            tokens += replay->tokens[next];
            rows += replay->rows[next];
        }
        for (int64_t r = begin; r < next; r++) {
            double own = replay->tokens[r], share = replay->rows[r];
            double near = fmax(own * (rows - share), share * (tokens - own));
            double far = fmax(own * (all_rows - rows), share * (all_tokens - tokens));
            double seconds = inside_seconds(replay, next - begin - 1, token_bytes * near) +
                             between_seconds(replay, ep - (next - begin), token_bytes * far);
            most = fmax(most, seconds);
        }
    }
    return most;
}

// A chunk sets out when all of the group have come, and the one before it is there. The sums that
// are on their way meanwhile share its links.
static double set_out(Replay *replay, int64_t group) {
    int64_t ep = replay->graph->expert_parallel;
    double begin = latest(replay, group * ep, ep), seconds = replay->way[group];
    if (!replay->cluster->overlap) return seconds; // it travels when it is waited for
    begin = fmax(begin, replay->link[group]);
    replay->link[group] = begin + seconds;
    if (group == 0 && replay->sums > begin) replay->sums += seconds;
    return replay->link[group];
}

static void arrive(Replay *replay, int64_t group, double when) {
    int64_t ep = replay->graph->expert_parallel, first = group * ep;
    if (!replay->cluster->overlap) when += latest(replay, first, ep);
    wait_until(replay, first, ep, when, TIMED_EXCHANGE);
}

static int64_t chunks_of(const StepGraph *graph, const GraphHalf *half) {
    Deal deal = deal_evenly(half->experts, graph->expert_parallel);
    int64_t chunks = graph->chunks;
    while (chunks > 1 && (deal.large % chunks != 0 || deal.small % chunks != 0)) chunks--;
    return chunks;
}

// Through the experts of the ranks, there and back (model/expert_exchange.c).
static void travel(Replay *replay, const GraphHalf *half, double passes) {
    const StepGraph *graph = replay->graph;
    int64_t ep = graph->expert_parallel, groups = graph->ranks / ep;
    int64_t chunks = ep > 1 ? chunks_of(graph, half) : 1;
    bool sent = ep > 1 && half->token_bytes > 0;
    for (int64_t g = 0; g < groups && sent; g++) {
        replay->way[g] = way_seconds(replay, half, g * ep, chunks);
        replay->dispatched[g] = set_out(replay, g);
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        for (int64_t g = 0; g < groups && sent; g++) {
            if (chunk + 1 < chunks) replay->next[g] = set_out(replay, g);
            arrive(replay, g, replay->dispatched[g]);
        }
        double flops = passes * half->expert_flops / (double)chunks;
        for (int64_t r = 0; r < graph->ranks; r++)
            replay->phase[r] =
                seconds_of(replay, flops * replay->group_tokens[r / ep] * replay->rows[r], 0);
        compute(replay);
        for (int64_t g = 0; g < groups && sent; g++) {
            if (chunk > 0) arrive(replay, g, replay->combined[g]);
            replay->combined[g] = set_out(replay, g);
            replay->dispatched[g] = replay->next[g];
        }
    }
    for (int64_t g = 0; g < groups && sent; g++) arrive(replay, g, replay->combined[g]);
}

// ---- a step -------------------------------------------------------------------------------------

// What a rank does by itself: products of its tokens, and its passes over memory.
static void compute_own(Replay *replay, double token_flops, double token_bytes, double bytes) {
    for (int64_t r = 0; r < replay->graph->ranks; r++)
        replay->phase[r] = seconds_of(replay, token_flops * replay->tokens[r],
                                      token_bytes * replay->tokens[r] + bytes);
    compute(replay);
}

static double small_sum(const Replay *replay, double numbers) {
    return sum_seconds(replay, replay->graph->ranks, 1, numbers, sizeof(double), 1);
}

static void counts_travel(Replay *replay, const GraphHalf *half) {
    int64_t ep = replay->graph->expert_parallel;
    if (ep == 1 || !half->counted) return;
    int64_t near = smaller(ep, replay->cluster->node_ranks) - 1;
    double seconds = inside_seconds(replay, near, 0) + between_seconds(replay, ep - 1 - near, 0);
    for (int64_t first = 0; first < replay->graph->ranks; first += ep)
        wait_until(replay, first, ep, latest(replay, first, ep) + seconds, TIMED_EXCHANGE);
}

enum { FORWARD_PASSES = 2, BACKWARD_PASSES = 3 }; // over what stays of a token

static void half_forward(Replay *replay, const GraphHalf *half) {
    const StepGraph *graph = replay->graph;
    double pieces = (double)graph->half_count + 1;
    compute_own(replay, half->flops, FORWARD_PASSES * graph->token_kept_bytes / pieces,
                graph->matrix_bytes / pieces);
    for (int64_t i = 0; i < half->sums; i++) do_together(replay, small_sum(replay, 1), TIMED_OTHER);
    if (half->experts == 0) return;
    counts_travel(replay, half);
    share_rows(replay, half);
    travel(replay, half, 1);
}

static void half_backward(Replay *replay, const GraphHalf *half) {
    const StepGraph *graph = replay->graph;
    double pieces = (double)graph->half_count + 1;
    if (half->experts > 0) {
        share_rows(replay, half);
        travel(replay, half, 2);
    }
    compute_own(replay, 2 * half->flops, BACKWARD_PASSES * graph->token_kept_bytes / pieces,
                (graph->matrix_bytes + graph->gradient_bytes) / pieces);
}

static void micro_batch(Replay *replay) {
    const StepGraph *graph = replay->graph;
    int64_t layers = graph->half_count / 2;
    double pieces = (double)graph->half_count + 1;
    for (int64_t i = 0; i < graph->half_count; i++) half_forward(replay, &graph->halves[i]);
    compute_own(replay, 3 * graph->head_flops,
                (FORWARD_PASSES + BACKWARD_PASSES) * graph->token_kept_bytes / pieces,
                (2 * graph->matrix_bytes + graph->gradient_bytes) / pieces);
    begin_sum(replay, graph->sums[layers + 1]);
    for (int64_t layer = layers - 1; layer >= 0; layer--) {
        half_backward(replay, &graph->halves[2 * layer + 1]);
        half_backward(replay, &graph->halves[2 * layer]);
        begin_sum(replay, graph->sums[layer + 1]);
    }
    begin_sum(replay, graph->sums[0]);
    wait_until(replay, 0, graph->ranks, replay->sums, TIMED_REDUCTION);
}

static void step(Replay *replay) {
    const StepGraph *graph = replay->graph;
    for (int64_t i = 0; i < graph->micro_batches; i++) micro_batch(replay);
    do_together(replay, small_sum(replay, graph->statistics), TIMED_OTHER);
    // Counts, the norm, agreement on it, and on signals.
    for (int i = 0; i < 4; i++) do_together(replay, small_sum(replay, 1), TIMED_OTHER);
    compute_own(replay, 0, 0, graph->update_bytes);
    for (int64_t r = 0; r < graph->ranks; r++) replay->phase[r] = replay->cluster->step;
    compute(replay);
}

static double *new_numbers(int64_t count) {
    double *of = calloc((size_t)count, sizeof *of);
    CHECK_MEMORY(of, "no memory for the clocks of %lld ranks", (long long)count);
    return of;
}

enum { REPLAY_ARRAYS = 10 }; // of a number for each rank

StepForecast replay_step(const StepGraph *graph, const Cluster *cluster) {
    int64_t ranks = graph->ranks, sharing = smaller(ranks, cluster->node_ranks);
    double *memory = new_numbers((REPLAY_ARRAYS + TIMED_KINDS) * ranks), *at = memory;
    Replay replay = {.graph = graph, .cluster = cluster, .crowd = 1, .memory = cluster->memory};
    double **const arrays[REPLAY_ARRAYS] = {
        &replay.clock, &replay.phase, &replay.tokens,     &replay.rows,     &replay.group_tokens,
        &replay.way,   &replay.link,  &replay.dispatched, &replay.combined, &replay.next};
    for (int i = 0; i < REPLAY_ARRAYS; i++, at += ranks) *arrays[i] = at;
    replay.times = at;
    if (cluster->node_cpus > 0 && sharing > cluster->node_cpus)
        replay.crowd = (double)sharing / (double)cluster->node_cpus;
    if (cluster->node_memory > 0)
        replay.memory =
            fmin(cluster->memory, cluster->node_memory * replay.crowd / (double)sharing);
    for (int64_t r = 0; r < ranks; r++) {
        ShardRun run = shard_run(graph->deal, r);
        replay.tokens[r] = graph->shard_tokens * (double)run.count;
        replay.group_tokens[r / graph->expert_parallel] += replay.tokens[r];
    }
    step(&replay);
    StepForecast forecast = {.seconds = latest(&replay, 0, ranks)};
    step_parts_find(replay.times, (int)ranks, forecast.parts);
    forecast.gemm_share = graph->flops / ((double)ranks * cluster->products * forecast.seconds);
    free(memory);
    return forecast;
}
