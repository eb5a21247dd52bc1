// The shape of a model, as configured. launcher/config.c fills it from YAML; every dimension is a
// key of its own.
#ifndef MOETRAIN_MODEL_MODEL_CONFIG_H
#define MOETRAIN_MODEL_MODEL_CONFIG_H

#include "kernels/kernels.h"
#include "kernels/option.h"

// How a token's position is known (positions.h).
typedef enum PositionKind {
    POSITIONS_ROPE,
    POSITIONS_LEARNED,
    POSITIONS_NONE,
    POSITIONS_ALIBI
} PositionKind;

// What the output of attention is multiplied by before its projection: σ of a linear function of
// the layer's input, for each head or for each of its channels.
typedef enum AttentionGate { GATE_NONE, GATE_HEAD, GATE_ELEMENT } AttentionGate;
extern const ChoiceTable ATTENTION_GATE_CHOICES;

// How RoPE's angles reach past the positions that a model was trained at (rope.h).
typedef enum RopeScaling {
    ROPE_AS_TRAINED,
    ROPE_LINEAR,
    ROPE_NTK,
    ROPE_YARN,
    ROPE_LLAMA3
} RopeScaling;
extern const ChoiceTable ROPE_SCALING_CHOICES;
typedef struct RopeConfig {
    double fraction; // of d_head, that is turned; 0: all
    RopeScaling scaling;
    double factor; // of the longer context
    int64_t original_context;
    double beta_fast, beta_slow; // turns over the original context
    bool truncate;               // of YaRN: between whole pairs
    double attention_factor;     // of cosines and sines; 0: 1
} RopeConfig;

// A value of each layer: that of layer i (from 0) is values[i % count], so that one value is every
// layer's and a short list repeats. count 0 is what nobody has given: values[0] for all.
enum { PER_LAYER_MAX = 1024 };
typedef struct PerLayer {
    int64_t count;
    int32_t values[PER_LAYER_MAX];
} PerLayer;
static inline int64_t layer_value(const PerLayer *list, int64_t layer) {
    return list->values[list->count > 1 ? layer % list->count : 0];
}
void per_layer_shorten(PerLayer *list); // [8, 16, 8, 16] to [8, 16], so that equal ones look equal

typedef struct AttentionConfig {
    AttentionShape shape; // heads, kv_heads, d_head, d_value
    double rope_theta;
    PerLayer positions; // PositionKind
    AttentionSoftmax softmax;
    PerLayer window; // keys that a query sees; 0: all before it
    QkNormKind qk_norm;
    double scale; // of the scores; 0: d_head^-0.5
    RopeConfig rope;
    double softcap; // 0: none
    AttentionGate gate;
    double dropout;  // of probabilities, while training
    bool max_logits; // whether the largest score of each head is told
    int64_t d_rope;  // channels of a head that RoPE turns, its first; 0: as rope.fraction says
    int64_t q_rank, kv_rank; // of latent attention; q_rank 0: queries have no latent
    int64_t experts, top_k;  // of moa; of each head of switchhead
    double qk_clip;          // the largest score that a step may leave (qk_clip.h); 0: any
} AttentionConfig;

// Tokens that compete for an expert's capacity.
typedef enum RoutingGroup { GROUP_SHARD, GROUP_SEQUENCE, GROUP_DOCUMENT } RoutingGroup;
extern const ChoiceTable ROUTING_GROUP_CHOICES;
// Set of tokens over which f of a load-balancing loss is taken.
typedef enum BalanceScope {
    BALANCE_SHARD,
    BALANCE_SEQUENCE,
    BALANCE_BATCH,    // a micro-batch, on all ranks
    BALANCE_STEP,     // the micro-batches of the step so far, on all ranks
    BALANCE_DOCUMENT, // of a sequence, where they are masked
} BalanceScope;
extern const ChoiceTable BALANCE_SCOPE_CHOICES;
// What is made even.
typedef enum BalanceKind {
    BALANCE_LOAD,       // choices: E·Σ f·P (Switch)
    BALANCE_IMPORTANCE, // gate weights: CV² of their sums (Shazeer et al. 2017)
    BALANCE_NOISY_LOAD, // choices, smoothly: CV² of what noise makes probable (appendix A)
} BalanceKind;
enum { BALANCE_KIND_COUNT = BALANCE_NOISY_LOAD + 1 };
extern const ChoiceTable BALANCE_KIND_CHOICES;
// A balance loss. A list has each pair of kind and scope once; where it is empty, the load of
// shards is measured alone.
typedef struct BalanceTerm {
    int kind, scope; // BalanceKind, BalanceScope
    double factor;   // α
} BalanceTerm;
enum { BALANCE_TERMS_MAX = 8 };
typedef struct BalanceTerms {
    int64_t count;
    BalanceTerm maps[BALANCE_TERMS_MAX];
} BalanceTerms;

// How the bias of the choice follows the load.
typedef enum BiasUpdate {
    BIAS_UPDATE_NONE,
    BIAS_UPDATE_SIGN,
    BIAS_UPDATE_PROPORTIONAL,
    BIAS_UPDATE_QUANTILE,
} BiasUpdate;
extern const ChoiceTable BIAS_UPDATE_CHOICES;

// Whether what travels between ranks is compared on both sides (exchange_check.h).
typedef enum ExchangeChecks {
    CHECK_EXCHANGES_AUTO,
    CHECK_EXCHANGES_ON,
    CHECK_EXCHANGES_OFF,
} ExchangeChecks;
extern const ChoiceTable EXCHANGE_CHECKS_CHOICES;

// What travels to the experts (dispatch.h).
typedef enum DispatchKind { DISPATCH_EXACT, DISPATCH_PADDED } DispatchKind;
extern const ChoiceTable DISPATCH_CHOICES;

// Who chooses experts in training instead of the router, to measure (forced_routing.c).
typedef enum ForceKind {
    FORCE_NONE,
    FORCE_BALANCED,
    FORCE_SKEWED,
    FORCE_HOT_RANK,
    FORCE_RANDOM
} ForceKind;
extern const ChoiceTable FORCE_CHOICES;

// What moe.dropout drops (experts.h).
typedef enum DropoutPlace { DROPOUT_HIDDEN, DROPOUT_OUTPUT } DropoutPlace;
extern const ChoiceTable DROPOUT_PLACE_CHOICES;

// How the capacity cf·K·G/E becomes whole, as other systems do it.
typedef enum CapacityRounding {
    CAPACITY_CEIL,             // upwards, of the exact product
    CAPACITY_FLOOR,            // downwards, in double
    CAPACITY_CEIL_F64,         // upwards, in double: 881 where the product is 880
    CAPACITY_CEIL_F32,         // upwards, in float
    CAPACITY_FLOOR_PER_CHOICE, // K · ⌊cf · ⌈G/E⌉⌋, in double
} CapacityRounding;
extern const ChoiceTable CAPACITY_ROUNDING_CHOICES;
// What f of a load-balancing loss is a share of, and so what it sums to.
typedef enum BalanceShare { SHARE_OF_CHOICES, SHARE_OF_TOKENS } BalanceShare;
extern const ChoiceTable BALANCE_SHARE_CHOICES;
// Which choices it counts.
typedef enum BalanceChoices { BALANCE_ALL_CHOICES, BALANCE_FIRST_CHOICES } BalanceChoices;
extern const ChoiceTable BALANCE_CHOICES_CHOICES;

// What a zero-computation expert makes of its input x (zero_experts.h).
typedef enum ZeroKind { ZERO_IDENTITY, ZERO_NULL } ZeroKind;
extern const ChoiceTable ZERO_CHOICES;

typedef struct MoeConfig {
    PerLayer experts; // E; 0: a dense layer
    PerLayer top_k;   // K
    PerLayer d_ff;    // hidden width of one expert
    int64_t every;    // a MoE layer every n-th layer
    bool first;       // … starting with the first layer, instead of the n-th
    RouterRule router;
    Rational capacity_factor; // 0: dropless
    DispatchKind dispatch;
    int64_t min_capacity;
    DropPolicy drop;
    bool renormalize_after_drop;
    RoutingGroup routing_group;
    double balance_loss; // what `balance` is when it isn't given, as balance_scope
    BiasUpdate bias_update;
    double bias_rate; // u
    BalanceScope balance_scope;
    BalanceTerms balance;
    double bias_ema;                      // of quantile
    int64_t bias_steps, bias_decay_steps; // the bias's schedule; 0: no end
    CapacityRounding capacity_rounding;
    BalanceShare balance_share;
    BalanceChoices balance_choices;
    double z_loss;               // c
    int64_t max_expert_replicas; // R: fixed gradient groups of shards
    int64_t hash_layers;         // first layers that are routed by token id
    ForceKind force;
    double force_sigma;
    int64_t hot_experts;  // of FORCE_HOT_RANK; 0: moe_hot_experts says
    bool allow_noncausal; // of EXPERT_CHOICE: a token's experts depend on later tokens
    double dropout;       // of experts, while training; 0: none
    DropoutPlace dropout_at;
    bool noise_in_evaluation; // NOISY_TOPK
    double jitter;            // of the router's input, while training; 0: none
    int64_t sinkhorn_iterations;
    double router_init_scale;            // of init_std
    bool gate_bias;                      // of the router\'s logits
    int64_t shared_experts, shared_d_ff; // width 0: that of as many experts
    bool shared_gate;
    int64_t latent_width; // L
    int64_t expert_slots; // P, of soft_moe
    int64_t zero_experts; // Z
    ZeroKind zero_kind;
} MoeConfig;

// What fills the halves of a block; layer_kinds.c has the lists.
typedef enum MixerKind {
    MIXER_ATTENTION,
    MIXER_LATENT_ATTENTION,
    MIXER_MOA,
    MIXER_SWITCHHEAD
} MixerKind;
typedef enum FeedForwardKind {
    FEED_FORWARD_DENSE,
    FEED_FORWARD_MOE,
    FEED_FORWARD_PEER,
    FEED_FORWARD_PR_MOE,
    FEED_FORWARD_LATENT_MOE,
    FEED_FORWARD_SOFT_MOE
} FeedForwardKind;

// Of layers of very many experts of one neuron (peer.h).
typedef enum PeerQueryNorm { PEER_QUERIES_PLAIN, PEER_QUERIES_BATCH } PeerQueryNorm;
extern const ChoiceTable PEER_QUERY_NORM_CHOICES;
typedef struct PeerConfig {
    int64_t keys;         // n: there are n² experts
    int64_t heads, top_k; // experts that work on a token: heads · top_k
    int64_t d_key;        // width of one half of a key
    PeerQueryNorm query_norm;
    Activation activation;
} PeerConfig;

// Which linear layers have a bias. The router never has.
typedef enum BiasKind {
    BIAS_NONE,
    BIAS_QKV,
    BIAS_ATTENTION,
    BIAS_LAYERS,
    BIAS_HEAD,
    BIAS_NO_QKV
} BiasKind;
typedef struct BiasFacts {
    Choice choice;
    bool qkv, output;  // of attention
    bool feed_forward; // dense ones and experts
    bool head;
} BiasFacts;
extern const BiasFacts BIASES[];
extern const ChoiceTable BIAS_CHOICES;

// What the model is trained for (loss.h).
typedef enum ObjectiveKind { OBJECTIVE_CAUSAL, OBJECTIVE_MASKED } ObjectiveKind;

// The system whose rules are the defaults (compat_options.c).
typedef enum Compat {
    COMPAT_NONE,
    COMPAT_MEGATRON,
    COMPAT_GSHARD,
    COMPAT_SWITCH,
    COMPAT_DEEPSPEED,
    COMPAT_TUTEL,
    COMPAT_MIXTRAL,
    COMPAT_OLMOE,
    COMPAT_QWEN3,
    COMPAT_DEEPSEEK_V3,
    COMPAT_GPT_OSS,
} Compat;
extern const ChoiceTable COMPAT_CHOICES;
// The default of a key in that system; NULL: that of the key's row.
const char *compat_default(Compat compat, const char *key);

// Where a block's norms stand (block.h).
typedef enum NormPlace { NORM_PRE, NORM_POST, NORM_SANDWICH } NormPlace;

// How linear weights begin (initialization.h), and those back into the residual stream.
typedef enum WeightInit { WEIGHTS_NORMAL, WEIGHTS_KAIMING, WEIGHTS_XAVIER } WeightInit;
typedef enum InitDepth { DEPTH_SCALED, DEPTH_EQUAL } InitDepth;
extern const ChoiceTable WEIGHT_INIT_CHOICES, INIT_DEPTH_CHOICES;

// Multi-token prediction (multi_token_prediction.h).
enum { MTP_LAYERS_MAX = 8 };
typedef struct MtpConfig {
    int64_t layers;     // D, modules
    double loss_factor; // λ
} MtpConfig;

typedef struct ModelConfig {
    Compat compat;
    int64_t vocab_size; // from the data (model_vocab_size)
    int64_t d_model, layers, d_ff;
    PerLayer mixer;        // MixerKind; count 0: attention
    PerLayer feed_forward; // FeedForwardKind; count 0: what moe.experts, every and first say
    ObjectiveKind objective;
    bool tied_embeddings;
    BiasKind bias;
    Activation activation; // of dense feed-forwards and experts
    NormKind norm;
    double norm_eps;
    double init_std;
    AttentionConfig attention;
    MoeConfig moe;
    PeerConfig peer;
    MtpConfig mtp;
    double dropout; // of attention's probabilities and branches, while training; 0: none
    double embedding_dropout;
    NormPlace norm_place;
    WeightInit init;
    InitDepth init_depth;
    double embedding_init_std; // 0: init_std
    int64_t mup_base_width;    // 0: no muP
    int64_t mup_base_d_head;
    double embedding_scale; // 0: 1
    double logit_scale;     // 0: 1
    double logit_softcap;   // 0: none
} ModelConfig;

// Keys that fill it.
extern const OptionSection MODEL_OPTIONS, ATTENTION_OPTIONS, LATENT_ATTENTION_OPTIONS,
    ATTENTION_EXPERTS_OPTIONS, MOE_OPTIONS, BALANCE_OPTIONS, CHOOSING_OPTIONS, ZERO_EXPERTS_OPTIONS,
    SOFT_MOE_OPTIONS, PEER_OPTIONS, MTP_OPTIONS, COMPAT_OPTIONS;

// The sizes of a MoE layer.
typedef struct MoeShape {
    int64_t experts, top_k, d_ff; // E, K, hidden width of one expert
    int64_t zero;                 // Z zero-computation experts, numbered from E on
    int64_t scored;               // E + Z: what the router has logits of
    int64_t slots; // choices of a token that are listed: K, or all E of expert choice
    bool residual; // of PR-MoE: a dense feed-forward is mixed in (shared_experts.h)
    bool latent;   // experts have a space of their own (latent_space.h)
    int64_t width; // of what experts read and write: D, or L of that space
} MoeShape;

// The standard deviation of initial values of projections back into the residual stream: smaller,
// so that the stream's variance does not grow with depth (GPT-2); model.init_depth says whether.
double model_residual_std(const ModelConfig *config);
// Blocks of a model that trains, numbered: its layers, and behind them those of multi-token
// prediction, which are as the last layer. What follows takes such a number for a layer.
int64_t model_blocks(const ModelConfig *config);
// Whether moe.every and moe.first count the layer among those that have experts.
bool moe_is_due(const MoeConfig *config, int64_t layer);
// What a vocabulary of so many tokens makes of vocab_size: a masked model has one more, the mask
// token, behind them.
int64_t model_vocab_size(const ModelConfig *config, int64_t tokens);
// The configuration of a model whose only layer is that one.
void model_config_of_layer(ModelConfig *one, const ModelConfig *config, int64_t layer);
PositionKind model_positions(const ModelConfig *config, int64_t layer);
int64_t model_window(const ModelConfig *config, int64_t layer);
double attention_scale(const AttentionConfig *config);
int64_t attention_d_rope(const AttentionConfig *config);
// Whether some layer has the mixer.
bool model_has_mixer(const ModelConfig *config, MixerKind kind);
MixerKind model_mixer(const ModelConfig *config, int64_t layer);
FeedForwardKind model_feed_forward(const ModelConfig *config, int64_t layer);
// What moe.experts, moe.every and moe.first say of a layer, were there so many.
FeedForwardKind moe_feed_forward(const MoeConfig *moe, int64_t layer);
// Whether some layer is of that kind.
bool model_has_feed_forward(const ModelConfig *config, FeedForwardKind kind);
// Whether a router chooses among experts in the layer, of whatever kind that is.
bool model_is_routed(const ModelConfig *config, int64_t layer);
MoeShape moe_shape(const ModelConfig *config, int64_t layer);
// Whether the layer's experts are chosen by the token's id, and whether it has a gate at all.
bool moe_is_hashed(const MoeConfig *config, int64_t layer);
bool moe_has_gate(const MoeConfig *config);
// The experts that get all the work of FORCE_HOT_RANK: the first of the layer's.
int64_t moe_hot_experts(const MoeConfig *config, MoeShape shape);
// Capacity C of one of E experts for a routing group of G = `tokens`, or -1 when dropless:
// max(min_capacity, cf·K·G/(E + Z) rounded as capacity_rounding says), and G at most, since no
// expert can be chosen more often: cf is over the load when all are chosen equally often. With
// expert choice, where it is what an expert takes, cf is 1 when it is 0.
int64_t moe_capacity(const MoeConfig *config, MoeShape shape, int64_t tokens);
// What a count of choices is a share of, over so many tokens.
int64_t balance_denominator(const MoeConfig *config, MoeShape shape, int64_t tokens);

#endif
