#include "worker/plan.h"

#include <stdio.h>
#include <string.h>

#include "comm/shard_run.h"
#include "kernels/host_memory.h"
#include "kernels/log.h"
#include "kernels/threads.h"
#include "model/configured_layers.h"
#include "worker/evaluate.h"
#include "worker/optimizer/optimizer.h"
#include "worker/plan_host.h"
#include "worker/session.h"

bool plan_resolve_vocabulary(TrainConfig *config, Vocabulary *vocabulary, Error *err) {
    Vocabulary own = {0}, *opened = vocabulary ? vocabulary : &own;
    if (!vocabulary_open(opened, &config->data, err)) return false;
    config->model.vocab_size = model_vocab_size(&config->model, opened->size);
    vocabulary_free(&own);
    return true;
}

static void plan_traffic(Plan *plan, const Model *model, int64_t ranks, int64_t norm_slots) {
    const Work *work = &model->work;
    int world = (int)ranks, ep = (int)work->shape.ep_size, replicas = world / ep;
    const ReduceOrder any = REDUCE_ANY_ORDER;
    plan->sent_bytes[TRAFFIC_GRADIENTS] += (double)gradients_sent_bytes(&model->gradients, work);
    plan->sent_bytes[TRAFFIC_STATISTICS] +=
        (double)(statistics_sent_bytes(&model->stats, work) +
                 all_reduce_sum_sent_bytes(world, model->stats.counts.shape[0], I64, any) +
                 all_reduce_sum_sent_bytes(ep, norm_slots, F64, any) +
                 all_reduce_sum_sent_bytes(replicas, 2, F64, any)); // agreement on the norm
}

// Values and the optimizer's states in f32 are nearly all of a checkpoint.
static int64_t saved_bytes(const Model *model, const Optimizer *optimizer) {
    int64_t elements = 0;
    for (int i = 0; i < model->params.count; i++) {
        int sets = 1;
        for (int s = 0; s < optimizer->state_count; s++)
            sets += optimizer_has_state(optimizer, s, i);
        elements += sets * param_elements(&model->params.rows[i]);
    }
    return elements * (int64_t)sizeof(float);
}

bool plan_make(const TrainConfig *config, PlanHost host, Plan *made, Error *err) {
    Plan plan = {0};
    Model model;
    Optimizer optimizer;
    int64_t ranks = host.ranks;
    ModelSplit split = session_split(config, ranks, 0, true);
    model_measure(&model, &config->model, split, NULL);
    Model evaluation = {0};
    bool ok =
        model_check(&model, err) && update_groups_check(&model.params, &config->optimizer, err);
    if (ok && config->data.validation.count > 0)
        ok = evaluation_measure_beside(&evaluation, &model, config, ranks, 0, err);
    if (ok) plan_host_memory(&plan, config, &model, &evaluation, &host);
    model_free(&evaluation);
    if (!ok) {
        model_free(&model);
        return false;
    }
    plan.worst_activation_bytes = model.activation_arena.peak_bytes;
    plan.worst_scratch_bytes = model.scratch_arena.peak_bytes;
    model_free(&model);

    split.even_routing = true;
    model_measure(&model, &config->model, split, NULL);
    optimizer_measure(&optimizer, &model, &config->optimizer);
    plan.total_params = model_total_params(&model);
    plan.active_params = model_active_params(&model);
    plan.parameter_bytes = model.parameter_arena.peak_bytes;
    plan.gradient_bytes = model.gradient_arena.peak_bytes;
    plan.optimizer_bytes = optimizer.arena.peak_bytes;
    plan.activation_bytes = model.activation_arena.peak_bytes;
    plan.scratch_bytes = model.scratch_arena.peak_bytes;
    LayerCost cost = model_cost(&model);
    plan.train_flops_per_token = 3 * cost.flops_per_token;
    plan.least_flops_per_token = 3 * (cost.flops_per_token - cost.flops_below);
    plan.most_flops_per_token = 3 * (cost.flops_per_token + cost.flops_above);
    memcpy(plan.sent_bytes, cost.sent_bytes, sizeof plan.sent_bytes);
    plan_traffic(&plan, &model, ranks, optimizer.norms.shape[0]);
    plan.saved_bytes = saved_bytes(&model, &optimizer);
    optimizer_free(&optimizer);
    model_free(&model);
    *made = plan;
    return true;
}

size_t plan_resident_bytes(const Plan *plan) {
    return plan->parameter_bytes + plan->gradient_bytes + plan->optimizer_bytes +
           plan->activation_bytes + plan->scratch_bytes;
}

size_t plan_worst_bytes(const Plan *plan) {
    return plan_resident_bytes(plan) - plan->activation_bytes - plan->scratch_bytes +
           plan->worst_activation_bytes + plan->worst_scratch_bytes;
}

size_t plan_beside_bytes(const Plan *plan) {
    return plan->thread_bytes + plan->host_bytes + plan->library_bytes;
}

// A process that has only started: itself, MPI, HDF5, the matrix library, after the self-test.
// Measured: 31 to 33 MiB.
static const size_t started_bytes = (size_t)36 << 20;

size_t plan_process_bytes(const Plan *plan, Place place, bool worst) {
    size_t arenas = worst ? plan_worst_bytes(plan) : plan_resident_bytes(plan);
    return started_bytes + plan_beside_bytes(plan) + (place == ON_HOST ? arenas : 0);
}

static double mib(size_t bytes) {
    return (double)bytes / 1048576.0;
}

static void print_memory(const Plan *plan, PlanHost host) {
    size_t even = plan_resident_bytes(plan), worst = plan_worst_bytes(plan);
    printf("memory of one rank, MiB (worst case: every token to the same rank's experts)\n");
    printf("  %-14s %10.1f\n", "parameters", mib(plan->parameter_bytes));
    printf("  %-14s %10.1f\n", "gradients", mib(plan->gradient_bytes));
    printf("  %-14s %10.1f\n", "optimizer", mib(plan->optimizer_bytes));
    printf("  %-14s %10.1f   worst case %10.1f\n", "activations", mib(plan->activation_bytes),
           mib(plan->worst_activation_bytes));
    printf("  %-14s %10.1f   worst case %10.1f\n", "scratch", mib(plan->scratch_bytes),
           mib(plan->worst_scratch_bytes));
    if (host.place == ON_DEVICE) {
        printf("  %-14s %10.1f   worst case %10.1f, of the GPU\n", "total", mib(even), mib(worst));
        printf("and of the host\n");
    } else {
        printf("  %-14s %10.1f   working memory of %d thread%s\n", "kernels",
               mib(plan->thread_bytes), host.threads, host.threads == 1 ? "" : "s");
    }
    printf("  %-14s %10.1f   tables, batches, history of expert load, and what a save takes\n",
           "host", mib(plan->host_bytes));
    printf("  %-14s %10.1f   at most, as measured; text in memory (characters, JSON, compressed) "
           "comes on top\n",
           "program", mib(started_bytes + plan->library_bytes));
    even = plan_process_bytes(plan, host.place, false);
    worst = plan_process_bytes(plan, host.place, true);
    printf("  %-14s %10.1f   worst case %10.1f\n", "total", mib(even), mib(worst));
    size_t available = host_memory().available_bytes;
    if (available / (size_t)host.ranks < even)
        log_warn(
            "%.1f MiB are free here (%s): too little for %lld rank%s of this plan on this host",
            mib(available), host_memory().limit, (long long)host.ranks, host.ranks == 1 ? "" : "s");
}

// The degree of expert parallelism whose groups of ranks share shards most evenly.
static int64_t evenest_degree(const ModelConfig *model, int64_t shards, int64_t ranks, int64_t ep) {
    int64_t best = ep, least = shard_runs_most(model_shard_deal(model, shards, ranks, ep));
    for (int64_t degree = 1; degree <= ranks; degree++) {
        if (ranks % degree != 0 || model_unshared_experts(model, degree)) continue;
        ShardDeal deal = model_shard_deal(model, shards, ranks, degree);
        if (!shard_runs_exist(deal) || shard_runs_most(deal) >= least) continue;
        least = shard_runs_most(deal);
        best = degree;
    }
    return best;
}

// Every step takes as long as the rank with the largest share does.
static void warn_of_imbalance(const TrainConfig *config, int ranks) {
    int64_t shards = config->shards / config->micro_batches, ep = config->expert_parallel;
    int64_t fewer = ranks, more = ranks, degree = ep;
    int64_t most = shard_runs_most(model_shard_deal(&config->model, shards, ranks, ep));
    while (shards % fewer != 0) fewer--;
    while (shards % more != 0) more++;
    if (model_experts_divisor(&config->model) > 0)
        degree = evenest_degree(&config->model, shards, ranks, ep);
    char also[64] = "";
    if (degree != ep)
        snprintf(also, sizeof also, ", parallel.expert=%lld more evenly", (long long)degree);
    if (most * ranks > shards)
        log_warn(
            "%d ranks do not share %lld shards evenly: the first have %lld of them, %.2f times "
            "the mean, and the others wait for them; %lld or %lld ranks share them evenly%s",
            ranks, (long long)shards, (long long)most, (double)(most * ranks) / (double)shards,
            (long long)fewer, (long long)more, also);
    int64_t experts = model_uneven_experts(&config->model, ep);
    if (experts > 0) {
        int64_t large = deal_evenly(experts, ep).large;
        log_warn("parallel.expert (%lld) does not share %lld experts evenly: the first ranks have "
                 "%lld of them, %.2f times the mean; %lld or %lld experts would be even",
                 (long long)ep, (long long)experts, (long long)large,
                 (double)(large * ep) / (double)experts, (long long)(large * ep - ep),
                 (long long)(large * ep));
    }
}

int plan_run(const TrainConfig *config, int ranks, Error *err) {
    Plan plan;
    bool gpu = strcmp(config->device, "cuda") == 0;
    PlanHost host = {.ranks = ranks,
                     .threads = threads_choose((int)config->threads, ranks, ranks).threads,
                     .place = gpu ? ON_DEVICE : ON_HOST};
    if (!plan_make(config, host, &plan, err)) return err->exit_code;
    double tokens = (double)(config->batch * config->context);
    printf("model        %lld parameters, %lld active for a token\n", (long long)plan.total_params,
           (long long)plan.active_params);
    printf("parallel     %d ranks, expert parallel %lld, %lld shards\n", ranks,
           (long long)config->expert_parallel, (long long)config->shards);
    printf("step         %lld sequences x %lld tokens, %.3f GFLOP (%.3f MFLOP a token, forward and "
           "backward)\n",
           (long long)config->batch, (long long)config->context,
           tokens * plan.train_flops_per_token / 1e9, plan.train_flops_per_token / 1e6);
    if (plan.least_flops_per_token < plan.most_flops_per_token)
        printf("             minimum %.3f, mean %.3f while all experts are chosen equally often, "
               "maximum %.3f MFLOP a token: zero-computation experts cost nothing\n",
               plan.least_flops_per_token / 1e6, plan.train_flops_per_token / 1e6,
               plan.most_flops_per_token / 1e6);
    warn_of_imbalance(config, ranks);
    print_memory(&plan, host);
    if (strcmp(config->device, "cpu") != 0)
        printf("  on a GPU %d MiB more for kernels, and what NCCL takes\n", (int)GPU_RESERVE_MIB);
    printf("sent by one rank in one step, bytes (even routing, nothing dropped)\n");
    for (int kind = 0; kind < TRAFFIC_OTHER; kind++)
        printf("  %-14s %14.0f\n", traffic_name((TrafficKind)kind), plan.sent_bytes[kind]);
    return EXIT_DONE;
}
