#include "worker/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

static const char code_points_name[] = "data/code_points";

static SavedTensor saved_param(const Model *model, const ParamTable *table, ParamSet set, int index,
                               const char *folder) {
    const Param *row = &table->rows[index];
    Tensor x = param_tensor(table, set, index);
    SavedTensor saved = {
        .dtype = F32,
        .rank = row->rank,
        .first_element = row->first * row->shape[1] * row->shape[2],
        .elements = tensor_elements(x),
        .replicated = row->kind == PARAM_DENSE,
        .replica = (int)(comm_rank() / model->work.shape.ep_size),
        .data = x.data,
    };
    memcpy(saved.shape, row->shape, sizeof saved.shape);
    snprintf(saved.name, sizeof saved.name, "%.24s/%.96s", folder, row->name);
    return saved;
}

// ---- the host's state ---------------------------------------------------------------------------

static ParamSet mirror(Arena *arena, ParamSet set, int runs) {
    ParamSet host = {0};
    for (int run = 0; run < runs; run++) host.run[run] = arena_mirror(arena, set.run[run]);
    return host;
}

static void layout(HostState *state) {
    state->values = mirror(&state->arena, state->model->values, PARAM_RUNS);
    for (int i = 0; state->optimizer && i < state->optimizer->state_count; i++)
        state->states[i] = mirror(&state->arena, state->optimizer->states[i].set, GRADIENT_RUNS);
}

void host_state_open(HostState *state, Model *model, Optimizer *optimizer) {
    *state = (HostState){.model = model, .optimizer = optimizer};
    arena_measure(&state->arena, "the state to be saved", NULL);
    layout(state);
    arena_allocate(&state->arena);
    layout(state);
}

void host_state_close(HostState *state) {
    arena_free(&state->arena);
}

void host_state_download(HostState *state) {
    Device *dev = state->model->work.dev;
    for (int run = 0; run < PARAM_RUNS; run++)
        device_download(dev, state->values.run[run], state->model->values.run[run]);
    for (int i = 0; state->optimizer && i < state->optimizer->state_count; i++)
        for (int run = 0; run < GRADIENT_RUNS; run++)
            device_download(dev, state->states[i].run[run],
                            state->optimizer->states[i].set.run[run]);
}

void host_state_upload(HostState *state) {
    Device *dev = state->model->work.dev;
    for (int run = 0; run < PARAM_RUNS; run++)
        device_upload(dev, state->model->values.run[run], state->values.run[run]);
    for (int i = 0; state->optimizer && i < state->optimizer->state_count; i++)
        for (int run = 0; run < GRADIENT_RUNS; run++)
            device_upload(dev, state->optimizer->states[i].set.run[run], state->states[i].run[run]);
    model_refresh_matrices(state->model);
}

// ---- the list of tensors ------------------------------------------------------------------------

SavedTensor *saved_tensors(const HostState *state, const Vocabulary *vocabulary, int *count) {
    const Model *model = state->model;
    int rows = model->params.count, n = 0;
    int states = state->optimizer ? state->optimizer->state_count : 0;
    SavedTensor *saved = calloc((size_t)rows * (size_t)(1 + states) + 1, sizeof *saved);
    CHECK_MEMORY(saved, "no memory for the list of saved tensors");
    for (int i = 0; i < rows; i++)
        saved[n++] = saved_param(model, &model->params, state->values, i, "parameters");
    for (int s = 0; s < states; s++) {
        const OptimizerState *kept = &state->optimizer->states[s];
        for (int i = 0; i < rows; i++) {
            if (!optimizer_has_state(state->optimizer, s, i)) continue;
            saved[n] = saved_param(model, &kept->params, state->states[s], i, kept->name);
            saved[n++].optional = s == state->optimizer->average;
        }
    }
    if (vocabulary->code_points) {
        saved[n] = (SavedTensor){.dtype = I32,
                                 .rank = 1,
                                 .shape = {vocabulary->size, 1, 1},
                                 .elements = vocabulary->size,
                                 .replicated = true,
                                 .data = vocabulary->code_points};
        snprintf(saved[n++].name, sizeof saved->name, "%s", code_points_name);
    }
    *count = n;
    return saved;
}

// The vocabulary of a checkpoint: its size is that of the embedding; characters have their code
// points saved. Collective over all ranks.
static bool restore_vocabulary(Vocabulary *vocabulary, const TrainConfig *config,
                               const char *checkpoint_path, Error *err) {
    CheckpointInfo info;
    bool ok = checkpoint_read_table(checkpoint_path, &info, err);
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
    if (!characters)
        return vocabulary_from_checkpoint(vocabulary, &config->data, NULL, size, err) ||
               error_prefix(err, "%s", checkpoint_path);
    int32_t *code_points = calloc((size_t)size, sizeof *code_points);
    CHECK_MEMORY(code_points, "no memory for %lld code points", (long long)size);
    SavedTensor saved = {.dtype = I32,
                         .rank = 1,
                         .shape = {size, 1, 1},
                         .elements = size,
                         .replicated = true,
                         .data = code_points};
    snprintf(saved.name, sizeof saved.name, "%s", code_points_name);
    Checkpoint checkpoint = {.tensors = &saved, .tensor_count = 1};
    ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    ok = ok && (vocabulary_from_checkpoint(vocabulary, &config->data, code_points, size, err) ||
                error_prefix(err, "%s", checkpoint_path));
    free(code_points);
    return ok;
}

// Of the parameters in the list those that gradients change, under the names of their averages.
static void take_averages(Checkpoint *checkpoint, const ParamTable *table) {
    const char folder[] = "parameters/";
    int n = 0;
    for (int i = 0; i < checkpoint->tensor_count; i++) {
        SavedTensor tensor = checkpoint->tensors[i];
        const Param *row = param_find(table, checkpoint->tensors[i].name + sizeof folder - 1);
        if (!row || row->update == UPDATE_RULE) continue;
        snprintf(tensor.name, sizeof tensor.name, "ema/%s", row->name);
        checkpoint->tensors[n++] = tensor;
    }
    checkpoint->tensor_count = n;
}

bool restore_model(Restored *restored, const TrainConfig *config, ModelSplit split,
                   Session *session, const char *checkpoint_path, Error *err) {
    if (!restore_vocabulary(&restored->vocabulary, config, checkpoint_path, err)) return false;
    ModelConfig model = config->model;
    model.vocab_size = restored->vocabulary.size;
    model_measure(&restored->model, &model, split, &session->dev);
    if (!model_check(&restored->model, err)) return false; // the same on every rank
    model_allocate(&restored->model, session->groups, (uint64_t)config->seed);

    Checkpoint checkpoint = {.verify_rest = true};
    HostState state;
    host_state_open(&state, &restored->model, NULL);
    checkpoint.tensors = saved_tensors(&state, &(Vocabulary){0}, &checkpoint.tensor_count);
    bool ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    if (ok && config->eval_weights == WEIGHTS_EMA) {
        checkpoint.verify_rest = false;
        take_averages(&checkpoint, &restored->model.params);
        ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    }
    if (ok) host_state_upload(&state);
    free(checkpoint.tensors);
    host_state_close(&state);
    restored->state = checkpoint.state;
    return ok;
}

void restore_free(Restored *restored) {
    model_free(&restored->model);
    vocabulary_free(&restored->vocabulary);
}
