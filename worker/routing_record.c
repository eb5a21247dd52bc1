#include "worker/routing_record.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/shard_run.h"

static bool is_used(const TrainConfig *config) {
    return config->routing_record[0] || config->routing_replay[0];
}

// ---- memory -------------------------------------------------------------------------------------

static RoutingShape shape_of(const Work *work, RoutingLayer *of) {
    const ModelConfig *model = work->config;
    RoutingShape shape = {model_blocks(model), of, work->shape.micro_batches,
                          micro_batch_tokens(work)};
    for (int64_t l = 0; l < shape.layers; l++) {
        MoeShape moe = moe_shape(model, l);
        if (model_is_routed(model, l)) of[l] = (RoutingLayer){moe.scored, moe.top_k};
    }
    return shape;
}

// Of the rank that has most in a micro-batch: the others' tapes have room behind their own.
static int64_t most_tokens(const Work *work) {
    return work->shape.N / work->shape.shards * work->shape.most_shards;
}

static void layout(RoutingRecord *record, const Work *work) {
    const RoutingShape *shape = &record->shape;
    int64_t all = shape->micro_batches * shape->tokens, most = 0;
    for (int64_t l = 0; l < shape->layers; l++) {
        int64_t K = shape->of[l].top_k;
        if (K == 0) continue;
        record->tape.layers[l] =
            arena_2d(&record->arena, I32, shape->micro_batches * most_tokens(work), K);
        record->step[l] = arena_2d(&record->arena, I32, all, K);
        int64_t gathered = work->shape.ranks * shape->micro_batches * most_tokens(work) * K;
        if (gathered > most) most = gathered;
    }
    record->gathered = arena_1d(&record->arena, I32, most);
}

static void measure(RoutingRecord *record, const Work *work) {
    size_t layers = (size_t)model_blocks(work->config);
    *record = (RoutingRecord){.of = calloc(layers, sizeof *record->of),
                              .step = calloc(layers, sizeof *record->step),
                              .tape = {.layers = calloc(layers, sizeof *record->step)}};
    CHECK_MEMORY(record->of && record->step && record->tape.layers,
                 "no memory for the routing of %zu layers", layers);
    record->shape = shape_of(work, record->of);
    arena_measure(&record->arena, "routing of a step", NULL);
    layout(record, work);
}

size_t routing_record_bytes(const TrainConfig *config, const Model *model) {
    if (!is_used(config)) return 0;
    RoutingRecord record;
    measure(&record, &model->work);
    size_t bytes = record.arena.peak_bytes;
    bytes += tensor_bytes(record.gathered); // a layer in the process that has the file
    routing_record_close(&record);
    return bytes;
}

void routing_record_close(RoutingRecord *record) {
    routing_file_close(record->file);
    arena_free(&record->arena);
    free(record->of);
    free(record->step);
    free(record->tape.layers);
    *record = (RoutingRecord){0};
}

// ---- opening ------------------------------------------------------------------------------------

static bool open_file(RoutingRecord *record, const TrainConfig *config, int64_t after, Error *err) {
    if (record->tape.gives)
        return routing_file_replay(&record->file, config->routing_replay, record->shape, after,
                                   config->steps, err) ||
               error_prefix(err, "moe.replay");
    return routing_file_record(&record->file, config->routing_record, config->run_dir,
                               record->shape, after, err) ||
           error_prefix(err, "moe.record");
}

bool routing_record_open(RoutingRecord *record, const TrainConfig *config, Model *model,
                         int64_t after, Error *err) {
    if (!is_used(config)) return true;
    measure(record, &model->work);
    arena_allocate(&record->arena);
    layout(record, &model->work);
    record->tape.gives = config->routing_replay[0] != '\0';
    model->work.tape = &record->tape;
    return comm_follow(comm_rank() != 0 || open_file(record, config, after, err), err);
}

// ---- steps --------------------------------------------------------------------------------------

// Rank `rank`'s tokens of micro-batch m among those of the step, which are ordered by (micro-batch,
// rank).
static Tensor piece(Tensor step, const RankShape *shape, int64_t m, int64_t rank) {
    int64_t of_shard = shape->N / shape->shards;
    ShardRun run = shard_run(shape->deal, rank);
    return tensor_rows(step, of_shard * (m * shape->all_shards + run.first), of_shard * run.count);
}
static void copy_piece(Tensor to, Tensor from) {
    memcpy(to.data, from.data, tensor_bytes(from));
}

bool routing_record_before_step(RoutingRecord *record, Model *model, int64_t step, Error *err) {
    if (!record->tape.gives) return true;
    const Work *work = &model->work;
    const RankShape *shape = &work->shape;
    bool ok = comm_rank() != 0 || routing_file_read(record->file, step, record->step, err) ||
              error_prefix(err, "moe.replay");
    if (!comm_follow(ok, err)) return false;
    for (int64_t l = 0; l < record->shape.layers; l++) {
        Tensor all = record->step[l];
        if (!all.data) continue;
        broadcast(work->groups.world, all.data, tensor_bytes(all), 0);
        for (int64_t m = 0; m < shape->micro_batches; m++)
            copy_piece(tensor_rows(record->tape.layers[l], m * shape->N, shape->N),
                       piece(all, shape, m, shape->rank));
    }
    return true;
}

bool routing_record_after_step(RoutingRecord *record, Model *model, int64_t step, Error *err) {
    if (!record->tape.layers || record->tape.gives) return true;
    const Work *work = &model->work;
    const RankShape *shape = &work->shape;
    for (int64_t l = 0; l < record->shape.layers; l++) {
        Tensor own = record->tape.layers[l];
        if (!own.data) continue;
        int64_t choices = tensor_elements(own), K = own.shape[1];
        Tensor gathered = tensor_range(record->gathered, 0, shape->ranks * choices);
        all_gather(work->groups.world, gathered, tensor_reshape_1d(own, choices), TRAFFIC_OTHER);
        gathered = tensor_reshape_2d(gathered, shape->ranks * own.shape[0], K);
        for (int64_t r = 0; r < shape->ranks; r++)
            for (int64_t m = 0; m < shape->micro_batches; m++) {
                Tensor to = piece(record->step[l], shape, m, r);
                int64_t rows = to.shape[0];
                copy_piece(to, tensor_rows(gathered, r * own.shape[0] + m * rows, rows));
            }
    }
    bool ok = comm_rank() != 0 || routing_file_write(record->file, step, record->step, err) ||
              error_prefix(err, "moe.record");
    return comm_follow(ok, err);
}
