#include "worker/restore.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "kernels/integers.h"

static SavedTensor saved_param(const Model *model, const ParamTable *table, ParamSet set, int index,
                               const char *folder) {
    const Param *row = &table->rows[index];
    SavedTensor saved = {
        .dtype = F32,
        .rank = row->rank,
        .first_element = row->first * row->shape[1] * row->shape[2],
        .elements = param_local_elements(row),
        .rows = row->places ? row->places->expert_at + row->first : NULL,
        .replicated = row->kind == PARAM_DENSE,
        .replica = (int)(comm_rank() / model->work.shape.ep_size),
        .stays = model->work.dev->place == ON_HOST ? STAYS_UNTIL_UPDATE : STAYS_UNTIL_SAVED,
        .data = row->offset < 0 ? NULL : param_tensor(table, set, index).data,
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
    if (state->optimizer) optimizer_catch_up(state->optimizer);
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
    if (state->optimizer) optimizer_forget_updates(state->optimizer);
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
    const void *data;
    int64_t elements;
    const SavedVocabulary *kept = vocabulary_saved(vocabulary, &data, &elements);
    if (kept) saved[n++] = list_tensor(kept->name, kept->dtype, elements, (void *)data);
    *count = n;
    return saved;
}

// Whether the file has these of the rows in the folder; adds their number to *count.
static bool has_tensors(const CheckpointInfo *info, const ParamTable *table, const char *folder,
                        const bool *has, int *count) {
    bool ok = true;
    for (int i = 0; ok && i < table->count; i++) {
        const Param *row = &table->rows[i];
        char name[sizeof info->tensors->name];
        if (has && !has[i]) continue;
        snprintf(name, sizeof name, "%.24s/%.96s", folder, row->name);
        ok = false;
        for (int j = 0; j < info->tensor_count && !ok; j++)
            ok = strcmp(info->tensors[j].name, name) == 0 &&
                 memcmp(info->tensors[j].shape, row->shape, sizeof row->shape) == 0;
        (*count)++;
    }
    return ok;
}

bool restore_fits(const char *checkpoint_path, const ParamTable *params,
                  const Optimizer *optimizer) {
    CheckpointInfo info;
    Error ignored = {0};
    if (!checkpoint_read_table(checkpoint_path, &info, &ignored)) return true;
    int wanted = 0, there = 0;
    bool ok = has_tensors(&info, params, "parameters", NULL, &wanted);
    for (int s = 0; ok && optimizer && s < optimizer->state_count; s++) {
        const OptimizerState *state = &optimizer->states[s];
        if (s != optimizer->average)
            ok = has_tensors(&info, params, state->name, state->has, &wanted);
    }
    for (int i = 0; i < info.tensor_count; i++)
        there += strncmp(info.tensors[i].name, "parameters/", 11) == 0 ||
                 (optimizer && strncmp(info.tensors[i].name, "optimizer/", 10) == 0);
    checkpoint_free_info(&info);
    return ok && there == wanted;
}

// The vocabulary of a checkpoint: its size is that of the embedding; what else belongs to it is
// saved beside. Collective over all ranks.
static bool restore_vocabulary(Vocabulary *vocabulary, const TrainConfig *config,
                               const char *checkpoint_path, Error *err) {
    CheckpointInfo info;
    bool ok = checkpoint_read_table(checkpoint_path, &info, err);
    if (!comm_agree(ok, err)) return false; // from here on every rank has read the same
    int64_t size = 0, elements = 0;
    const SavedVocabulary *kept = NULL, *row;
    for (int i = 0; i < info.tensor_count; i++) {
        const SavedTensor *tensor = &info.tensors[i];
        if (strcmp(tensor->name, "parameters/embedding") == 0)
            size = tensor->shape[0] - model_vocab_size(&config->model, 0);
        for (int kind = 0; (row = saved_vocabulary(kind)); kind++)
            if (strcmp(tensor->name, row->name) == 0) kept = row, elements = tensor->shape[0];
    }
    checkpoint_free_info(&info);
    if (size <= 0)
        return error_set(err, EXIT_CHECKPOINT, "%s: holds no parameters/embedding",
                         checkpoint_path);
    void *data = NULL;
    if (kept) {
        data = calloc((size_t)elements + 1, dtype_bytes(kept->dtype));
        CHECK_MEMORY(data, "no memory for %s of %lld", kept->name, (long long)elements);
        SavedTensor saved = list_tensor(kept->name, kept->dtype, elements, data);
        Checkpoint checkpoint = {.tensors = &saved, .tensor_count = 1};
        ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    }
    ok = ok &&
         (vocabulary_from_checkpoint(vocabulary, &config->data, kept, data, elements, size, err) ||
          error_prefix(err, "%s", checkpoint_path));
    free(data);
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

// ---- weights of fewer bits ----------------------------------------------------------------------

// Each is read into the same memory and quantised before the next one comes.
typedef struct Narrowing {
    const Model *model;
    ParamSet values; // of the host, for rows of which f32 stays as well
    float *read;
} Narrowing;

static bool narrow(void *context, const SavedTensor *tensor, Error *err) {
    const Narrowing *n = context;
    const ParamTable *params = &n->model->params;
    const Param *row = param_find(params, strchr(tensor->name, '/') + 1);
    if (tensor->data != n->read) return true;
    int index = (int)(row - params->rows);
    if (row->offset >= 0)
        memcpy(param_tensor(params, n->values, index).data, n->read,
               (size_t)tensor->elements * sizeof *n->read);
    return narrow_weights_set(&n->model->narrow, params, n->model->work.dev, index, n->read, err);
}

static void narrow_on_arrival(Checkpoint *checkpoint, Narrowing *n) {
    const NarrowWeights *weights = &n->model->narrow;
    int64_t most = 0;
    for (int i = 0; i < n->model->params.count; i++)
        if (weights->is_narrow[i]) most = larger(most, checkpoint->tensors[i].elements);
    n->read = malloc((size_t)most * sizeof *n->read + 1);
    CHECK_MEMORY(n->read, "no memory for a tensor of %lld", (long long)most);
    for (int i = 0; i < n->model->params.count; i++)
        if (weights->is_narrow[i]) checkpoint->tensors[i].data = n->read;
    checkpoint->arrived = narrow;
    checkpoint->context = n;
}

bool restore_model(Restored *restored, const TrainConfig *config, ModelSplit split,
                   Session *session, const char *checkpoint_path, Error *err) {
    if (!restore_vocabulary(&restored->vocabulary, config, checkpoint_path, err)) return false;
    ModelConfig model = config->model;
    model.vocab_size = model_vocab_size(&model, restored->vocabulary.size);
    model_measure(&restored->model, &model, split, &session->dev);
    if (!model_check(&restored->model, err)) return false; // the same on every rank
    model_allocate(&restored->model, session->groups, (uint64_t)config->seed);

    Checkpoint checkpoint = {0};
    HostState state;
    host_state_open(&state, &restored->model, NULL);
    checkpoint.tensors = saved_tensors(&state, &(Vocabulary){0}, &checkpoint.tensor_count);
    Narrowing narrowing = {.model = &restored->model, .values = state.values};
    if (split.weights != F32) narrow_on_arrival(&checkpoint, &narrowing);
    bool ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    if (ok && config->eval_weights == WEIGHTS_EMA) {
        take_averages(&checkpoint, &restored->model.params);
        ok = checkpoint_load(checkpoint_path, &checkpoint, err);
    }
    if (ok) host_state_upload(&state);
    free(narrowing.read);
    free(checkpoint.tensors);
    host_state_close(&state);
    restored->state = checkpoint.state;
    return ok;
}

void restore_free(Restored *restored) {
    model_free(&restored->model);
    vocabulary_free(&restored->vocabulary);
}
