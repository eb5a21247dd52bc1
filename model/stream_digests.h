// Checksums of what flows through the blocks, window by window: the residual stream behind the
// embedding and behind every half of a block, the losses, what the parts of a half make
// (digest_part), and on the way back the gradients of all these. A window is a sequence of the
// step, counted through all ranks and micro-batches, so it has the same checksums on any number of
// ranks: where they differ, so does what was computed (worker/watch/step_digests.h). Nothing here
// is collective.
//
// Nobody lists the places: a layer says what it has made where it has made it, under a name, and
// every micro-batch of every rank says the same in the same order.
#ifndef MOETRAIN_MODEL_STREAM_DIGESTS_H
#define MOETRAIN_MODEL_STREAM_DIGESTS_H

#include "model/work.h"

enum { DIGEST_NAME_BYTES = 64 };

typedef enum DigestPass { DIGEST_FORWARD, DIGEST_BACKWARD, DIGEST_PASSES } DigestPass;

// "embedding", "loss", "layers.3.mixer", "layers.3.mixer.heads", "mtp.0.loss"; backward the
// gradient of that.
typedef struct DigestPlace {
    char name[DIGEST_NAME_BYTES];
    DigestPass pass;
} DigestPlace;

typedef struct StreamDigests {
    // (places, micro-batches of the step, stream_windows, 2) i64, flat rows of 2; and their mirror
    // on the host.
    Tensor sums, host_sums;
    int64_t *one_row;              // (B) 1 each
    DigestPlace *places;           // those of the step, in the order in which they were first named
    int64_t count, next;           // of them; the first that this micro-batch has not named
    char scope[DIGEST_NAME_BYTES]; // what names begin with, and the pass
    DigestPass pass;
} StreamDigests;

// Places at most.
int64_t stream_places_most(const ModelConfig *config);
// Windows in a micro-batch of the rank that has most; the others leave room behind theirs.
int64_t stream_windows(const RankShape *shape);

// For a model that trains. one_row and places are in host_arena.
void stream_digests_layout(StreamDigests *digests, const Work *work, Arena *arena,
                           Arena *host_arena);

// ---- what model.c, blocks and layers say; all of it is nothing while work->digests is NULL ------

// A micro-batch begins; the first one forgets the step before.
void digest_micro_batch(const Work *work);
// What follows is of a half of a block, counted as model_blocks does, and its names begin with
// both; of DIGEST_MODEL with neither. half NULL: of the whole block.
enum { DIGEST_MODEL = -1 };
void digest_scope(const Work *work, DigestPass pass, int64_t block, const char *half);
// x: of this rank's windows, one after the other, whatever a window's part of x is; part NULL: the
// stream behind the half itself. Tensors that follow each other under one name are one sum. No
// data: nothing is added.
void digest_part(const Work *work, const char *part, Tensor x);

#endif
