// The tokens that a masked language model is to find again (BERT, arXiv:1810.04805): they become
// targets of their own places, and all other places have none. Of ten that are drawn eight become
// the mask token, one any token, one stays.
//
// What is drawn depends on the seed and on the token's place in the training order, or in the
// validation file, alone: not on ranks, micro-batches or where a run went on. Each epoch draws anew
// (RoBERTa, arXiv:1907.11692). A token is drawn that has a successor in its document: the targets
// of a causal model say so, which take its place here.
#ifndef MOETRAIN_WORKER_DATA_MASKED_TOKENS_H
#define MOETRAIN_WORKER_DATA_MASKED_TOKENS_H

#include "worker/train_config.h"

typedef struct MaskRule {
    double share;       // chance of a token to be drawn; 0: the model is none
    int32_t mask_token; // behind the tokens of the vocabulary
    uint64_t seed;
    // Evaluation by pseudo-perplexity (Salazar et al., arXiv:1910.14659): of so many passes number
    // `pass` masks every token whose number has this remainder, so that each is masked once; 0: as
    // in training.
    int64_t passes, pass;
} MaskRule;

// As the configuration has it, for a vocabulary of so many tokens.
MaskRule mask_rule(const TrainConfig *config, int64_t vocabulary);

// Of `count` tokens whose first is number `first` of the stream. targets: a causal model's before,
// the masked model's after.
void mask_training_tokens(const MaskRule *rule, uint32_t epoch, int64_t first, int64_t count,
                          int32_t *tokens, int32_t *targets);
// Of the validation file's tokens from number `first` on.
void mask_evaluation_tokens(const MaskRule *rule, int64_t first, int64_t count, int32_t *tokens,
                            int32_t *targets);

#endif
