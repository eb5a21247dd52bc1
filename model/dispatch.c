#include "model/dispatch.h"

// Rows that can reach this rank at worst: every token of the group once for each of this rank's experts, up to its K
// choices; less where capacity limits an expert, or where only the even case is being planned.
static int64_t most_rows(const Work *work) {
    const MoeConfig *moe = &work->config->moe;
    if (work->even_routing) return work->N * moe->top_k;
    int64_t local_experts = moe->experts / work->ep_size;
    int64_t choices = moe->top_k < local_experts ? moe->top_k : local_experts;
    int64_t rows = work->N * work->ep_size * choices;
    int64_t groups = moe->routing_group == GROUP_SEQUENCE ? work->B : work->shards;
    int64_t capacity = moe_capacity(moe, work->N / groups);
    if (capacity < 0) return rows;
    int64_t limit = capacity * groups * work->ep_size * local_experts;
    return limit < rows ? limit : rows;
}

void dispatch_layout(Dispatch *d, Work *work, Arena *activations) {
    const MoeConfig *moe = &work->config->moe;
    int64_t E = moe->experts, ep = work->ep_size, rows = work->N * moe->top_k;
    d->max_rows = most_rows(work);
    d->slot_row = arena_2d(activations, I32, work->N, moe->top_k);
    d->row_choice = arena_1d(activations, I32, rows);
    d->counts = arena_2d(activations, I32, E, work->shards);
    d->all_counts = arena_3d(activations, I32, ep, E / ep, work->shards);
    d->to_expert = arena_1d(activations, I32, d->max_rows);
    d->to_received = arena_1d(activations, I32, d->max_rows);
    d->send_rows = arena_1d(activations, I64, ep);
    d->receive_rows = arena_1d(activations, I64, ep);
    d->offsets = arena_1d(activations, I64, E / ep * work->expert_parts + 1);
}

void dispatch_layout_scratch(Dispatch *d, Work *work, Arena *scratch) {
    if (work->ep_size == 1) return;
    int64_t D = work->config->d_model;
    d->sent_buffer = arena_2d(scratch, F32, work->N * work->config->moe.top_k, D);
    d->received_buffer = arena_2d(scratch, F32, d->max_rows, D);
}

// all_counts (ep, E/ep, S) → offsets of the expert rows, and the two permutations between received and expert rows.
static void order_expert_rows(Dispatch *d, Work *work) {
    int64_t ep = work->ep_size, local_experts = work->config->moe.experts / ep, S = work->shards;
    int64_t part_shards =
        ep * S / work->expert_parts; // of the group's shards, in one gradient part
    const int32_t *counts = tensor_i32(d->all_counts);
    int64_t *offsets = tensor_i64(d->offsets);
    int32_t *to_expert = tensor_i32(d->to_expert), *to_received = tensor_i32(d->to_received);

    int64_t row = 0, part = 0;
    for (int64_t e = 0; e < local_experts; e++)
        for (int64_t shard = 0; shard < ep * S; shard++) {
            if (shard % part_shards == 0) offsets[part++] = row;
            row += counts[(shard / S * local_experts + e) * S + shard % S];
        }
    offsets[part] = row;
    CHECK(row == d->received && row <= d->max_rows,
          "%lld expert rows, %lld received, room for %lld", (long long)row, (long long)d->received,
          (long long)d->max_rows);

    // Received rows come by (source rank, expert, shard): walk them in that order, each expert filling up in turn.
    int64_t received = 0;
    for (int64_t source = 0; source < ep; source++)
        for (int64_t e = 0; e < local_experts; e++) {
            int64_t target = offsets[e * work->expert_parts];
            for (int64_t shard = 0; shard < source * S; shard++)
                target += counts[(shard / S * local_experts + e) * S + shard % S];
            for (int64_t s = 0; s < S; s++)
                for (int32_t i = 0; i < counts[(source * local_experts + e) * S + s]; i++) {
                    to_expert[target] = (int32_t)received;
                    to_received[received++] = (int32_t)target++;
                }
        }
}

void dispatch_plan(Dispatch *d, Work *work, Tensor ids, Tensor kept) {
    int64_t ep = work->ep_size, block = work->config->moe.experts / ep * work->shards;
    permutation_plan(work->dev, d->slot_row, d->row_choice, d->counts, ids, kept, work->shards);
    if (ep > 1) {
        all_to_all(work->groups.expert_parallel, d->all_counts, d->counts, TRAFFIC_COUNTS);
    } else {
        copy(work->dev, d->all_counts, d->counts);
    }
    int64_t *send = tensor_i64(d->send_rows), *receive = tensor_i64(d->receive_rows);
    d->sent = d->received = 0;
    for (int64_t p = 0; p < ep; p++) {
        send[p] = receive[p] = 0;
        for (int64_t i = 0; i < block; i++) {
            send[p] += tensor_i32(d->counts)[p * block + i];
            receive[p] += tensor_i32(d->all_counts)[p * block + i];
        }
        d->sent += send[p];
        d->received += receive[p];
    }
    order_expert_rows(d, work);
}

Segments dispatch_segments(const Dispatch *d, const Work *work) {
    return (Segments){work->config->moe.experts / work->ep_size, work->expert_parts,
                      tensor_i64(d->offsets)};
}

void dispatch_tokens(Dispatch *d, Work *work, Tensor expert_rows, Tensor x) {
    int64_t K = work->config->moe.top_k;
    if (work->ep_size == 1) {
        gather_rows(work->dev, expert_rows, x, d->row_choice, d->sent, K);
        return;
    }
    gather_rows(work->dev, d->sent_buffer, x, d->row_choice, d->sent, K);
    dispatch_rows(d, work, expert_rows, d->sent_buffer, TRAFFIC_DISPATCH);
}

void dispatch_rows(Dispatch *d, Work *work, Tensor expert_rows, Tensor sent_rows,
                   TrafficKind kind) {
    all_to_all_rows(work->groups.expert_parallel, d->received_buffer, tensor_i64(d->receive_rows),
                    sent_rows, tensor_i64(d->send_rows), kind);
    gather_rows(work->dev, expert_rows, d->received_buffer, d->to_expert, d->received, 1);
}

void dispatch_return(Dispatch *d, Work *work, Tensor sent_rows, Tensor expert_rows,
                     TrafficKind kind) {
    gather_rows(work->dev, d->received_buffer, expert_rows, d->to_received, d->received, 1);
    all_to_all_rows(work->groups.expert_parallel, sent_rows, tensor_i64(d->send_rows),
                    d->received_buffer, tensor_i64(d->receive_rows), kind);
}
