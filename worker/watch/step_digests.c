#include "worker/watch/step_digests.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/hash.h"
#include "comm/comm.h"
#include "comm/shard_run.h"
#include "kernels/deal.h"
#include "kernels/integers.h"
#include "model/exchange_check.h"
#include "worker/run/json_file.h"

enum { GRADIENTS, SETS_AFTER_UPDATE };

// ---- what there is ------------------------------------------------------------------------------

// Pieces of all ranks in which an expert parameter is hashed: one an expert, or where there are
// very many, as of PEER, and in their order, equal groups, as long as each lies on one rank.
static int64_t pieces_of_all(const Param *param, int64_t ranks) {
    enum { MANY_EXPERTS = 1024, GROUPS = 256 };
    int64_t experts = param->shape[0], groups = greatest_common_divisor(experts, GROUPS);
    Deal deal = deal_evenly(experts, ranks);
    bool whole = deal.large % (experts / groups) == 0 && deal.small % (experts / groups) == 0;
    return experts > MANY_EXPERTS && whole && !param->places ? groups : experts;
}
// Of a rank, by its place in its expert-parallel group; the first one has most.
static int64_t pieces_of_rank(const ParamTable *table, const Param *param, int64_t ep_rank) {
    if (param->kind == PARAM_DENSE) return 1;
    int64_t ranks = larger(table->ep_size, 1);
    return deal_count(deal_evenly(pieces_of_all(param, ranks), ranks), ep_rank);
}

static int64_t add_pieces(StepDigests *digests, const DigestedSet *set, ParamRun run,
                          int64_t piece) {
    for (int i = 0; i < set->table->count; i++) {
        const Param *param = &set->table->rows[i];
        if (param->run != run || (set->has && !set->has[i])) continue;
        int64_t most = pieces_of_rank(set->table, param, 0);
        int64_t pieces = pieces_of_rank(set->table, param, set->table->ep_rank);
        int64_t elements = param_local_elements(param) / pieces;
        for (int64_t p = 0; p < most; p++, piece++) {
            if (!digests->places) continue; // counting
            digests->places[piece] = param->offset + (p < pieces ? p * elements : 0);
            digests->elements[piece] = p < pieces ? elements : 0;
        }
    }
    return piece;
}

static int runs_of(const DigestedSet *set) {
    return set->set.run[RUN_RULE].rank > 0 ? PARAM_RUNS : GRADIENT_RUNS;
}

// Numbers the pieces of all sets; their number.
static int64_t list_pieces(StepDigests *digests) {
    int64_t piece = 0;
    for (int s = 0; s < digests->set_count; s++) {
        DigestedSet *set = &digests->sets[s];
        set->first = piece;
        for (int run = 0; run < runs_of(set); run++)
            piece = add_pieces(digests, set, (ParamRun)run, piece);
        set->count = piece - set->first;
    }
    return piece;
}

static void list_sets(StepDigests *digests, Model *model, const Optimizer *optimizer) {
    digests->model = model;
    digests->sets[digests->set_count++] =
        (DigestedSet){"gradients", &model->params, NULL, model->gradients.sum, 0, 0};
    digests->sets[digests->set_count++] =
        (DigestedSet){"parameters", &model->params, NULL, model->values, 0, 0};
    for (int s = 0; s < optimizer->state_count; s++) {
        const OptimizerState *state = &optimizer->states[s];
        digests->sets[digests->set_count++] =
            (DigestedSet){state->name, &state->params, state->has, state->set, 0, 0};
    }
}

static void layout(StepDigests *digests) {
    stream_digests_layout(&digests->stream, &digests->model->work, &digests->arena,
                          &digests->host_arena);
    digests->sums = arena_2d(&digests->arena, I64, digests->pieces, 2);
    digests->host_sums = arena_mirror(&digests->host_arena, digests->sums);
}

void step_digests_open(StepDigests *digests, int64_t every, Model *model,
                       const Optimizer *optimizer) {
    *digests = (StepDigests){.every = every};
    if (every == 0) return;
    list_sets(digests, model, optimizer);
    digests->pieces = list_pieces(digests);
    digests->places = calloc((size_t)digests->pieces, sizeof *digests->places);
    digests->elements = calloc((size_t)digests->pieces, sizeof *digests->elements);
    CHECK_MEMORY(digests->places && digests->elements, "no memory for a list of %lld tensors",
                 (long long)digests->pieces);
    list_pieces(digests);
    arena_measure(&digests->arena, "digests", model->work.dev);
    arena_measure(&digests->host_arena, "digests", NULL);
    layout(digests);
    arena_allocate(&digests->arena);
    arena_allocate(&digests->host_arena);
    layout(digests);
}

void step_digests_close(StepDigests *digests) {
    arena_free(&digests->arena);
    arena_free(&digests->host_arena);
    free(digests->places);
    free(digests->elements);
    row_file_close(digests->rows);
    *digests = (StepDigests){0};
}

size_t step_digests_bytes(int64_t every, const Model *model, const Optimizer *optimizer) {
    const RankShape *shape = &model->work.shape;
    size_t sets = (size_t)optimizer->state_count + 2, pieces = 0;
    if (every == 0) return 0;
    for (int i = 0; i < model->params.count; i++)
        pieces += (size_t)pieces_of_rank(&model->params, &model->params.rows[i], 0);
    size_t sums = 2 * (sets * pieces + (size_t)stream_sums_most(&model->work));
    // The rank's lists, sums, and rank 0's of all ranks with the text that is made of them.
    enum { TEXT_BYTES_A_SUM = 64 };
    return (size_t)stream_places_most(&model->config) * sizeof(DigestPlace) +
           sums * sizeof(int64_t) * (2 + (size_t)shape->ranks) +
           sums / 2 * TEXT_BYTES_A_SUM * (size_t)shape->ranks;
}

bool step_digests_open_file(StepDigests *digests, const char *run_dir, int64_t last_step,
                            Error *err) {
    char path[CONFIG_PATH_BYTES + 32];
    if (digests->every == 0 || comm_rank() != 0) return true;
    row_file_close(digests->rows);
    digests->rows = NULL;
    snprintf(path, sizeof path, "%s/digests.jsonl", run_dir);
    return row_file_open(&digests->rows, path, last_step, err);
}

// ---- a step -------------------------------------------------------------------------------------

bool step_digests_due(const StepDigests *digests) {
    return digests->every > 0 && digests->model->work.digests;
}

void step_digests_begin_step(StepDigests *digests, int64_t step) {
    if (digests->every == 0) return;
    digests->model->work.digests = step % digests->every == 0 ? &digests->stream : NULL;
    if (step_digests_due(digests)) fill_zero(digests->model->work.dev, digests->sums);
}

static void take(StepDigests *digests, const DigestedSet *set) {
    int64_t first = set->first;
    for (int run = 0; run < runs_of(set); run++) {
        int64_t count = add_pieces(&(StepDigests){0}, set, (ParamRun)run, 0);
        if (count > 0)
            checksums(digests->model->work.dev, tensor_rows(digests->sums, first, count),
                      set->set.run[run],
                      (CheckedRuns){.count = count,
                                    .first = digests->places + first,
                                    .rows = digests->elements + first,
                                    .except = -1});
        first += count;
    }
}

void step_digests_take_gradients(StepDigests *digests) {
    if (!step_digests_due(digests)) return;
    // With micro-batches one set or another holds the sum.
    digests->sets[GRADIENTS].set = digests->model->gradients.sum;
    take(digests, &digests->sets[GRADIENTS]);
}

// ---- the row ------------------------------------------------------------------------------------

static json_t *text_of(const int64_t sums[2]) {
    char text[17];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)checksums_hash(sums));
    return json_string(text);
}

// Of one place, in `sums` (ranks, used, 2): windows are counted rank by rank in a micro-batch.
static json_t *window_rows(const StepDigests *digests, const int64_t *sums, int64_t first) {
    const RankShape *shape = &digests->model->work.shape;
    int64_t most = stream_windows(shape), of_shard = shape->B / shape->shards;
    json_t *windows = json_array();
    for (int64_t m = 0; m < shape->micro_batches; m++)
        for (int64_t rank = 0; rank < shape->ranks; rank++) {
            const int64_t *of_micro_batch =
                sums + 2 * (rank * digests->stream.used + first + m * most);
            ShardRun run = shard_run(shape->deal, rank);
            for (int64_t b = 0; b < of_shard * run.count; b++)
                json_array_append_new(windows, text_of(of_micro_batch + 2 * b));
        }
    return windows;
}

// Sum `first` of all ranks that hold what rank `holder` of the first group holds. The plain sum
// alone, in which no order counts.
static json_t *text_of_holders(const StepDigests *digests, const int64_t *sums, int64_t holder,
                               int64_t first) {
    const RankShape *shape = &digests->model->work.shape;
    int64_t both[2] = {0};
    for (int64_t rank = holder; rank < shape->ranks; rank += shape->ep_size)
        both[0] = (int64_t)((uint64_t)both[0] +
                            (uint64_t)sums[2 * (rank * digests->stream.used + first)]);
    return text_of(both);
}

static json_t *expert_rows(const StepDigests *digests, const int64_t *sums,
                           const DigestPlace *place) {
    const RankShape *shape = &digests->model->work.shape;
    const ExpertPlaces *experts = place->experts;
    Deal deal = deal_evenly(experts->E, shape->ep_size);
    json_t *texts = json_array();
    for (int64_t e = 0; e < experts->E; e++) {
        int64_t at = experts->place_of[e], holder = 0;
        while (deal_first(deal, holder + 1) <= at) holder++;
        int64_t first = place->first + at - deal_first(deal, holder);
        json_array_append_new(texts, text_of_holders(digests, sums, holder, first));
    }
    return json_pack("{s:o}", "experts", texts);
}

// A part has the sum of its rank.
static json_t *part_rows(const StepDigests *digests, const int64_t *sums,
                         const DigestPlace *place) {
    int64_t of_rank = place->parts / digests->model->work.shape.ep_size;
    json_t *texts = json_array();
    for (int64_t p = 0; p < place->parts; p++)
        json_array_append_new(texts, text_of_holders(digests, sums, p / of_rank, place->first));
    return json_pack("{s:o}", "parts", texts);
}

static json_t *stream_rows(const StepDigests *digests, const int64_t *sums, DigestPass pass) {
    json_t *folder = json_object();
    for (int64_t place = 0; place < digests->stream.count; place++) {
        const DigestPlace *named = &digests->stream.places[place];
        if (named->pass != pass) continue;
        CHECK(!json_object_get(folder, named->name), "%s has two places", named->name);
        json_t *row = named->parts > 0 ? part_rows(digests, sums, named)
                      : named->experts ? expert_rows(digests, sums, named)
                                       : window_rows(digests, sums, named->first);
        json_object_set_new(folder, named->name, row);
    }
    return folder;
}

// The totals of every column, as summed over ranks; not what only several ranks have to check.
static json_t *statistics_rows_of(const Statistics *stats) {
    json_t *folder = json_object();
    for (int i = 0; i < stats->column_count; i++) {
        const StatisticsColumn *column = &stats->columns[i];
        if (strcmp(column->name, EXCHANGE_COLUMN) == 0) continue;
        char layer[32] = "", name[sizeof layer + STATISTICS_NAME_BYTES];
        if (column->layer != STATISTICS_MODEL)
            snprintf(layer, sizeof layer, "layers.%lld.", (long long)column->layer);
        snprintf(name, sizeof name, "%s%s", layer, column->name);
        const void *totals = column->kind == STATISTICS_COUNTS
                                 ? (const void *)statistics_counts_of(stats, column)
                                 : (const void *)statistics_sums_of(stats, column);
        Hash hash = hash_bytes(totals, (size_t)column->count * sizeof(double));
        int64_t sums[2];
        memcpy(sums, hash.bytes, sizeof sums);
        json_object_set_new(folder, name, json_pack("[o]", text_of(sums)));
    }
    return folder;
}

// The sums of a piece: of a dense tensor rank 0's, of experts that rank's, among the first ones, on
// which it lies. `sums` (ranks, pieces, 2), of which `first` is the parameter's first piece.
static const int64_t *sums_of(const StepDigests *digests, const ParamTable *table,
                              const Param *param, const int64_t *sums, int64_t first,
                              int64_t piece) {
    int64_t place = param->places ? param->places->place_of[piece] : piece, rank = 0;
    for (int64_t held; place >= (held = pieces_of_rank(table, param, rank)); rank++) place -= held;
    return sums + 2 * (rank * digests->pieces + first + place);
}

static json_t *tensor_rows_of(const StepDigests *digests, const DigestedSet *set,
                              const int64_t *sums) {
    json_t *folder = json_object();
    int64_t piece = set->first, ep = digests->model->work.shape.ep_size;
    for (int run = 0; run < runs_of(set); run++)
        for (int i = 0; i < set->table->count; i++) {
            const Param *param = &set->table->rows[i];
            if (param->run != (ParamRun)run || (set->has && !set->has[i])) continue;
            json_t *texts = json_array();
            bool dense = param->kind == PARAM_DENSE;
            for (int64_t p = 0; p < (dense ? 1 : pieces_of_all(param, ep)); p++)
                json_array_append_new(texts,
                                      text_of(sums_of(digests, set->table, param, sums, piece, p)));
            json_object_set_new(folder, param->name, texts);
            piece += pieces_of_rank(set->table, param, 0);
        }
    return folder;
}

static void write_row(StepDigests *digests, int64_t step, const int64_t *stream,
                      const int64_t *tensors) {
    const RankShape *shape = &digests->model->work.shape;
    json_t *row = json_pack(
        "{s:i, s:I, s:I, s:I}", "format", DIGESTS_FORMAT, "step", (json_int_t)step, "windows",
        (json_int_t)(shape->all_shards * shape->micro_batches * (shape->B / shape->shards)),
        "windows_a_shard", (json_int_t)(shape->B / shape->shards));
    json_object_set_new(row, "forward", stream_rows(digests, stream, DIGEST_FORWARD));
    json_object_set_new(row, "backward", stream_rows(digests, stream, DIGEST_BACKWARD));
    json_object_set_new(row, "statistics", statistics_rows_of(&digests->model->stats));
    for (int s = 0; s < digests->set_count; s++)
        json_object_set_new(row, digests->sets[s].folder,
                            tensor_rows_of(digests, &digests->sets[s], tensors));
    char *line = json_dumps(row, JSON_COMPACT), *text = NULL;
    if (line && asprintf(&text, "%s\n", line) >= 0) row_file_append(digests->rows, text);
    free(text);
    free(line);
    json_decref(row);
}

// The first `rows` sums of every rank, in rank order. Needs free. Collective over all ranks.
static int64_t *gather(Device *dev, Tensor host_sums, Tensor sums, int64_t rows) {
    sums = tensor_rows(sums, 0, rows);
    host_sums = tensor_rows(host_sums, 0, rows);
    int64_t count = tensor_elements(sums);
    int64_t *all = calloc((size_t)(comm_size() * count), sizeof *all);
    CHECK_MEMORY(all, "no memory for the digests of %d ranks", comm_size());
    device_download(dev, host_sums, sums);
    all_gather(comm_world(), tensor_1d(all, I64, comm_size() * count),
               tensor_reshape_1d(host_sums, count), TRAFFIC_OTHER);
    return all;
}

void step_digests_end_step(StepDigests *digests, int64_t step) {
    if (!step_digests_due(digests)) return;
    Device *dev = digests->model->work.dev;
    for (int s = SETS_AFTER_UPDATE; s < digests->set_count; s++) take(digests, &digests->sets[s]);
    const StreamDigests *of_stream = &digests->stream;
    int64_t *stream = gather(dev, of_stream->host_sums, of_stream->sums, of_stream->used);
    int64_t *tensors = gather(dev, digests->host_sums, digests->sums, digests->pieces);
    if (comm_rank() == 0) write_row(digests, step, stream, tensors);
    free(tensors);
    free(stream);
    digests->model->work.digests = NULL;
}
