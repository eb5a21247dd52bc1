// Tokens to vectors at the bottom, vectors to logits at the top. With tied embeddings both use one
// matrix.
#ifndef MOETRAIN_MODEL_EMBEDDING_H
#define MOETRAIN_MODEL_EMBEDDING_H

#include "model/linear.h"

typedef struct Embedding {
    int table;   // parameter (V, D)
    Linear head; // weight (V, D): the table when tied
    bool tied;
    Tensor capped; // (N, V) stored: logits, with model.logit_softcap while training
    Tensor order;  // scratch of the backward pass
} Embedding;

// A use of the table for tokens.
typedef struct Lookup {
    int share;     // of the table's gradient, or OWN_GRADIENT
    Tensor tokens; // (N) i32, borrowed from the batch
    Tensor out;    // (N, D)
} Lookup;

// A use of the head: shares of the gradients of its weight and bias, or OWN_GRADIENT.
typedef struct HeadUse {
    int weight, bias;
} HeadUse;

void embedding_declare(Embedding *embedding, Work *work);
void head_declare(Embedding *embedding,
                  Work *work); // after the blocks: rows stand in the order of the forward pass
void embedding_layout(Embedding *embedding, Work *work, Arena *activations, Arena *scratch);
void lookup_layout(Lookup *lookup, Work *work, Arena *activations);
//   tokens (N) i32, each below V; must stay until the backward pass. Returns out (N, D).
Tensor lookup_forward(Lookup *lookup, const Embedding *embedding, Work *work, Tensor tokens);
// dout is destroyed.
void lookup_backward(Lookup *lookup, const Embedding *embedding, Work *work, Tensor dout);
//   logits (N, V), x (N, D) stored; x becomes what the head multiplies, and stays until the
//   backward pass
void head_forward(Embedding *embedding, Work *work, Tensor logits, Tensor x);
//   dx (N, D), dlogits, x stored; dx overwritten, and may be f32 or x; dlogits destroyed
void head_backward(Embedding *embedding, Work *work, HeadUse use, Tensor dx, Tensor dlogits,
                   Tensor x);

#endif
