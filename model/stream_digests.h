// Checksums of what flows through the blocks, window by window: the residual stream behind the
// embedding and in front of every half of a block, the losses, what the parts of a half make
// (digest_part), and on the way back the gradients of all these. A window is a sequence of the
// step, counted through all ranks and micro-batches, so it has the same checksums on any number of
// ranks: where they differ, so does what was computed (worker/watch/step_digests.h). What arrives
// at experts has no windows there; it has a sum for each expert, in which the order of its rows
// does not count (digest_expert_rows), or, where a rank's experts all get the same rows, for each
// part of them (digest_rows_of_parts). Nothing here is collective.
//
// Nobody lists the places: a layer says what it has made where it has made it, under a name, and
// every micro-batch of every rank says the same in the same order.
#ifndef MOETRAIN_MODEL_STREAM_DIGESTS_H
#define MOETRAIN_MODEL_STREAM_DIGESTS_H

#include "model/placement.h"
#include "model/work.h"

enum { DIGEST_NAME_BYTES = 64 };

typedef enum DigestPass { DIGEST_FORWARD, DIGEST_BACKWARD, DIGEST_PASSES } DigestPass;

// "embedding", "output", "loss", "layers.3.mixer", "layers.3.mixer.heads", "mtp.0.loss"; backward
// the gradient of that.
typedef struct DigestPlace {
    char name[DIGEST_NAME_BYTES];
    DigestPass pass;
    const ExpertPlaces *experts; // of whose rows it is; NULL: of windows
    int64_t parts;               // of experts, each of which gets all rows; 0: of neither
    int64_t first;               // of its sums
} DigestPlace;

typedef struct StreamDigests {
    // (·, 2) i64, and their mirror on the host: of each place (micro-batches of the step,
    // stream_windows), or as many as the rank that has most of its experts.
    Tensor sums, host_sums;
    int64_t *run_rows;             // scratch: (B), or experts of a rank
    DigestPlace *places;           // those of the step, in the order in which they were first named
    int64_t count, next;           // of them; the first that this micro-batch has not named
    int64_t used;                  // sums
    char scope[DIGEST_NAME_BYTES]; // what names begin with, and the pass
    DigestPass pass;
} StreamDigests;

// Places at most, and sums of a model that is laid out.
int64_t stream_places_most(const ModelConfig *config);
int64_t stream_sums_most(const Work *work);
// Windows in a micro-batch of the rank that has most; the others leave room behind theirs.
int64_t stream_windows(const RankShape *shape);

// For a model that trains. run_rows and places are in host_arena.
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
// stream itself. Tensors that follow each other under one name are one sum. No data: nothing is
// added.
void digest_part(const Work *work, const char *part, Tensor x);
// The same of what gather_rows would make of x, with divisor 1.   index (·) i32
void digest_gathered(const Work *work, const char *part, Tensor x, Tensor index);
// x (rows, W): rows of some of this rank's experts, the first of which has place `first` here. The
// same in whatever order, and on however many ranks, the rows of an expert are.
void digest_expert_rows(const Work *work, const char *part, Tensor x, const ExpertPlaces *experts,
                        int64_t first, Segments rows);
// x (rows, W): rows that all of this rank's experts get, of which the ranks of a group have equal
// shares of `parts` parts; in whatever order.
void digest_rows_of_parts(const Work *work, const char *part, Tensor x, int64_t parts);

#endif
