// Dispatch and combine: tokens travel to the ranks of their experts and the outputs travel back
// (GShard, arXiv:2006.16668). Each one's backward pass is the other's exchange. Experts are
// numbered by their places here (placement.h).
//
//   this rank's tokens (N, W)
//     │ gather by choice                     send order: (expert, shard, token, slot)
//   sent rows (M, W)    ── all-to-all ──►  received rows (R, W), by chunk, source rank, expert
//     ▲ all-to-all back                        │ reorder
//   combine, in slot order   expert rows (R, W): (expert, shard, token, slot) over the whole group
//
// Exact: only kept choices travel; counts go first, and the host waits for them. Padded: every
// expert takes its whole capacity from every shard, with zeros where choices are missing, so that
// all sizes are known beforehand and the host waits for nothing. The order of an expert's rows
// depends on shards, never on ranks.
//
// Rows travel in chunks of experts: while one chunk's experts compute, the next chunk is on its way
// (work->shape.chunks). With one rank in the group the sent rows are the expert rows and nothing is
// copied twice.
#ifndef MOETRAIN_MODEL_DISPATCH_H
#define MOETRAIN_MODEL_DISPATCH_H

#include "model/work.h"

enum { CHUNKS_MAX = 16 }; // parallel.exchange_chunks at most

// What travels where. A model may have several of different shapes: it knows nothing of what an
// expert is.
typedef struct DispatchShape {
    int64_t layer;              // of the model, under which its exchanges are checked
    int64_t tokens;             // of this rank: rows that are dispatched, N where it is tokens
    const ExpertPlaces *places; // of the experts that share the rows, on all ranks together
    int64_t K;                  // choices of a token
    int64_t choosable; // what a token chooses among: experts, and choices that do not travel
    int64_t groups;    // routing groups of this rank's tokens
    int64_t capacity;  // of an expert in a routing group; -1: as many as choose it
    bool padded;       // needs a capacity
} DispatchShape;

typedef struct Dispatch {
    DispatchShape shape;
    ExchangeCut cut;     // experts and shards of the group
    int64_t chunks;      // of the exchange; 1 with one rank in the group
    int64_t padded_rows; // rows of each (expert, shard) when padded; -1: as many as there are
    int64_t max_rows;    // R at worst: what the buffers hold
    int64_t max_sent;    // M: all rows that are sent when padded, at most when exact

    // The present micro-batch, kept for its backward pass.
    Tensor slot_row;   // (N, K) i32: where a choice lies among the sent rows, -1 when dropped
    Tensor row_choice; // (M) i32: the choice of each sent row, -1 for padding
    Tensor counts;     // (E, S) i32: kept choices by expert and shard of this rank
    Tensor all_counts; // i32: what each rank sends to this rank's experts (exchange_plan)
    Tensor count_runs; // (2, ep) i64 on the host: of `counts` to each rank, of all_counts from it
    // offsets, send_rows and receive_rows of `plan` in one i64 block, for one copy to the host; and
    // the host's mirror
    Tensor totals, host_totals;
    ExchangePlan plan;      // on the device
    ExchangePlan host_plan; // the three parts of it that the host knows too
    Tensor send_first;      // (chunks, ep) i64 on the host: first sent row of each
    int64_t sent, received; // rows
    // padded: the plan is the same until the memory was used otherwise (work->memory_uses); -1:
    // none
    int64_t planned_for;
} Dispatch;

void dispatch_layout(Dispatch *d, DispatchShape shape, Work *work, Arena *activations);
// Whether what has been laid out can be numbered; false with exit 2 and the fix. Asked after
// measuring. Not collective.
bool dispatch_check(const Dispatch *d, Error *err);
// Bytes of the counts that this rank sends in a step, added to sent_bytes.
void dispatch_cost(const Dispatch *d, const Work *work, double sent_bytes[TRAFFIC_KINDS]);

// Plans who sends what and exchanges the counts. Collective over expert_parallel.
//   ids (N, K) i32: of experts   kept (N, K) u8
void dispatch_plan(Dispatch *d, Work *work, Tensor ids, Tensor kept);

// One chunk: a run of this rank's experts, and their rows.
typedef struct ExpertChunk {
    int64_t first_expert; // of this rank's
    Segments rows;        // expert rows of its experts, for matmuls
} ExpertChunk;
ExpertChunk dispatch_chunk(const Dispatch *d, const Work *work, int64_t chunk);

// The rows (M, W) that are sent of x: (N, W), or (N·j, W), of which each row is that of K/j of a
// token's choices.
void dispatch_gather(const Dispatch *d, Work *work, Tensor sent_rows, Tensor x);
// Several ranks in the group only, chunk by chunk, the same chunks on every rank; rows of any width
// W by the same plan. Collective over expert_parallel. The way there: rows in send order (M, W) set
// out, arrive in `received` (R, W), and are put into their expert's order (R, W).
Pending dispatch_send(Dispatch *d, Work *work, int64_t chunk, Tensor received, Tensor sent_rows,
                      TrafficKind kind);
void dispatch_arrive(Dispatch *d, Work *work, int64_t chunk, Pending *pending, Tensor expert_rows,
                     Tensor received, TrafficKind kind);
// The way back: a chunk's expert rows (R, W) set out from `received` for their places among
// sent_rows (M, W), and are there.
Pending dispatch_return(Dispatch *d, Work *work, int64_t chunk, Tensor sent_rows, Tensor received,
                        Tensor expert_rows, TrafficKind kind);
void dispatch_returned(Dispatch *d, Work *work, int64_t chunk, Pending *pending, Tensor sent_rows,
                       TrafficKind kind);

#endif
