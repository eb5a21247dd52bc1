// The shape of a model, as configured. launcher/config.c fills it from YAML; every dimension is a
// key of its own.
#ifndef MOETRAIN_MODEL_MODEL_CONFIG_H
#define MOETRAIN_MODEL_MODEL_CONFIG_H

#include "kernels/kernels.h"

typedef struct AttentionConfig {
    AttentionShape shape; // heads, kv_heads, d_head, d_value
    double rope_theta;
} AttentionConfig;

// An exact rational, so that ⌈1.1 · 1600 · 2 / 4⌉ is 880 and not 881.
typedef struct Rational {
    int64_t numerator, denominator; // denominator > 0
} Rational;

// Tokens that compete for an expert's capacity.
typedef enum RoutingGroup { GROUP_SHARD, GROUP_SEQUENCE } RoutingGroup;
extern const ChoiceTable ROUTING_GROUP_CHOICES;
// Set of tokens over which f and P of the load-balancing loss are taken.
typedef enum BalanceScope { BALANCE_SHARD, BALANCE_SEQUENCE, BALANCE_BATCH } BalanceScope;
extern const ChoiceTable BALANCE_SCOPE_CHOICES;

// What travels to the experts (dispatch.h).
typedef enum DispatchKind { DISPATCH_EXACT, DISPATCH_PADDED } DispatchKind;
extern const ChoiceTable DISPATCH_CHOICES;

typedef struct MoeConfig {
    int64_t experts; // E; 0: a dense model
    int64_t top_k;   // K
    int64_t d_ff;    // hidden width of one expert
    int64_t every;   // a MoE layer every n-th layer
    bool first;      // … starting with the first layer, instead of the n-th
    RouterRule router;
    Rational capacity_factor; // 0: dropless
    DispatchKind dispatch;
    int64_t min_capacity;
    DropPolicy drop;
    bool renormalize_after_drop;
    RoutingGroup routing_group;
    double balance_loss; // α
    BalanceScope balance_scope;
    double z_loss;               // c
    int64_t max_expert_replicas; // R: fixed gradient groups of shards
} MoeConfig;

typedef struct ModelConfig {
    int64_t vocab_size; // from the data
    int64_t d_model, layers, d_ff;
    bool tied_embeddings;
    Activation activation; // of dense feed-forwards and experts
    double norm_eps;
    double init_std;
    AttentionConfig attention;
    MoeConfig moe;
} ModelConfig;

// Whether layer i (from 0) has experts.
bool model_layer_is_moe(const ModelConfig *config, int64_t layer);
int64_t model_moe_layers(const ModelConfig *config);
// Capacity C of one expert for a routing group of G = `tokens`, or -1 when dropless:
// max(min_capacity, ⌈cf·K·G/E⌉), and G at most, since no expert can be chosen more often.
int64_t moe_capacity(const MoeConfig *config, int64_t tokens);

#endif
