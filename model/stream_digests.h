// Checksums of what flows through the blocks, window by window: the residual stream behind the
// embedding and behind every half of a block, the losses, and the stream's gradient on its way
// back. A window is a sequence of the step, counted through all ranks and micro-batches, so it has
// the same checksums on any number of ranks: where they differ, so does what was computed
// (worker/watch/step_digests.h). Nothing here is collective.
#ifndef MOETRAIN_MODEL_STREAM_DIGESTS_H
#define MOETRAIN_MODEL_STREAM_DIGESTS_H

#include "model/work.h"

enum { STREAM_PLACE_BYTES = 48 };

typedef struct StreamDigests {
    // (places, micro-batches of the step, stream_windows, 2) i64, flat rows of 2; and their mirror
    // on the host.
    Tensor sums, host_sums;
    int64_t *window_rows; // (B) T each
} StreamDigests;

// Places in the order of a step: forward and then backward. Blocks of multi-token prediction stand
// behind the layers.
int64_t stream_places(const ModelConfig *config);
int64_t stream_forward_places(const ModelConfig *config);
// Windows in a micro-batch of the rank that has most; the others leave room behind theirs.
int64_t stream_windows(const RankShape *shape);
// "embedding", "layers.3.mixer", "layers.3.feed_forward", "mtp.0.mixer", "loss"; backward the
// stream's gradient
// above all blocks, "output", and then in front of each half.
void stream_place_name(const ModelConfig *config, int64_t place, char name[STREAM_PLACE_BYTES]);

// For a model that trains. window_rows is in work->host.
void stream_digests_layout(StreamDigests *digests, const Work *work, Arena *arena,
                           Arena *host_arena);
// The first micro-batch begins.
void stream_digests_clear(const StreamDigests *digests, const Work *work);

// ---- what model.c and block.c say while work->digests is not NULL -------------------------------

// x (N, …): this rank's windows at that place, in this micro-batch; sums of several tensors at one
// place are one sum. No data: nothing is added.
void stream_digests_embedding(const Work *work, Tensor x);
void stream_digests_half(const Work *work, int64_t layer, int half, Tensor x);
void stream_digests_losses(const Work *work, Tensor losses);
void stream_digests_output_gradient(const Work *work, Tensor dx);
void stream_digests_half_gradient(const Work *work, int64_t layer, int half, Tensor dx);

#endif
