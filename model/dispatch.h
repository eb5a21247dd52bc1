// Dispatch and combine: tokens travel to the ranks of their experts and the outputs travel back (GShard,
// arXiv:2006.16668). Each one's backward pass is the other's exchange.
//
//   this rank's tokens (N, D)
//     │ gather by choice                     send order: (expert, shard, token, slot)
//   sent rows (N·K, D)  ── all-to-all ──►  received rows (R, D), by source rank, then expert
//     ▲ all-to-all back                        │ reorder
//   combine, in slot order                 expert rows (R, D): (expert, shard, token, slot) over the whole group
//
// Only kept choices travel; counts go first. The order of an expert's rows depends on shards, never on ranks.
// With one rank in the group the sent rows are the expert rows and nothing is copied twice.
#ifndef MOETRAIN_MODEL_DISPATCH_H
#define MOETRAIN_MODEL_DISPATCH_H

#include "model/work.h"

typedef struct Dispatch {
    int64_t max_rows;  // R at worst: what the buffers hold
    Tensor slot_row;   // (N, K) i32: where a choice lies among the sent rows, -1 when dropped
    Tensor row_choice; // (N·K) i32: the choice of each sent row
    Tensor counts;     // (E, S) i32: kept choices by expert and shard of this rank
    Tensor
        all_counts;   // (ep, E/ep, S) i32: what each rank of the group sends to this rank's experts
    Tensor to_expert; // (R) i32: received row of each expert row
    Tensor to_received;             // (R) i32: expert row of each received row
    Tensor send_rows, receive_rows; // (ep) i64
    Tensor offsets; // (E/ep · expert_parts + 1) i64: expert rows of each expert and gradient part
    int64_t sent, received; // rows of this micro-batch
    Tensor sent_buffer;     // (N·K, D) scratch, only with several ranks in the group
    Tensor received_buffer; // (R, D) scratch, likewise
} Dispatch;

void dispatch_layout(Dispatch *d, Work *work, Arena *activations);
// The travel buffers live in scratch while the caller's layout holds its mark.
void dispatch_layout_scratch(Dispatch *d, Work *work, Arena *scratch);

// Plans who sends what and exchanges the counts.   ids (N, K) i32   kept (N, K) u8
// Collective over expert_parallel.
void dispatch_plan(Dispatch *d, Work *work, Tensor ids, Tensor kept);
// The expert rows of this rank, for matmuls.
Segments dispatch_segments(const Dispatch *d, const Work *work);

// expert_rows (R, D) of the tokens x (N, D). Collective over expert_parallel.
void dispatch_tokens(Dispatch *d, Work *work, Tensor expert_rows, Tensor x);
// The same way for rows that are already in send order (N·K, D): the backward pass of combine. Several ranks in the
// group only. Collective over expert_parallel.
void dispatch_rows(Dispatch *d, Work *work, Tensor expert_rows, Tensor sent_rows, TrafficKind kind);
// The way back: expert_rows (R, D) to sent_rows (N·K, D). Several ranks in the group only. Collective over expert_parallel.
void dispatch_return(Dispatch *d, Work *work, Tensor sent_rows, Tensor expert_rows,
                     TrafficKind kind);

#endif
