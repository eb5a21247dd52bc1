// A model that reads a text and says what comes next. The keys and values of what it has read stay
// in a cache; new tokens are read many at a time, or one, which changes no bit: neither on the CPU
// (kernels/cpu/row_products.h) nor, with train.reproducible: ranks, on a GPU.
#ifndef MOETRAIN_WORKER_GENERATION_DECODER_H
#define MOETRAIN_WORKER_GENERATION_DECODER_H

#include "model/routing_tape.h"
#include "worker/restore.h"

enum { DECODER_WIDTHS = 4 };

typedef struct Decoder {
    Restored restored;
    int64_t context;
    WeightKind weights; // how it holds them
    // Cuts of the model, for so many tokens at a time each, ascending; the widest one is `restored`
    // itself, the others lie beside it.
    Model beside[DECODER_WIDTHS - 1], *models[DECODER_WIDTHS];
    int64_t widths[DECODER_WIDTHS];
    int count;
    KvCache cache;
    int64_t cached; // tokens whose keys and values are in the cache
    bool recompute; // the whole window again for each token, instead of the cache
    Arena arena, host_arena;
    Tensor tokens, targets, host_tokens, host_targets; // (widest) i32; the host's mirrors
    Model *last;                                       // that has read last
    int64_t last_row;                                  // of its logits, those of the next token
    // After a pass over tokens [first, first + count) of the window; NULL: nobody asks.
    void (*passed)(void *context, int64_t first, int64_t count);
    void *listener; // its context
} Decoder;

// Loads the checkpoint's model, of which every rank reads a text of its own; its experts are
// sharded as in training. False with exit 2 where such a model does not generate, or as
// restore_model. Needs decoder_close. Collective over all ranks.
bool decoder_open(Decoder *d, const TrainConfig *config, Session *session,
                  const char *checkpoint_path, WeightKind weights, bool recompute, Error *err);
void decoder_close(Decoder *d); // legal on a zeroed one

// From here on passes fill the tape, with room for the widest, and `passed` is called after each.
void decoder_listen(Decoder *d, const RoutingTape *tape,
                    void (*passed)(void *context, int64_t first, int64_t count), void *context);

// Of what has been read only the first `tokens` stand.
void decoder_forget(Decoder *d, int64_t tokens);
// Logits (V) for the token after a window of `count` tokens, from 1 to `context`; borrowed until
// the next call. Its first tokens are those that have been read. Collective over all ranks.
const float *decoder_read(Decoder *d, const int32_t *window, int64_t count);
// The loss of `token` in nats after what decoder_read has read: minus its log-probability. Not
// collective.
double decoder_loss(Decoder *d, int32_t token);

#endif
