// Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2): modules behind a causal
// model's last layer, of which each predicts one token further on. From position i module k, from
// 0, takes the token k + 1 places on and predicts the one behind it:
//
//   h'_k = M_k [norm(Emb(t_i+k+1)); norm(h_k-1)]    h_-1: the model's stream behind its last layer
//   h_k  = block_k(h'_k)                            a block like the model's last layer
//   loss += λ / D · mean over targets of -ln head(norm(h_k))[t_i+k+2]
//
// with the model's own embedding and head, whose gradients take in a share of each module. A
// position whose window, or document, has no such token has no loss; the mean is over as many
// targets as the model's own loss.
//
// Modules are trained with the model and have no part in evaluation and generation. Their blocks
// are numbered behind the layers, under which numbers statistics and routing know them.
#ifndef MOETRAIN_MODEL_MULTI_TOKEN_PREDICTION_H
#define MOETRAIN_MODEL_MULTI_TOKEN_PREDICTION_H

#include "model/block.h"
#include "model/embedding.h"
#include "model/gradients.h"

typedef struct MtpModule {
    Lookup tokens;
    Norm token_norm, stream_norm, final_norm;
    Linear join;  // M (D, 2·D)
    Tensor both;  // (N, 2·D) stored: what M multiplies
    Tensor input; // (N, D) f32: the block's stream
    Block block;
    HeadUse head;
    int nats, guesses; // columns
} MtpModule;

typedef struct Mtp {
    int64_t count;
    MtpModule *modules;
    Tensor losses;        // (N) f32 of one module
    Tensor dx;            // (N, D) f32 scratch: gradient of a module's stream
    Tensor half, dtokens; // (N, D) stored and f32 scratch
    Tensor dboth;         // (N, 2·D) stored scratch
} Mtp;

// What the modules share with the model in a pass.
typedef struct MtpShared {
    Embedding *embedding;
    Gradients *gradients;
    Statistics *stats;
    Tensor logits; // (N, V) stored, which nobody else needs any more
} MtpShared;

// Behind all other rows of the table, so that a model without modules has the same ones before.
// Needs mtp_free.
void mtp_declare(Mtp *mtp, Work *work, const Embedding *embedding, Gradients *gradients);
void mtp_free(Mtp *mtp); // legal on a zeroed struct
// For a model that trains: scratch beside which the embedding and norms have theirs, and the rest.
void mtp_layout_scratch(Mtp *mtp, Work *work, Arena *scratch);
void mtp_layout(Mtp *mtp, Work *work, Statistics *stats, Arena *activations, Arena *scratch);
bool mtp_check(const Mtp *mtp, const Work *work, Error *err); // as block_check
void mtp_bound(const ModelConfig *config, LayerBound *bound); // without the blocks' layers
void mtp_cost(const Mtp *mtp, const Work *work, LayerCost *cost);
size_t mtp_bytes(const Mtp *mtp); // of the host's memory
// Both passes of all modules: losses into the statistics, gradients of all that is theirs, and
// dx (N, D) f32 += the gradient of the stream (N, D) f32, which has no branch. work->step says
// which tokens are ahead. Collective where blocks are, and over world.
void mtp_train(Mtp *mtp, Work *work, MtpShared shared, Tensor stream, Tensor dx);
void mtp_after_step(Mtp *mtp, Work *work, const Statistics *stats); // as block_after_step

#endif
