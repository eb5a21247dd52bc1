#include "worker/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

static const char code_points_name[] = "data/code_points";

static SavedTensor saved_param(const Model *model, ParamSet set, int index, const char *folder) {
    const Param *row = &model->params.rows[index];
    SavedTensor saved = {
        .dtype = F32,
        .rank = row->rank,
        .first = row->first,
        .count = row->count,
        .replicated = row->kind == PARAM_DENSE,
        .replica = (int)(comm_rank() / model->work.ep_size),
        .data = param_tensor(&model->params, set, index).data,
    };
    memcpy(saved.shape, row->shape, sizeof saved.shape);
    snprintf(saved.name, sizeof saved.name, "%s/%.96s", folder, row->name);
    return saved;
}

SavedTensor *saved_tensors(Model *model, Optimizer *optimizer, const Vocabulary *vocabulary,
                           int *count) {
    int rows = model->params.count, n = 0;
    SavedTensor *saved = calloc((size_t)rows * 3 + 1, sizeof *saved);
    CHECK(saved, "no memory for the list of saved tensors");
    for (int i = 0; i < rows; i++) saved[n++] = saved_param(model, model->values, i, "parameters");
    for (int i = 0; i < rows && optimizer; i++)
        saved[n++] = saved_param(model, optimizer->m, i, "optimizer/m");
    for (int i = 0; i < rows && optimizer; i++)
        saved[n++] = saved_param(model, optimizer->v, i, "optimizer/v");
    if (vocabulary->code_points) {
        saved[n] = (SavedTensor){.dtype = I32,
                                 .rank = 1,
                                 .shape = {vocabulary->size, 1, 1},
                                 .count = vocabulary->size,
                                 .replicated = true,
                                 .data = vocabulary->code_points};
        snprintf(saved[n++].name, sizeof saved->name, "%s", code_points_name);
    }
    *count = n;
    return saved;
}

// The vocabulary of a checkpoint: its size is that of the embedding; characters have their code points saved.
// Collective over all ranks.
static bool restore_vocabulary(Vocabulary *vocabulary, const TrainConfig *config,
                               const char *checkpoint_path, Error *err) {
    CheckpointInfo info;
    bool ok = checkpoint_read_info(checkpoint_path, &info, err);
    if (!comm_agree(ok, err)) return false; // from here on every rank has read the same
    int64_t size = 0;
    bool characters = false;
    for (int i = 0; i < info.tensor_count; i++) {
        if (strcmp(info.tensors[i].name, "parameters/embedding") == 0)
            size = info.tensors[i].shape[0];
        if (strcmp(info.tensors[i].name, code_points_name) == 0) characters = true;
    }
    checkpoint_free_info(&info);
    if (size == 0)
        return error_set(err, EXIT_CHECKPOINT, "%s: holds no parameters/embedding",
                         checkpoint_path);
    if (!characters) {
        vocabulary_from_code_points(vocabulary, &config->data, NULL, size);
        return true;
    }
    int32_t *code_points = calloc((size_t)size, sizeof *code_points);
    CHECK(code_points, "no memory for %lld code points", (long long)size);
    SavedTensor saved = {.dtype = I32,
                         .rank = 1,
                         .shape = {size, 1, 1},
                         .count = size,
                         .replicated = true,
                         .data = code_points};
    snprintf(saved.name, sizeof saved.name, "%s", code_points_name);
    Checkpoint checkpoint = {.tensors = &saved, .tensor_count = 1};
    ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    if (ok) vocabulary_from_code_points(vocabulary, &config->data, code_points, size);
    free(code_points);
    return ok;
}

bool restore_model(Restored *restored, const TrainConfig *config, ModelSplit split,
                   Session *session, const char *checkpoint_path, Error *err) {
    if (!checkpoint_verify(checkpoint_path, err)) return false;
    if (!restore_vocabulary(&restored->vocabulary, config, checkpoint_path, err)) return false;
    ModelConfig model = config->model;
    model.vocab_size = restored->vocabulary.size;
    model_measure(&restored->model, &model, split);
    model_allocate(&restored->model, &session->dev, session->groups, (uint64_t)config->seed);

    Checkpoint checkpoint = {0};
    checkpoint.tensors =
        saved_tensors(&restored->model, NULL, &(Vocabulary){0}, &checkpoint.tensor_count);
    bool ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    free(checkpoint.tensors);
    restored->state = checkpoint.state;
    return ok;
}

void restore_free(Restored *restored) {
    model_free(&restored->model);
    vocabulary_free(&restored->vocabulary);
}
