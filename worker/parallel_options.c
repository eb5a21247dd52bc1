#include "worker/parallel_options.h"

#include "comm/shard_run.h"
#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/model.h"

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
        "ranks that share one set of experts; 0: the largest divisor of the ranks that divides moe.experts, and with peer "
        "layers 8 or the largest power of two that divides peer.keys^2"),
    INTEGER("parallel.exchange_chunks", FREE, exchange_chunks, DEFAULT("2"), RANGE(1, 16),
        "pieces in which tokens travel to other ranks' experts, so that one is on its way while another is computed; at "
        "most, and a divisor of the experts of a rank is taken; changes no bit"),
};
// clang-format on

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
    if (train->expert_parallel > 0 && divisor % train->expert_parallel != 0) {
        option_list_divisors(divisor, 0, list);
        return option_broken(rules, "parallel.expert", "moe.experts",
                             "parallel.expert (%lld) does not divide %s (%lld%s); set it to one of "
                             "%s, or leave it out",
                             (long long)train->expert_parallel, model_experts_name(&train->model),
                             (long long)divisor,
                             train->model.moe.experts.count > 1 ? ", common to all layers" : "",
                             list);
    }
    return true;
}

const OptionSection PARALLEL_OPTIONS = SECTION(ROWS, check);

bool parallel_decide_expert(TrainConfig *config, int ranks, const OptionRules *rules) {
    int64_t divisor = model_experts_divisor(&config->model);
    char list[160];
    if (divisor == 0) config->expert_parallel = 1;
    if (config->expert_parallel == 0)
        config->expert_parallel = greatest_common_divisor(ranks, divisor);
    if (ranks % config->expert_parallel == 0) return true;
    option_list_divisors(ranks, divisor, list);
    return option_broken(rules, "parallel.expert", "moe.experts",
                         "parallel.expert (%lld) does not divide the %d ranks; set it to one of "
                         "%s, or leave it out",
                         (long long)config->expert_parallel, ranks, list);
}

// Each rank has a shard at least; and where shards are no power of two, all have equally many.
static bool check_shards(const TrainConfig *config, int ranks, const OptionRules *rules) {
    int64_t shards = config->shards / config->micro_batches;
    char list[160];
    if (ranks > shards)
        return option_broken(
            rules, "train.shards", "train.batch",
            "%d ranks are more than train.shards (%lld) / train.micro_batches (%lld); use "
            "mpirun -np %lld or fewer%s, fewer train.micro_batches, which changes no result, or "
            "more shards from the first step on",
            ranks, (long long)config->shards, (long long)config->micro_batches, (long long)shards,
            is_power_of_two(shards) ? "" : " that divide them");
    if (is_power_of_two(shards)) return true;
    if (shards % ranks != 0) {
        option_list_divisors(shards, 0, list);
        return option_broken(
            rules, "train.shards", "train.batch",
            "%d ranks cannot share train.shards (%lld) / train.micro_batches (%lld), no power of "
            "two, evenly; use mpirun -np with one of %s, fewer train.micro_batches, which "
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
    if (!check_shards(config, ranks, rules) || !parallel_decide_expert(config, ranks, rules))
        return false;
    int64_t divisor = model_experts_divisor(&config->model), ep = config->expert_parallel;
    if (divisor == 0) return true;
    if (config->shards / config->micro_batches % ranks != 0 && !is_power_of_two(ep)) {
        char list[160];
        option_list_divisors(largest_power_of_two_divisor(ranks), divisor, list);
        return option_broken(rules, "parallel.expert", "moe.experts",
                             "parallel.expert (%lld) is no power of two where %d ranks own "
                             "different numbers of shards; set it to one of %s",
                             (long long)ep, ranks, list);
    }
    int64_t replicas = ranks / ep;
    if (exact && !shard_runs_exist(moe->max_expert_replicas / config->micro_batches, replicas, 1))
        return option_broken(
            rules, "moe.max_expert_replicas", "train.shards",
            "%d ranks / parallel.expert %lld would hold each expert %lld times and train "
            "it in %lld micro-batches, but moe.max_expert_replicas is %lld; leave it out "
            "from the first step on, or set train.reproducible=run",
            ranks, (long long)config->expert_parallel, (long long)replicas,
            (long long)config->micro_batches, (long long)moe->max_expert_replicas);
    return true;
}
