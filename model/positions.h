// How the model knows where in its sequence a token stands (attention.positions): attention alone
// does not see it. A rule acts on the tokens' vectors before the first block, or on the queries and
// keys of every attention.
//
// Layers may have different rules. One that acts on queries and keys acts in its layers; what acts
// on the tokens' vectors acts once, for the model.
//
// A new rule is a word in model_config.h and a row in positions.c.
#ifndef MOETRAIN_MODEL_POSITIONS_H
#define MOETRAIN_MODEL_POSITIONS_H

#include "kernels/choice.h"
#include "model/work.h"

// What the rules of a model keep; one for all layers. Constants live as long as parameters.
struct Positions {
    int64_t count; // of positions: rows of the longest sequence

    // rope: cos and sin of every position and frequency (count, pairs), and the host's mirrors
    Tensor cosines, sines, host_cosines, host_sines;

    // learned
    int table;            // parameter (count, D)
    Tensor ids, host_ids; // i32: the position of each row (N; one sequence: count); the mirror
    Tensor rows;          // (N, D) f32 scratch of the forward pass
    Tensor order;         // scratch of the backward pass
};

// What a rule has nothing to do for is NULL.
typedef struct PositionRule {
    Choice choice;
    bool of_model; // acts once: all layers have it, or none

    void (*declare)(Positions *positions, Work *work);
    // owner: a model of the same T and as many rows at least, whose constants are used; or NULL.
    void (*layout)(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                   Arena *scratch);
    void (*fill)(Positions *positions, Work *work); // the constants
    // Vectors x (N, D) f32 of tokens, in place: sequences of T rows, row r at first + r % T.
    void (*embed)(Positions *positions, Work *work, Tensor x, int64_t first);
    // The gradients of what embed has added, from its result's: dx (N, D) f32, which stays. first
    // was 0.
    void (*embed_backward)(Positions *positions, Work *work, Tensor dx);
    // Query and key heads of qkv (N, W) stored, likewise in place; back: the backward pass.
    void (*rotate)(const Positions *positions, Work *work, Tensor qkv, int64_t first, bool back);
} PositionRule;

extern const PositionRule POSITION_RULES[]; // by PositionKind
extern const ChoiceTable POSITION_CHOICES;

// Whether some layer has the rule.
bool positions_include(const ModelConfig *config, PositionKind kind);
// What the configuration's rules do, each where it does it.
void positions_declare(Positions *positions, Work *work);
void positions_layout(Positions *positions, const Positions *owner, Work *work, Arena *constants,
                      Arena *scratch);
void positions_fill(Positions *positions, Work *work);
void positions_embed(Positions *positions, Work *work, Tensor x, int64_t first);
void positions_embed_backward(Positions *positions, Work *work, Tensor dx);
// In a layer of this rule.
void positions_rotate(const Positions *positions, PositionKind kind, Work *work, Tensor qkv,
                      int64_t first, bool back);

#endif
