#include "worker/parallel_options.h"

#include <stdio.h>

#include "comm/shard_run.h"
#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/configured_layers.h"
#include "model/rank_shape.h"

static void derive_max_expert_replicas(void *section) {
    TrainConfig *config = section;
    config->model.moe.max_expert_replicas = config->shards;
}

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    INTEGER("moe.max_expert_replicas", STATE, model.moe.max_expert_replicas,
        DERIVED("train.shards", derive_max_expert_replicas), RANGE(1, 65536),
        "fixed groups of shards over which an expert's gradient is summed under train.reproducible: ranks: as many at least as "
        "ranks hold the same expert, times train.micro_batches; fewer are faster where an expert sees few tokens; part of the "
        "sums, so keep it in a run"),
    INTEGER("parallel.expert", FREE, expert_parallel, DEFAULT("0"), RANGE(0, 65536),
        "ranks that share one set of experts, each one expert at least; a divisor of the ranks, and with peer layers of 8 or the "
        "largest power of two that divides peer.keys^2; 0: the largest that is possible, of a power of two of ranks one that "
        "divides moe.experts"),
    INTEGER("parallel.exchange_chunks", FREE, exchange_chunks, DEFAULT("2"), RANGE(1, 16),
        "pieces in which tokens travel to other ranks' experts, so that one is on its way while another is computed; at "
        "most, and a divisor of the experts of a rank is taken; changes no bit"),
    CHOICE("parallel.placement", FREE, placement, DEFAULT("even"), OF(PLACEMENT_CHOICES),
        "which ranks of parallel.expert have which experts of moe, pr_moe, latent_moe, moa and switchhead layers; "
        "changes no bit"),
};
// clang-format on

// Whether ranks in groups of `ep` can share experts and shards.
static bool allows(const ModelConfig *model, int64_t ranks, int64_t shards, int64_t ep) {
    return ranks % ep == 0 && !model_unshared_experts(model, ep) &&
           shard_runs_exist(model_shard_deal(model, shards, ranks, ep));
}

// "1, 2, 4": the degrees that so many ranks allow.
static void list_degrees(const ModelConfig *model, int64_t ranks, int64_t shards, char list[160]) {
    size_t used = 0;
    list[0] = 0;
    for (int64_t ep = 1; ep <= ranks && used < 140; ep++)
        if (allows(model, ranks, shards, ep))
            used += (size_t)snprintf(list + used, 160 - used, "%s%lld", used > 0 ? ", " : "",
                                     (long long)ep);
}

static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *train = section;
    int64_t divisor = model_experts_divisor(&train->model);
    int64_t groups = train->model.moe.max_expert_replicas, least = train->micro_batches;
    bool exact = train->reproducible == REPRODUCIBLE_RANKS;
    bool has_sizes = train->model.moe.experts.count > 1 || train->model.moe.experts.values[0] > 0;
    char list[160];
    if (divisor == 0 && train->expert_parallel > 1)
        return option_broken(rules, "parallel.expert", "moe.experts",
                             "parallel.expert (%lld) needs experts, but %s; leave it out",
                             (long long)train->expert_parallel,
                             has_sizes ? "no layer of model.feed_forward is moe"
                                       : "moe.experts is 0");
    if (divisor == 0) return true;
    if (exact &&
        (train->shards % groups != 0 || groups % least != 0 || !is_power_of_two(groups / least))) {
        option_list_multiples(least, train->shards, list);
        return option_broken(
            rules, "moe.max_expert_replicas", "train.shards",
            "moe.max_expert_replicas (%lld) is not train.micro_batches (%lld) times a "
            "power of two that divides train.shards (%lld); set it to one of %s, or "
            "leave it out",
            (long long)groups, (long long)least, (long long)train->shards, list);
    }
    int64_t ep = train->expert_parallel, most = ep;
    while (most > 1 && model_unshared_experts(&train->model, most)) most--;
    if (most < ep)
        return option_broken(
            rules, "parallel.expert", "moe.experts",
            "parallel.expert (%lld) ranks cannot share %s, so that each has one at "
            "least; set it to a divisor of the ranks, %lld at most, or leave it out",
            (long long)ep, model_unshared_experts(&train->model, ep), (long long)most);
    return true;
}

const OptionSection PARALLEL_OPTIONS = SECTION(ROWS, check);

// The largest degree that experts and shards allow: of a power of two of ranks one that divides the
// experts.
static int64_t best_degree(const ModelConfig *model, int64_t ranks, int64_t shards) {
    int64_t divisor = model_experts_divisor(model), best = 1;
    for (int64_t ep = 1; ep <= ranks; ep++)
        if (allows(model, ranks, shards, ep) && (divisor % ep == 0 || !is_power_of_two(ranks)))
            best = ep;
    return best;
}

bool parallel_decide_expert(TrainConfig *config, int ranks, int64_t shards,
                            const OptionRules *rules) {
    char list[160];
    if (model_experts_divisor(&config->model) == 0) config->expert_parallel = 1;
    if (config->expert_parallel == 0)
        config->expert_parallel = best_degree(&config->model, ranks, shards);
    int64_t ep = config->expert_parallel;
    if (ranks % ep == 0 && shard_runs_exist(model_shard_deal(&config->model, shards, ranks, ep)))
        return true;
    list_degrees(&config->model, ranks, shards, list);
    if (ranks % ep == 0)
        return option_broken(rules, "parallel.expert", "train.shards",
                             "parallel.expert (%lld) needs %lld shards in a micro-batch to give "
                             "each of %d ranks a sub-tree of them, there are %lld; set it to one "
                             "of %s, or leave it out",
                             (long long)ep, (long long)shard_runs_least(ranks, ep), ranks,
                             (long long)shards, list);
    return option_broken(rules, "parallel.expert", "moe.experts",
                         "parallel.expert (%lld) does not divide the %d ranks; set it to one of "
                         "%s, or leave it out",
                         (long long)ep, ranks, list);
}

// Each rank has a shard at least; and where shards are no power of two, all have equally many.
static bool check_shards(const TrainConfig *config, int ranks, const OptionRules *rules) {
    int64_t shards = config->shards / config->micro_batches;
    char list[160];
    if (ranks > shards)
        return option_broken(
            rules, "train.shards", "train.batch",
            "%d ranks are more than train.shards (%lld) / train.micro_batches (%lld); use "
            "-np %lld or fewer%s, fewer train.micro_batches, which changes no result, or "
            "more shards from the first step on",
            ranks, (long long)config->shards, (long long)config->micro_batches, (long long)shards,
            is_power_of_two(shards) ? "" : " that divide them");
    if (is_power_of_two(shards)) return true;
    if (shards % ranks != 0) {
        option_list_divisors(shards, 0, list);
        return option_broken(
            rules, "train.shards", "train.batch",
            "%d ranks cannot share train.shards (%lld) / train.micro_batches (%lld), no power of "
            "two, evenly; use -np with one of %s, fewer train.micro_batches, which "
            "changes no result, or other shards from the first step on",
            ranks, (long long)config->shards, (long long)config->micro_batches, list);
    }
    if (!is_power_of_two(shards / ranks))
        return option_broken(rules, "train.shards", "train.batch",
                             "each of %d ranks would own %lld of train.shards (%lld) in each of "
                             "the %lld micro-batches, not a power of two; set train.shards=%lld",
                             ranks, (long long)shards / ranks, (long long)config->shards,
                             (long long)config->micro_batches,
                             (long long)ranks * config->micro_batches);
    return true;
}

bool parallel_check_ranks(TrainConfig *config, int ranks, const OptionRules *rules) {
    const MoeConfig *moe = &config->model.moe;
    bool exact = config->reproducible == REPRODUCIBLE_RANKS;
    int64_t shards = config->shards / config->micro_batches;
    if (!check_shards(config, ranks, rules) ||
        !parallel_decide_expert(config, ranks, shards, rules))
        return false;
    if (model_experts_divisor(&config->model) == 0) return true;
    int64_t replicas = ranks / config->expert_parallel;
    ShardDeal parts = {moe->max_expert_replicas / config->micro_batches, replicas, 1};
    if (exact && !shard_runs_exist(parts))
        return option_broken(
            rules, "moe.max_expert_replicas", "train.shards",
            "%d ranks / parallel.expert %lld would hold each expert %lld times and train "
            "it in %lld micro-batches, but moe.max_expert_replicas is %lld; leave it out "
            "from the first step on, or set train.reproducible=run",
            ranks, (long long)config->expert_parallel, (long long)replicas,
            (long long)config->micro_batches, (long long)moe->max_expert_replicas);
    return true;
}
