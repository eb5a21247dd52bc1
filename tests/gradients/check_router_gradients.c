// The balance loss and the z-loss alone: their gradient is what is left of the whole when
// cross-entropy's is taken away. The coefficients are large, so that the difference keeps its
// digits.
#include "gradient_check.h"

static GradientCase terms(const char *sentence, double balance_loss, BalanceScope scope,
                          double z_loss, RouterKind kind, int64_t micro_batches) {
    GradientCase the_case = {.sentence = sentence,
                             .model = tiny_model(),
                             .micro_batches = micro_batches,
                             .shards = 2,
                             .router_terms_only = true};
    the_case.model.moe.max_expert_replicas = micro_batches;
    the_case.model.moe.balance = (BalanceTerms){1, {{BALANCE_LOAD, scope, balance_loss}}};
    the_case.model.moe.z_loss = z_loss;
    the_case.model.moe.router = (RouterRule){.kind = kind, .scaling_factor = 1};
    return the_case;
}

// All scopes at once.
static GradientCase several(const char *sentence, RouterKind kind, int64_t micro_batches) {
    GradientCase the_case = terms(sentence, 3, BALANCE_STEP, 0, kind, micro_batches);
    BalanceTerms *balance = &the_case.model.moe.balance;
    balance->count = 4;
    balance->maps[1] = (BalanceTerm){BALANCE_LOAD, BALANCE_SEQUENCE, 2};
    balance->maps[2] = (BalanceTerm){BALANCE_LOAD, BALANCE_SHARD, 1};
    balance->maps[3] = (BalanceTerm){BALANCE_LOAD, BALANCE_BATCH, 1.5};
    return the_case;
}

static GradientCase of_kind(const char *sentence, BalanceKind kind, BalanceScope scope,
                            RouterKind router, int64_t micro_batches) {
    GradientCase the_case = terms(sentence, 5, scope, 0, router, micro_batches);
    the_case.model.moe.balance.maps[0].kind = kind;
    return the_case;
}

// Of every scope that has gradients, beside the load.
static GradientCase variations(const char *sentence, RouterKind router, int64_t micro_batches) {
    GradientCase the_case =
        of_kind(sentence, BALANCE_IMPORTANCE, BALANCE_SEQUENCE, router, micro_batches);
    BalanceTerms *balance = &the_case.model.moe.balance;
    balance->count = 4;
    balance->maps[1] = (BalanceTerm){BALANCE_LOAD, BALANCE_STEP, 2};
    balance->maps[2] = (BalanceTerm){BALANCE_IMPORTANCE, BALANCE_BATCH, 3};
    balance->maps[3] = (BalanceTerm){BALANCE_IMPORTANCE, BALANCE_SHARD, 1.5};
    return the_case;
}

// Some choices are dropped, whose weights are of the sum, too.
static GradientCase dropping(GradientCase the_case) {
    the_case.model.moe.capacity_factor = (Rational){3, 4};
    the_case.model.moe.renormalize_after_drop = true;
    return the_case;
}

// Every kind at once.
static GradientCase all_of_noise(const char *sentence) {
    GradientCase the_case = variations(sentence, NOISY_TOPK, 2);
    BalanceTerms *balance = &the_case.model.moe.balance;
    balance->maps[balance->count++] = (BalanceTerm){BALANCE_NOISY_LOAD, BALANCE_SHARD, 2};
    the_case.model.moe.z_loss = 1;
    return the_case;
}

static GradientCase with_zero_experts(GradientCase the_case) {
    the_case.model.moe.zero_experts = 3;
    return the_case;
}

// Of the experts of heads, beside routers that have the same terms, or alone.
static GradientCase of_heads(const char *sentence, BalanceScope scope, bool beside_routers,
                             int64_t micro_batches) {
    GradientCase the_case =
        of_kind(sentence, BALANCE_IMPORTANCE, scope, SOFTMAX_TOPK, micro_batches);
    ModelConfig *model = &the_case.model;
    model->mixer = (PerLayer){1, {MIXER_SWITCHHEAD}};
    model->attention.shape = (AttentionShape){2, 2, 4, 5};
    model->attention.experts = 4;
    model->attention.top_k = 2;
    if (!beside_routers) model->moe.experts.values[0] = 0;
    return the_case;
}

int main(int argc, char **argv) {
    GradientCase cases[] = {
        terms("balance loss over shards", 5, BALANCE_SHARD, 0, SOFTMAX_TOPK, 1),
        terms("balance loss over sequences", 5, BALANCE_SEQUENCE, 0, TOPK_SOFTMAX, 1),
        terms("balance loss over the batch", 5, BALANCE_BATCH, 0, SOFTMAX_TOPK, 1),
        terms("balance loss over sequences of two micro-batches", 5, BALANCE_SEQUENCE, 0,
              SOFTMAX_TOPK, 2),
        terms("z-loss", 0, BALANCE_SHARD, 2, SOFTMAX_TOPK, 1),
        terms("z-loss of two micro-batches", 0, BALANCE_SHARD, 2, TOPK_SOFTMAX, 2),
        terms("balance loss over shards of sigmoids", 5, BALANCE_SHARD, 0, SIGMOID, 1),
        terms("balance loss over sequences of sqrtsoftplus", 5, BALANCE_SEQUENCE, 1, SQRT_SOFTPLUS,
              1),
        terms("both with noisy logits", 3, BALANCE_SHARD, 1, NOISY_TOPK, 1),
        terms("both over the batch of sigmoids", 3, BALANCE_BATCH, 1, SIGMOID, 2),
        terms("balance loss over the step of two micro-batches", 5, BALANCE_STEP, 0, SOFTMAX_TOPK,
              2),
        several("balance losses over all scopes", SOFTMAX_TOPK, 1),
        several("balance losses over all scopes, of two micro-batches of sigmoids", SIGMOID, 2),
        with_zero_experts(
            several("balance losses over all scopes with zero-computation experts", SIGMOID, 2)),
        with_zero_experts(
            terms("both with zero-computation experts", 3, BALANCE_BATCH, 1, SOFTMAX_TOPK, 1)),
        with_zero_experts(dropping(of_kind("importance with drops and zero-computation experts",
                                           BALANCE_IMPORTANCE, BALANCE_SHARD, TOPK_SOFTMAX, 1))),
        of_kind("importance over shards", BALANCE_IMPORTANCE, BALANCE_SHARD, SOFTMAX_TOPK, 2),
        of_kind("importance over the batch of sigmoids", BALANCE_IMPORTANCE, BALANCE_BATCH, SIGMOID,
                2),
        dropping(of_kind("importance over sequences, with drops", BALANCE_IMPORTANCE,
                         BALANCE_SEQUENCE, TOPK_SOFTMAX, 1)),
        of_heads("importance of heads' experts over shards", BALANCE_SHARD, false, 1),
        of_heads("importance of heads' experts and of routed ones over sequences", BALANCE_SEQUENCE,
                 true, 1),
        of_heads("importance of heads' experts over the batch", BALANCE_BATCH, false, 2),
        variations("importance over all scopes beside the load of the step", TOPK_SOFTMAX, 1),
        variations("the same of two micro-batches of noisy logits", NOISY_TOPK, 2),
        of_kind("noisy load over sequences", BALANCE_NOISY_LOAD, BALANCE_SEQUENCE, NOISY_TOPK, 1),
        of_kind("noisy load over the batch of two micro-batches", BALANCE_NOISY_LOAD, BALANCE_BATCH,
                NOISY_TOPK, 2),
        terms("z-loss of noisy logits", 0, BALANCE_SHARD, 2, NOISY_TOPK, 1),
        all_of_noise("all kinds with noisy logits"),
        terms("both", 3, BALANCE_BATCH, 1, TOPK_SOFTMAX, 1),
    };
    return gradient_cases_run(argc, argv, cases, (int)(sizeof cases / sizeof *cases));
}
