// Whether two sources of a model's weights compute the same: a fixed text of token numbers goes
// through this program's own forward pass with the weights of each. The layers take their turns in
// the memory of one, so that the embedding, the head and one layer are all that is in memory.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_EXPORT_PROOF_H
#define MOETRAIN_WORKER_HUGGINGFACE_EXPORT_PROOF_H

#include "worker/huggingface/weight_source.h"
#include "worker/session.h"

typedef struct Proof {
    int64_t tokens;  // of the text
    double largest;  // |difference| of two logits
    double of_logit; // the largest |logit| of the first source
} Proof;

// config: the model, as both sources' map has it. Exit 4 or 5 where weights cannot be read.
// Collective over all ranks, of which there is one.
bool export_proof(const ModelConfig *config, int64_t context, const WeightSource *first,
                  const WeightSource *second, Session *session, Proof *proof, Error *err);

#endif
