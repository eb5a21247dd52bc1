// The gradient of the whole loss for every kind of attention, feed-forward, router and embedding.
#include "gradient_check.h"

#include <stdio.h>
#include <stdlib.h>

enum { CASES_MAX = 128 };
static GradientCase cases[CASES_MAX];
static int count;

// Adds a case of the tiny model, whose `model` the caller then changes.
static ModelConfig *add_case(const char *sentence) {
    CHECK(count < CASES_MAX, "more than %d cases", CASES_MAX);
    GradientCase *added = &cases[count++];
    *added = (GradientCase){
        .sentence = sentence, .model = tiny_model(), .micro_batches = 1, .shards = 2};
    return &added->model;
}

static void add_dense_cases(void) {
    ModelConfig *model = add_case("a dense model with SwiGLU and grouped-query attention");
    model->moe.experts.values[0] = 0;
    model = add_case("a dense model with ReLU, multi-head attention and an untied head");
    model->moe.experts.values[0] = 0;
    model->activation = RELU;
    model->attention.shape = (AttentionShape){2, 2, 6, 6};
    model->tied_embeddings = false;
    model = add_case("multi-query attention with wider values than keys");
    model->moe.experts.values[0] = 0;
    model->attention.shape = (AttentionShape){4, 1, 2, 5};
    model = add_case("a single layer with one head and narrower values");
    model->moe.experts.values[0] = 0;
    model->layers = 1;
    model->attention.shape = (AttentionShape){1, 1, 8, 3};
    model->tied_embeddings = false;
}

// Every activation, of a dense layer and of experts.
static void add_activation_cases(void) {
    static char sentences[8][64];
    CHECK(ACTIVATION_CHOICES.count <= 8, "%d activations", ACTIVATION_CHOICES.count);
    for (int kind = 0; kind < ACTIVATION_CHOICES.count; kind++) {
        snprintf(sentences[kind], sizeof sentences[kind], "a dense layer and experts of %s",
                 choice_row(ACTIVATION_CHOICES, kind)->word);
        ModelConfig *model = add_case(sentences[kind]);
        model->activation = (Activation)kind;
        model->moe.every = 2;
        model->moe.first = false;
    }
}

static void add_norm_cases(void) {
    static char sentences[4][64];
    CHECK(NORM_CHOICES.count <= 4, "%d norms", NORM_CHOICES.count);
    for (int kind = 0; kind < NORM_CHOICES.count; kind++) {
        snprintf(sentences[kind], sizeof sentences[kind], "layers with %s",
                 choice_row(NORM_CHOICES, kind)->word);
        add_case(sentences[kind])->norm = (NormKind)kind;
    }
}

static void add_norm_place_cases(void) {
    ModelConfig *model = add_case("norms after the sum, with dropout");
    model->norm_place = NORM_POST;
    model->dropout = 0.1;
    model = add_case("norms after the sum, LayerNorm, dense and untied");
    model->norm_place = NORM_POST;
    model->norm = LAYERNORM;
    model->moe.experts.values[0] = 0;
    model->tied_embeddings = false;
    model = add_case("norms before and after each layer, with dropout");
    model->norm_place = NORM_SANDWICH;
    model->dropout = 0.1;
}

static void add_scale_cases(void) {
    ModelConfig *model = add_case("scaled embeddings and logits, tied, learned positions");
    model->embedding_scale = 1.5;
    model->logit_scale = 0.7;
    model->attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    model = add_case("scaled and capped logits of an untied head, norms after the sum");
    model->norm_place = NORM_POST;
    model->logit_scale = 2;
    model->logit_softcap = 3;
    model->tied_embeddings = false;
    model = add_case("capped logits of a tied head with a bias");
    model->logit_softcap = 2;
    model->bias = BIAS_HEAD;
}

static void add_position_cases(void) {
    ModelConfig *model = add_case("learned positions");
    model->attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    model = add_case("learned positions with an untied head, odd heads and two micro-batches");
    model->attention = (AttentionConfig){{2, 1, 3, 5}, .positions = {1, {POSITIONS_LEARNED}}};
    model->tied_embeddings = false;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
    model = add_case("no positions");
    model->attention = (AttentionConfig){{2, 2, 5, 4}, .positions = {1, {POSITIONS_NONE}}};
}

static void add_rope_cases(void) {
    ModelConfig *model =
        add_case("YaRN of a part of each head, in every second layer, and a scale");
    model->layers = 3;
    model->attention.shape = (AttentionShape){2, 1, 7, 4};
    model->attention.positions = (PerLayer){2, {POSITIONS_ROPE, POSITIONS_NONE}};
    model->attention.rope = (RopeConfig){.fraction = 0.6,
                                         .scaling = ROPE_YARN,
                                         .truncate = true,
                                         .factor = 4,
                                         .original_context = 8,
                                         .beta_fast = 32,
                                         .beta_slow = 1,
                                         .attention_factor = 1.2};
    model->attention.scale = 0.7;
}

static void add_softmax_cases(void) {
    ModelConfig *model = add_case("one more in the softmax's denominator");
    model->attention.softmax = SOFTMAX_OFF_BY_ONE;
    model = add_case("a sink for each query head, two micro-batches");
    model->attention.softmax = SOFTMAX_SINK;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_score_cases(void) {
    ModelConfig *model = add_case("ALiBi, capped scores and a gate of each head");
    model->attention.positions = (PerLayer){1, {POSITIONS_ALIBI}};
    model->attention.softcap = 1.5;
    model->attention.gate = GATE_HEAD;
    model = add_case(
        "gates of channels, dropout of attention, capped scores, sinks, two micro-batches");
    model->attention.gate = GATE_ELEMENT;
    model->attention.dropout = 0.3;
    model->attention.softcap = 2;
    model->attention.softmax = SOFTMAX_SINK;
    model->attention.max_logits = true;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_query_key_cases(void) {
    ModelConfig *model = add_case("queries and keys normalised head by head");
    model->attention.qk_norm = QK_NORM_HEAD;
    model = add_case("queries and keys normalised as a whole, two micro-batches");
    model->attention.qk_norm = QK_NORM_WHOLE;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_window_cases(void) {
    ModelConfig *model = add_case("a window of two tokens");
    model->attention.window = (PerLayer){1, {2}};
    model = add_case("windows in every second layer, with sinks");
    model->layers = 3;
    model->attention.window = (PerLayer){2, {3, 0}};
    model->attention.softmax = SOFTMAX_SINK;
}

static void add_latent_cases(void) {
    ModelConfig *model = add_case("latent attention");
    model->mixer = (PerLayer){1, {MIXER_LATENT_ATTENTION}};
    model->attention.shape = (AttentionShape){2, 2, 6, 3};
    model->attention.d_rope = 2;
    model->attention.kv_rank = 5;
    model = add_case("latent attention with a latent of the queries, in every second layer, with "
                     "sinks, a window and biases, two micro-batches");
    model->layers = 3;
    model->mixer = (PerLayer){2, {MIXER_LATENT_ATTENTION, MIXER_ATTENTION}};
    model->attention.shape = (AttentionShape){3, 3, 6, 4};
    model->attention.d_rope = 4;
    model->attention.kv_rank = 4;
    model->attention.q_rank = 7;
    model->attention.window = (PerLayer){1, {3}};
    model->attention.softmax = SOFTMAX_SINK;
    model->bias = BIAS_LAYERS;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_moa_cases(void) {
    ModelConfig *model = add_case("attention experts beside a dense feed-forward");
    model->mixer = (PerLayer){1, {MIXER_MOA}};
    model->attention.shape = (AttentionShape){3, 1, 4, 5};
    model->attention.experts = 5;
    model->moe.experts.values[0] = 0;
    model = add_case("attention experts of topk_softmax beside routed experts in every second "
                     "layer, with norms of heads, windows and biases, two micro-batches");
    model->layers = 3;
    model->mixer = (PerLayer){2, {MIXER_MOA, MIXER_ATTENTION}};
    model->attention.shape = (AttentionShape){2, 1, 6, 3};
    model->attention.experts = 4;
    model->attention.qk_norm = QK_NORM_HEAD;
    model->attention.window = (PerLayer){1, {3}};
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->moe.balance = (BalanceTerms){
        2,
        {{.scope = BALANCE_SEQUENCE, .factor = 0.3}, {.kind = BALANCE_IMPORTANCE, .factor = 0.2}}};
    model->bias = BIAS_LAYERS;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_switchhead_cases(void) {
    ModelConfig *model = add_case("value and output experts of heads, with sliding windows");
    model->mixer = (PerLayer){1, {MIXER_SWITCHHEAD}};
    model->attention.shape = (AttentionShape){2, 2, 4, 5};
    model->attention.experts = 3;
    model->attention.top_k = 2;
    model->attention.window = (PerLayer){1, {3}};
    model->moe.experts.values[0] = 0;
    model = add_case("value and output experts of heads beside routed experts, with norms of "
                     "queries and keys, slopes and biases, two micro-batches");
    model->layers = 3;
    model->mixer = (PerLayer){2, {MIXER_SWITCHHEAD, MIXER_ATTENTION}};
    model->attention.shape = (AttentionShape){3, 3, 2, 3};
    model->attention.experts = 4;
    model->attention.top_k = 1;
    model->attention.qk_norm = QK_NORM_WHOLE;
    model->attention.positions = (PerLayer){1, {POSITIONS_ALIBI}};
    model->bias = BIAS_LAYERS;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
}

static void add_router_cases(void) {
    add_case("experts chosen by softmax_topk, dropless");
    ModelConfig *model = add_case("experts of ReLU with an untied head");
    model->activation = RELU;
    model->tied_embeddings = false;
    model = add_case("topk_softmax with one choice (Switch)");
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->moe.top_k.values[0] = 1;
    model = add_case("topk_softmax with three choices");
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->moe.top_k.values[0] = 3;
    model = add_case("topk_softmax with normalised weights");
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX, .normalize_top_k = true};
    model = add_case("sigmoid with two choices and a scaling factor");
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2.5};
    model = add_case("sigmoid with one choice");
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 1};
    model->moe.top_k.values[0] = 1;
    model = add_case("sqrtsoftplus with two choices of the best groups");
    model->moe.router =
        (RouterRule){.kind = SQRT_SOFTPLUS, .scaling_factor = 1.5, .groups = 2, .top_groups = 2};
    model->moe.experts.values[0] = 6;
    model = add_case("a router with a bias");
    model->moe.gate_bias = true;
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2};
    model = add_case("sinkhorn with one choice");
    model->moe.router = (RouterRule){.kind = SINKHORN, .scaling_factor = 1};
    model->moe.sinkhorn_iterations = 8;
    model->moe.top_k.values[0] = 1;
    model = add_case("sinkhorn with two choices");
    model->moe.router = (RouterRule){.kind = SINKHORN, .scaling_factor = 1};
    model->moe.sinkhorn_iterations = 3;
    model = add_case("noisy logits and jitter, two micro-batches");
    model->moe.router = (RouterRule){.kind = NOISY_TOPK};
    model->moe.jitter = 0.2;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
    model = add_case("experts chosen by token id, without a gate");
    model->moe.router.kind = HASH;
    model->moe.top_k.values[0] = 3;
    model = add_case("the first layer by token id with the gate's weights");
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2};
    model->moe.hash_layers = 1;
    model = add_case("experts chosen by force, weighed by topk_softmax");
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->moe.force = FORCE_RANDOM;
    model = add_case("experts that choose among the tokens of a sequence");
    model->moe.router.kind = EXPERT_CHOICE;
    model->moe.drop = DROP_PROBABILITY; // what it does, whatever this says
    model->moe.routing_group = GROUP_SEQUENCE;
    model->moe.capacity_factor = (Rational){3, 2};
    model = add_case("dense layers between layers with experts");
    model->layers = 3;
    model->moe.every = 2;
    model->moe.first = false;
}

// Layers of one model may differ in kind and in every size.
static void add_ragged_cases(void) {
    ModelConfig *model = add_case("layers of different kinds and sizes");
    model->layers = 4;
    model->feed_forward =
        (PerLayer){4, {FEED_FORWARD_MOE, FEED_FORWARD_DENSE, FEED_FORWARD_MOE, FEED_FORWARD_MOE}};
    model->moe.experts = (PerLayer){4, {3, 0, 6, 2}};
    model->moe.top_k = (PerLayer){4, {2, 9, 3, 1}};
    model->moe.d_ff = (PerLayer){3, {7, 4, 5}};
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model = add_case("layers of different sizes, drops, untied, two micro-batches");
    model->moe.experts = (PerLayer){2, {2, 5}};
    model->moe.top_k = (PerLayer){2, {2, 3}};
    model->moe.d_ff = (PerLayer){2, {3, 8}};
    model->moe.capacity_factor = (Rational){3, 4};
    model->moe.renormalize_after_drop = true;
    model->moe.max_expert_replicas = 2;
    model->tied_embeddings = false;
    cases[count - 1].micro_batches = 2;
}

static void add_drop_cases(void) {
    static const char *const sentences[2][3] = {
        {"choices dropped by position", "choices dropped by probability",
         "choices dropped by chance"},
        {"survivors renormalised after dropping by position",
         "survivors renormalised after dropping by probability",
         "survivors renormalised after dropping by chance"},
    };
    for (int renormalize = 0; renormalize < 2; renormalize++)
        for (int drop = 0; drop < 3; drop++) {
            ModelConfig *model = add_case(sentences[renormalize][drop]);
            model->moe.drop = (DropPolicy)drop;
            model->moe.capacity_factor = (Rational){3, 4};
            model->moe.renormalize_after_drop = renormalize;
            model->moe.router.kind = drop == DROP_PROBABILITY ? TOPK_SOFTMAX : SOFTMAX_TOPK;
            model->moe.routing_group = drop == DROP_RANDOM ? GROUP_SEQUENCE : GROUP_SHARD;
        }
}

static void add_shared_cases(void) {
    ModelConfig *model = add_case("two shared experts, with biases");
    model->moe.shared_experts = 2;
    model->bias = BIAS_LAYERS;
    model = add_case("a wide shared expert with a gate, two micro-batches, ReLU");
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
    model->activation = RELU;
    model->moe.shared_experts = 1;
    model->moe.shared_d_ff = 11;
    model->moe.shared_gate = true;
}

static void add_residual_cases(void) {
    ModelConfig *model = add_case("a pyramid of experts, residual feed-forwards and biases");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_PR_MOE}};
    model->moe.experts = (PerLayer){2, {2, 4}};
    model->moe.top_k.values[0] = 1;
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->bias = BIAS_LAYERS;
    model = add_case("residual beside gated shared experts, drops, experts of zero computation");
    cases[count - 1].micro_batches = 2;
    model->feed_forward = (PerLayer){2, {FEED_FORWARD_MOE, FEED_FORWARD_PR_MOE}};
    model->moe.max_expert_replicas = 2;
    model->moe.shared_experts = 2;
    model->moe.shared_gate = true;
    model->moe.zero_experts = 2;
    model->moe.capacity_factor = (Rational){3, 4};
}

static void add_latent_space_cases(void) {
    ModelConfig *model = add_case("experts in a latent space, with biases and drops");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_LATENT_MOE}};
    model->moe.latent_width = 5;
    model->bias = BIAS_LAYERS;
    model->moe.capacity_factor = (Rational){3, 4};
    model = add_case("latent beside others, shared experts and some of zero computation");
    cases[count - 1].micro_batches = 2;
    model->feed_forward = (PerLayer){2, {FEED_FORWARD_LATENT_MOE, FEED_FORWARD_PR_MOE}};
    model->moe.latent_width = 3;
    model->moe.max_expert_replicas = 2;
    model->moe.shared_experts = 1;
    model->moe.zero_experts = 2;
}

static void add_soft_cases(void) {
    ModelConfig *model = add_case("slots that mix the tokens of a sequence, with biases");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_SOFT_MOE}};
    model->moe.expert_slots = 2;
    model->bias = BIAS_LAYERS;
    model = add_case("slots beside routed experts, two micro-batches");
    cases[count - 1].micro_batches = 2;
    model->feed_forward = (PerLayer){2, {FEED_FORWARD_MOE, FEED_FORWARD_SOFT_MOE}};
    model->moe.experts = (PerLayer){2, {4, 3}};
    model->moe.expert_slots = 1;
    model->moe.max_expert_replicas = 2;
}

static void add_zero_cases(void) {
    ModelConfig *model = add_case("zero-computation experts that return their input");
    model->moe.zero_experts = 2;
    model = add_case("more of them than a token has choices, beside shared experts, padded");
    model->moe.zero_experts = 5;
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2};
    model->moe.shared_experts = 1;
    model->moe.dispatch = DISPATCH_PADDED;
    model->moe.capacity_factor = (Rational){3, 2};
    model = add_case("identity with drops and renormalised survivors, noisy, two micro-batches");
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
    model->moe.zero_experts = 3;
    model->moe.router = (RouterRule){.kind = NOISY_TOPK};
    model->moe.capacity_factor = (Rational){3, 4};
    model->moe.renormalize_after_drop = true;
    model = add_case("zero-computation experts that return nothing");
    model->moe.zero_experts = 2;
    model->moe.zero_kind = ZERO_NULL;
    model->moe.router = (RouterRule){.kind = TOPK_SOFTMAX};
    model->moe.gate_bias = true;
    model = add_case("nothing, with drops and renormalised survivors, behind a layer by token id");
    model->moe.zero_experts = 3;
    model->moe.zero_kind = ZERO_NULL;
    model->moe.top_k.values[0] = 3;
    model->moe.hash_layers = 1;
    model->moe.capacity_factor = (Rational){3, 4};
    model->moe.drop = DROP_PROBABILITY;
    model->moe.renormalize_after_drop = true;
}

static void add_peer_cases(void) {
    ModelConfig *model = add_case("experts of one neuron, found by product keys");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_PEER}};
    model->peer.activation = GELU;
    model = add_case("gated ones beside routed experts, two micro-batches, norms on both sides");
    model->feed_forward = (PerLayer){2, {FEED_FORWARD_PEER, FEED_FORWARD_MOE}};
    model->peer = (PeerConfig){.keys = 3, .heads = 1, .top_k = 2, .d_key = 4, .activation = GEGLU};
    model->norm_place = NORM_SANDWICH;
    model->moe.max_expert_replicas = 2;
    cases[count - 1].micro_batches = 2;
    model = add_case("found by queries normalised over the batch");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_PEER}};
    model->peer.activation = GELU;
    model->peer.query_norm = PEER_QUERIES_BATCH;
    model = add_case("few found of many keys");
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_PEER}};
    model->peer = (PeerConfig){.keys = 11, .heads = 2, .top_k = 2, .d_key = 4, .activation = GELU};
}

static void add_bias_cases(void) {
    ModelConfig *model = add_case("biases of every dense layer and an untied head");
    model->moe.experts.values[0] = 0;
    model->bias = BIAS_HEAD;
    model->tied_embeddings = false;
    model = add_case("biases of attention, experts and a tied head, in two micro-batches");
    cases[count - 1].micro_batches = 2;
    cases[count - 1].model.moe.max_expert_replicas = 2;
    model->bias = BIAS_HEAD;
    model = add_case("biases of experts whose rows are padded");
    model->bias = BIAS_LAYERS;
    model->moe.dispatch = DISPATCH_PADDED;
    model->moe.capacity_factor = (Rational){5, 4};
    model->moe.routing_group = GROUP_SEQUENCE;
    model = add_case("biases of queries, keys and values alone");
    model->bias = BIAS_QKV;
    model = add_case("biases of all but queries, keys and values");
    model->bias = BIAS_NO_QKV;
}

// Step and micro-batches are the same in every evaluation of the loss, and so is what is dropped.
static void add_dropout_cases(void) {
    ModelConfig *model = add_case("dropout of embedding, branches and experts' activations");
    model->dropout = model->embedding_dropout = 0.2;
    model->moe.dropout = 0.3;
    model = add_case("dropout of what experts put out, padded, with learned positions, two "
                     "micro-batches");
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
    model->dropout = 0.1;
    model->embedding_dropout = 0.3;
    model->moe.dropout = 0.2;
    model->moe.dropout_at = DROPOUT_OUTPUT;
    model->moe.dispatch = DISPATCH_PADDED;
    model->moe.capacity_factor = (Rational){5, 4};
    model->attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
}

static void add_accumulation_cases(void) {
    add_case("three micro-batches");
    cases[count - 1].micro_batches = 3;
    cases[count - 1].model.moe.max_expert_replicas = 3;
    ModelConfig *model = add_case("two micro-batches, untied, with drops and four shards");
    cases[count - 1].micro_batches = 2;
    cases[count - 1].shards = 4;
    model->tied_embeddings = false;
    model->moe.capacity_factor = (Rational){1, 1};
    model->moe.max_expert_replicas = 4;
}

static void add_document_cases(void) {
    ModelConfig *model =
        add_case("the load of documents beside that of shards, in two micro-batches");
    cases[count - 1].documents = true;
    cases[count - 1].micro_batches = 2;
    cases[count - 1].router_terms_only = true;
    model->moe.max_expert_replicas = 2;
    model->moe.balance =
        (BalanceTerms){2, {{.scope = BALANCE_DOCUMENT, .factor = 0.5}, {.factor = 0.1}}};
    model = add_case("the load of documents by sigmoid, of first choices");
    cases[count - 1].documents = true;
    model->moe.router = (RouterRule){.kind = SIGMOID, .scaling_factor = 2};
    model->moe.balance_choices = BALANCE_FIRST_CHOICES;
    model->moe.balance = (BalanceTerms){1, {{.scope = BALANCE_DOCUMENT, .factor = 0.5}}};
    model = add_case("documents that attention does not leave, with sinks and windows");
    cases[count - 1].documents = true;
    model->attention.softmax = SOFTMAX_SINK;
    model->attention.window = (PerLayer){2, {2, 0}};
    model = add_case("documents whose learned positions begin anew, in two micro-batches");
    cases[count - 1].documents = true;
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
    model->attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    model->attention.softcap = 2;
    model = add_case("documents in latent attention with slopes");
    cases[count - 1].documents = true;
    model->attention.positions = (PerLayer){2, {POSITIONS_ALIBI, POSITIONS_ROPE}};
    model->mixer = (PerLayer){1, {MIXER_LATENT_ATTENTION}};
    model->attention.shape = (AttentionShape){2, 2, 6, 4};
    model->attention.d_rope = 2;
    model->attention.kv_rank = 5;
}

static void add_bidirectional_cases(void) {
    ModelConfig *model = add_case("attention to both sides, with windows, sinks and slopes");
    model->objective = OBJECTIVE_MASKED;
    model->attention.window = (PerLayer){2, {3, 0}};
    model->attention.softmax = SOFTMAX_SINK;
    model->attention.positions = (PerLayer){2, {POSITIONS_ALIBI, POSITIONS_ROPE}};
    model = add_case("attention to both sides of documents, two micro-batches");
    model->objective = OBJECTIVE_MASKED;
    cases[count - 1].documents = true;
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
}

static ModelConfig *add_mtp_case(const char *sentence, int64_t modules) {
    ModelConfig *model = add_case(sentence);
    model->mtp = (MtpConfig){modules, 0.7};
    return model;
}

static void add_mtp_cases(void) {
    add_mtp_case("multi-token prediction, tied", 1);
    ModelConfig *model = add_mtp_case("two tokens further on, untied head with a bias, dense", 2);
    model->tied_embeddings = false;
    model->bias = BIAS_HEAD;
    model->moe.experts = (PerLayer){0};
    model->embedding_scale = 3;
    model->logit_scale = 0.5;
    model->logit_softcap = 5;
    model = add_mtp_case("two tokens further on in documents, two micro-batches", 2);
    cases[count - 1].documents = true;
    cases[count - 1].micro_batches = 2;
    model->moe.max_expert_replicas = 2;
    model->attention.positions = (PerLayer){1, {POSITIONS_LEARNED}};
    model = add_mtp_case(
        "multi-token prediction, norms after the sum, as the last of unequal layers", 1);
    model->norm_place = NORM_POST;
    model->dropout = 0.2;
    model->layers = 3;
    model->moe.experts = (PerLayer){2, {0, 4}};
    model->attention.window = (PerLayer){2, {3, 0}};
    model = add_mtp_case("multi-token prediction with PEER, norms before and after", 1);
    model->norm_place = NORM_SANDWICH;
    model->feed_forward = (PerLayer){1, {FEED_FORWARD_PEER}};
}

int main(int argc, char **argv) {
    add_dense_cases();
    add_activation_cases();
    add_norm_cases();
    add_norm_place_cases();
    add_scale_cases();
    add_position_cases();
    add_rope_cases();
    add_softmax_cases();
    add_score_cases();
    add_query_key_cases();
    add_window_cases();
    add_latent_cases();
    add_moa_cases();
    add_switchhead_cases();
    add_router_cases();
    add_ragged_cases();
    add_drop_cases();
    add_shared_cases();
    add_residual_cases();
    add_latent_space_cases();
    add_soft_cases();
    add_zero_cases();
    add_peer_cases();
    add_bias_cases();
    add_dropout_cases();
    add_accumulation_cases();
    add_document_cases();
    add_bidirectional_cases();
    add_mtp_cases();
    return gradient_cases_run(argc, argv, cases, count);
}
