#include "worker/watch/recheck.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/run/rank_places.h"

static const Choice KINDS[] = {
    [RECHECK_OFF] = {"off", "never"},
    [RECHECK_SUSPICIOUS] = {"suspicious",
                            "steps that are not finite, and outliers by train.skip_z"},
    [RECHECK_EVERY] = {"every", "those, and each run.recheck_every-th step"},
};
const ChoiceTable RECHECK_CHOICES = CHOICE_TABLE(KINDS);

static void layout(Recheck *recheck) {
    recheck->sums = arena_2d(&recheck->arena, I64, recheck->slots, 2);
    recheck->found = arena_2d(&recheck->host_arena, I64, recheck->slots, 2);
    recheck->before = arena_2d(&recheck->host_arena, I64, recheck->slots, 2);
}

void recheck_open(Recheck *recheck, Model *model, const TrainConfig *config) {
    *recheck = (Recheck){.kind = config->recheck, .every = config->recheck_every, .model = model};
    if (recheck->kind == RECHECK_OFF) return;
    recheck->slots = gradients_sums(&model->gradients) + 1;
    arena_measure(&recheck->arena, "checksums of a step", model->work.dev);
    arena_measure(&recheck->host_arena, "checksums of a step", NULL);
    layout(recheck);
    arena_allocate(&recheck->arena);
    arena_allocate(&recheck->host_arena);
    layout(recheck);
}

void recheck_close(Recheck *recheck) {
    arena_free(&recheck->arena);
    arena_free(&recheck->host_arena);
    *recheck = (Recheck){0};
}

size_t recheck_bytes(const Model *model, const TrainConfig *config) {
    if (config->recheck == RECHECK_OFF) return 0;
    return (size_t)(gradients_sums(&model->gradients) + 1) * 3 * 2 * sizeof(int64_t) + 256;
}

void recheck_begin(Recheck *recheck) {
    if (recheck->kind == RECHECK_OFF) return;
    fill_zero(recheck->model->work.dev, recheck->sums);
    recheck->model->gradients.local_sums = tensor_rows(recheck->sums, 0, recheck->slots - 1);
}

void recheck_add_statistics(Recheck *recheck) {
    if (recheck->kind == RECHECK_OFF) return;
    Device *dev = recheck->model->work.dev;
    Tensor rows = recheck->model->stats.sums;
    CheckedRuns all = {.count = 1, .rows = &rows.shape[0], .except = -1};
    checksums(dev, tensor_rows(recheck->sums, recheck->slots - 1, 1), rows, all);
    device_download(dev, recheck->found, recheck->sums);
}

bool recheck_is_due(Recheck *recheck, int64_t step, double loss, double norm, bool suspicious) {
    if (recheck->kind == RECHECK_OFF) return false;
    Error ignored = {0};
    bool in_turn = recheck->kind == RECHECK_EVERY && step % recheck->every == 0;
    // Where memory is at fault ranks may see different numbers.
    if (comm_agree(!suspicious, &ignored) && !in_turn) return false;
    memcpy(recheck->before.data, recheck->found.data, tensor_bytes(recheck->found));
    recheck->loss = loss;
    recheck->norm = norm;
    return true;
}

// ---- comparing ----------------------------------------------------------------------------------

// What a rank computed otherwise the second time.
enum { LOCAL_LOSS = 1, LOCAL_DENSE = 2, LOCAL_EXPERTS = 4, SUMS = 8 };

static uint8_t differences(const Recheck *recheck, double loss, double norm) {
    const int64_t *now = tensor_i64(recheck->found), *before = tensor_i64(recheck->before);
    bool same = memcmp(&loss, &recheck->loss, sizeof loss) == 0 &&
                memcmp(&norm, &recheck->norm, sizeof norm) == 0;
    uint8_t found = same ? 0 : SUMS;
    for (int64_t i = 0; i < recheck->slots; i++) {
        if (memcmp(now + 2 * i, before + 2 * i, 2 * sizeof *now) == 0) continue;
        if (i == recheck->slots - 1)
            found |= LOCAL_LOSS;
        else
            found |= gradients_sum_run(&recheck->model->gradients, i) == RUN_DENSE ? LOCAL_DENSE
                                                                                   : LOCAL_EXPERTS;
    }
    return found;
}

// "its losses, gradients, gradients of its experts"
static void name_local(uint8_t found, char *text, size_t bytes) {
    static const struct {
        uint8_t bit;
        const char *name;
    } names[] = {{LOCAL_LOSS, "losses"},
                 {LOCAL_DENSE, "gradients"},
                 {LOCAL_EXPERTS, "gradients of its experts"},
                 {SUMS, "sums over ranks"}};
    text[0] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (found & names[i].bit) {
            size_t used = strlen(text);
            snprintf(text + used, bytes - used, "%s%s", used ? ", " : "", names[i].name);
        }
}

static bool tell(const uint8_t *found, int64_t step, const Recheck *recheck, double loss,
                 double norm, Error *err) {
    char ranks[512] = "", what[128];
    uint8_t everywhere = SUMS; // what changed on all ranks names none
    for (int rank = 0; rank < comm_size(); rank++) everywhere &= found[rank];
    const RankPlace *places = rank_places();
    for (int rank = 0; rank < comm_size(); rank++) {
        size_t used = strlen(ranks);
        name_local(found[rank] & (uint8_t)~everywhere, what, sizeof what);
        if (what[0] && used < sizeof ranks - 200)
            snprintf(ranks + used, sizeof ranks - used, "%s rank %d on %.63s (%s)", used ? "," : "",
                     rank, places[rank].host, what);
    }
    return error_set(err, EXIT_NUMERIC,
                     "step %lld, computed twice from the same tokens, gave loss %.17g and %.17g, "
                     "gradient norm %.17g and %.17g: wrong arithmetic or memory, or a bug. %s%s; "
                     "the step is not applied and nothing is saved. Go on from the last "
                     "checkpoint, without that host if it happens again",
                     (long long)step, recheck->loss, loss, recheck->norm, norm,
                     ranks[0] ? "What a rank alone had computed changed on"
                              : "No rank's own result changed, but the sum over ranks",
                     ranks);
}

bool recheck_compare(Recheck *recheck, int64_t step, double loss, double norm, Error *err) {
    int ranks = comm_size();
    uint8_t own = differences(recheck, loss, norm), any = 0, *all = calloc((size_t)ranks, 1);
    CHECK_MEMORY(all, "no memory for the answers of %d ranks", ranks);
    all_gather(comm_world(), tensor_1d(all, U8, ranks), tensor_1d(&own, U8, 1), TRAFFIC_OTHER);
    for (int rank = 0; rank < ranks; rank++) any |= all[rank];
    if (any) tell(all, step, recheck, loss, norm, err);
    free(all);
    return !any;
}
