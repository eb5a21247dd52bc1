#include "worker/watch/replica_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/hash.h"
#include "comm/comm.h"
#include "worker/run/rank_places.h"

// ---- the list -----------------------------------------------------------------------------------

static bool has_copies(const Model *model, const Param *param) {
    return param->kind == PARAM_DENSE ? model->work.shape.ranks > 1
                                      : model->work.shape.expert_replicas > 1;
}

static void add_run(ReplicaCheck *check, const char *folder, const ParamTable *table,
                    const bool *has, ParamSet set, ParamRun run) {
    ReplicaRun added = {set, run, check->count, 0};
    for (int i = 0; i < table->count; i++) {
        const Param *param = &table->rows[i];
        if (param->run != run || (has && !has[i]) || !has_copies(check->model, param)) continue;
        check->replicas[check->count] = (Replica){folder, param};
        check->places[check->count] = param->offset;
        check->elements[check->count++] = tensor_elements(param_tensor(table, set, i));
    }
    added.count = check->count - added.first;
    if (added.count > 0) check->runs[check->run_count++] = added;
}

static void layout(ReplicaCheck *check) {
    check->sums = arena_2d(&check->arena, I64, check->count, 2);
    check->host_sums = arena_mirror(&check->host_arena, check->sums);
}

void replica_check_open(ReplicaCheck *check, Model *model, const Optimizer *optimizer) {
    *check = (ReplicaCheck){.model = model, .checked_step = -1};
    if (model->work.shape.ranks == 1) return;
    size_t sets = (size_t)optimizer->state_count + 1;
    size_t most = (size_t)model->params.count * sets;
    check->replicas = calloc(most, sizeof *check->replicas);
    check->places = calloc(most, sizeof *check->places);
    check->elements = calloc(most, sizeof *check->elements);
    check->runs = calloc(sets * PARAM_RUNS, sizeof *check->runs);
    CHECK_MEMORY(check->replicas && check->places && check->elements && check->runs,
                 "no memory for a list of %zu tensors", most);
    for (int run = 0; run < PARAM_RUNS; run++)
        add_run(check, "parameters", &model->params, NULL, model->values, (ParamRun)run);
    for (int s = 0; s < optimizer->state_count; s++) {
        const OptimizerState *state = &optimizer->states[s];
        for (int run = 0; run < GRADIENT_RUNS; run++)
            add_run(check, state->name, &state->params, state->has, state->set, (ParamRun)run);
    }
    arena_measure(&check->arena, "checksums of replicas", model->work.dev);
    arena_measure(&check->host_arena, "checksums of replicas", NULL);
    layout(check);
    arena_allocate(&check->arena);
    arena_allocate(&check->host_arena);
    layout(check);
}

void replica_check_close(ReplicaCheck *check) {
    arena_free(&check->arena);
    arena_free(&check->host_arena);
    free(check->replicas);
    free(check->places);
    free(check->elements);
    free(check->runs);
    *check = (ReplicaCheck){0};
}

size_t replica_check_bytes(const Model *model, const Optimizer *optimizer) {
    size_t sets = (size_t)optimizer->state_count + 1;
    if (model->work.shape.ranks == 1) return 0;
    return sets * ((size_t)model->params.count * (sizeof(Replica) + 4 * sizeof(int64_t)) +
                   PARAM_RUNS * sizeof(ReplicaRun));
}

// ---- comparing ----------------------------------------------------------------------------------

static void take_sums(ReplicaCheck *check) {
    Device *dev = check->model->work.dev;
    fill_zero(dev, check->sums);
    for (int i = 0; i < check->run_count; i++) {
        const ReplicaRun *run = &check->runs[i];
        CheckedRuns of = {.count = run->count,
                          .first = check->places + run->first,
                          .rows = check->elements + run->first,
                          .except = -1};
        checksums(dev, tensor_rows(check->sums, run->first, run->count), run->set.run[run->run],
                  of);
    }
    device_download(dev, check->host_sums, check->sums);
}

// One rank's checksums, of what all hold and of its experts.
typedef struct Digest {
    Hash dense, experts;
} Digest;

static Digest digest_of(const ReplicaCheck *check) {
    Hasher *dense = hasher_open(), *experts = hasher_open();
    const int64_t *sums = tensor_i64(check->host_sums);
    for (int64_t i = 0; i < check->count; i++)
        hasher_add(check->replicas[i].param->kind == PARAM_DENSE ? dense : experts, sums + 2 * i,
                   2 * sizeof *sums);
    Hash of_dense = hasher_close(dense);
    return (Digest){of_dense, hasher_close(experts)};
}

static bool all_alike(const ReplicaCheck *check) {
    int ranks = comm_size(), ep = (int)check->model->work.shape.ep_size;
    const int64_t bytes = sizeof(Digest);
    Digest own = digest_of(check), *all = calloc((size_t)ranks, sizeof *all);
    CHECK_MEMORY(all, "no memory for the hashes of %d ranks", ranks);
    all_gather(comm_world(), tensor_1d(all, U8, ranks * bytes), tensor_1d(&own, U8, bytes),
               TRAFFIC_OTHER);
    bool alike = true;
    for (int rank = 1; rank < ranks; rank++)
        alike = alike && hash_equal(all[rank].dense, all[0].dense) &&
                hash_equal(all[rank].experts, all[rank % ep].experts);
    free(all);
    return alike;
}

// The ranks that hold copies of one tensor, first, first + stride, …, and how they differ.
typedef struct Difference {
    int64_t replica;
    int ranks, first, stride;
    int most, same;  // the first of those that agree, and how many do
    int odd, others; // the first that does not, and how many more do not
} Difference;

// `sums` (ranks, count, 2). False when all holders have the same.
static bool find_difference(const ReplicaCheck *check, const int64_t *sums, Difference *found) {
    int alike_most = 0, most = found->first;
    int64_t pair = 2 * found->replica, row = 2 * check->count;
    for (int i = 0; i < found->ranks; i++) {
        int rank = found->first + i * found->stride, alike = 0;
        for (int k = 0; k < found->ranks; k++) {
            int other = found->first + k * found->stride;
            alike +=
                memcmp(sums + rank * row + pair, sums + other * row + pair, 2 * sizeof *sums) == 0;
        }
        if (alike > alike_most) alike_most = alike, most = rank;
    }
    found->same = alike_most;
    found->most = most;
    if (alike_most == found->ranks) return false;
    found->odd = -1;
    found->others = found->ranks - alike_most - 1;
    for (int i = 0; i < found->ranks && found->odd < 0; i++) {
        int rank = found->first + i * found->stride;
        if (memcmp(sums + rank * row + pair, sums + most * row + pair, 2 * sizeof *sums) != 0)
            found->odd = rank;
    }
    return true;
}

static bool tell(const ReplicaCheck *check, const Difference *found, int64_t step, int64_t tensors,
                 const RankPlace *places, Error *err) {
    const Replica *replica = &check->replicas[found->replica];
    char more[64] = "", others[64] = "";
    if (tensors > 1) snprintf(more, sizeof more, ", the first of %lld tensors", (long long)tensors);
    if (found->others > 0)
        snprintf(others, sizeof others, ", and %d rank%s beside it,", found->others,
                 found->others == 1 ? "" : "s");
    bool sure = 2 * found->same > found->ranks;
    if (sure)
        return error_set(err, EXIT_NUMERIC,
                         "step %lld: rank %d on %s%s has another %s/%s%s than the %d other ranks "
                         "that hold it; nothing of this is saved. A flipped bit or wrong "
                         "arithmetic on that host: go on from the last checkpoint, without the "
                         "host if it happens again",
                         (long long)step, found->odd, places[found->odd].host, others,
                         replica->folder, replica->param->name, more, found->same);
    return error_set(err, EXIT_NUMERIC,
                     "step %lld: rank %d on %s and rank %d on %s have different %s/%s%s, and no "
                     "majority of the %d ranks that hold it says which is right; nothing of this "
                     "is saved. A flipped bit or wrong arithmetic: go on from the last checkpoint",
                     (long long)step, found->most, places[found->most].host, found->odd,
                     places[found->odd].host, replica->folder, replica->param->name, more,
                     found->ranks);
}

// Which tensor, whose. Every rank comes to the same answer. Collective over all ranks.
static bool name_difference(const ReplicaCheck *check, int64_t step, Error *err) {
    int ranks = comm_size(), ep = (int)check->model->work.shape.ep_size;
    int64_t row = 2 * check->count;
    int64_t *sums = calloc((size_t)(ranks * row), sizeof *sums);
    CHECK_MEMORY(sums, "no memory for the checksums of %d ranks", ranks);
    all_gather(comm_world(), tensor_1d(sums, I64, ranks * row),
               tensor_reshape_1d(check->host_sums, row), TRAFFIC_OTHER);
    const RankPlace *places = rank_places();
    Difference first = {.replica = -1};
    int64_t tensors = 0;
    for (int64_t i = 0; i < check->count; i++) {
        bool dense = check->replicas[i].param->kind == PARAM_DENSE, differs = false;
        for (int group = 0; group < (dense ? 1 : ep); group++) {
            Difference here = {.replica = i,
                               .ranks = dense ? ranks : ranks / ep,
                               .first = group,
                               .stride = dense ? 1 : ep};
            if (!find_difference(check, sums, &here)) continue;
            if (first.replica < 0) first = here;
            differs = true;
        }
        tensors += differs;
    }
    CHECK(first.replica >= 0, "hashes of equal checksums differ");
    tell(check, &first, step, tensors, places, err);
    free(sums);
    return false;
}

bool replica_check_compare(ReplicaCheck *check, int64_t step, Error *err) {
    if (check->count == 0 || check->checked_step == step) return true;
    take_sums(check);
    if (!all_alike(check)) return name_difference(check, step, err);
    check->checked_step = step;
    return true;
}
