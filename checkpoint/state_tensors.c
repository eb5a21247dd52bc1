#include "checkpoint/state_tensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static SavedTensor whole_tensor(const char *name, DType dtype, int rank, int64_t n0, int64_t n1,
                                int64_t n2, void *data) {
    SavedTensor tensor = {.dtype = dtype,
                          .rank = rank,
                          .shape = {n0, n1, n2},
                          .elements = n0 * n1 * n2,
                          .replicated = true,
                          .data = data};
    snprintf(tensor.name, sizeof tensor.name, "%s", name);
    return tensor;
}

void state_tensors(TrainState *state, SavedTensor out[STATE_TENSORS]) {
    struct {
        const char *name;
        int64_t *value;
    } const numbers[] = {
        {"state/step", &state->step},
        {"state/adam_steps", &state->adam_steps},
        {"state/skipped_steps", &state->skipped_steps},
        {"state/skipped_in_row", &state->skipped_in_row},
        {"state/data_epoch", &state->data_epoch},
        {"state/data_index", &state->data_index},
        {"state/tokens", &state->tokens},
    };
    _Static_assert(sizeof numbers / sizeof *numbers == COMPUTED_TENSORS - 1,
                   "all numbers, one text");
    for (int i = 0; i < COMPUTED_TENSORS - 1; i++)
        out[i] = whole_tensor(numbers[i].name, I64, 1, 1, 1, 1, numbers[i].value);
    out[COMPUTED_TENSORS - 1] =
        whole_tensor("state/data_id", U8, 1, sizeof state->data_id, 1, 1, state->data_id);
    RunIdentity *run = &state->run;
    SavedTensor *about = out + COMPUTED_TENSORS;
    about[0] = text_tensor("about/run", run->run);
    about[1] = text_tensor("about/parent_run", run->parent_run);
    about[2] = whole_tensor("about/parent_step", I64, 1, 1, 1, 1, &run->parent_step);
    about[3] = text_tensor("about/began_from", run->began_from);
    about[4] = whole_tensor("about/healthy", I64, 1, 1, 1, 1, &run->healthy);
    about[5] = whole_tensor("about/evaluation_due", I64, 1, 1, 1, 1, &state->evaluation_due);
}

void utilization_tensors(UtilizationHistory *history, SavedTensor out[UTILIZATION_TENSORS]) {
    UtilizationHistory *h = history;
    int64_t R = h->rows, L = h->layers, E = h->experts;
    SavedTensor tensors[] = {
        whole_tensor("utilization/step", I64, 1, R, 1, 1, h->step),
        whole_tensor("utilization/steps", I64, 1, R, 1, 1, h->steps),
        whole_tensor("utilization/routed", I64, 3, R, L, E, h->routed),
        whole_tensor("utilization/dropped", I64, 3, R, L, E, h->dropped),
        whole_tensor("utilization/weight_mass", F64, 3, R, L, E, h->weight_mass),
        whole_tensor("utilization/entropy", F64, 2, R, L, 1, h->entropy),
        whole_tensor("utilization/open/steps", I64, 1, 1, 1, 1, &h->open_steps),
        whole_tensor("utilization/open/routed", I64, 2, L, E, 1, h->open_routed),
        whole_tensor("utilization/open/dropped", I64, 2, L, E, 1, h->open_dropped),
        whole_tensor("utilization/open/weight_mass", F64, 2, L, E, 1, h->open_weight_mass),
        whole_tensor("utilization/open/entropy", F64, 1, L, 1, 1, h->open_entropy),
    };
    _Static_assert(sizeof tensors / sizeof *tensors == UTILIZATION_TENSORS, "all of them");
    memcpy(out, tensors, sizeof tensors);
}

SavedTensor text_tensor(const char *name, const char *text) {
    return whole_tensor(name, U8, 1, (int64_t)strlen(text), 1, 1, (void *)text);
}

const Dataset *dataset_of_tensor(const Manifest *manifest, const SavedTensor *tensor, Error *err) {
    const Dataset *dataset = manifest_find(manifest, tensor->name);
    if (!dataset) {
        error_set(err, EXIT_CHECKPOINT, "%s is not in the checkpoint", tensor->name);
        return NULL;
    }
    int64_t wanted[3] = {1, 1, 1};
    memcpy(wanted, tensor->shape, (size_t)tensor->rank * sizeof *wanted);
    if (dataset->dtype == tensor->dtype && dataset->rank == tensor->rank &&
        memcmp(dataset->shape, wanted, sizeof wanted) == 0)
        return dataset;
    const int64_t *has = dataset->shape;
    error_set(err, EXIT_CHECKPOINT,
              "%s is %s (%lld, %lld, %lld) in the checkpoint and %s (%lld, %lld, %lld) here",
              tensor->name, dtype_name(dataset->dtype), (long long)has[0], (long long)has[1],
              (long long)has[2], dtype_name(tensor->dtype), (long long)wanted[0],
              (long long)wanted[1], (long long)wanted[2]);
    return NULL;
}

static bool read_whole_tensors(CheckpointFile *file, const SavedTensor *tensors, int count,
                               Error *err) {
    for (int i = 0; i < count; i++) {
        const Dataset *dataset = dataset_of_tensor(&file->manifest, &tensors[i], err);
        if (!dataset) return false;
        if (!checkpoint_file_read(file, dataset, 0, dataset->bytes, tensors[i].data, err))
            return false;
    }
    return true;
}

// A text of at most room - 1 printable characters, or of exactly room - 1 digits of hex or none.
static bool read_short_text(CheckpointFile *file, const char *name, char *out, size_t room,
                            bool hex, Error *err) {
    const Dataset *dataset = manifest_find(&file->manifest, name);
    if (dataset && dataset->bytes >= (int64_t)room)
        return error_set(err, EXIT_CHECKPOINT, "%s has %lld bytes, more than %zu", name,
                         (long long)dataset->bytes, room - 1);
    char *text = NULL;
    if (!text_read(file, name, &text, err)) return false;
    size_t length = strlen(text);
    bool legal =
        hex ? (length == 0 || length == room - 1) && text[strspn(text, "0123456789abcdef")] == 0
            : true;
    for (size_t i = 0; i < length; i++) legal = legal && (unsigned char)text[i] >= ' ';
    if (legal) snprintf(out, room, "%s", text);
    free(text);
    return legal || error_set(err, EXIT_CHECKPOINT, "%s is not such a text as is saved", name);
}

// What a file says of its run; files of earlier programs say nothing, and are healthy when no step
// had just been skipped.
static bool read_run(CheckpointFile *file, TrainState *state, Error *err) {
    RunIdentity *run = &state->run;
    *run = (RunIdentity){.parent_step = -1, .healthy = state->skipped_in_row == 0};
    if (!manifest_find(&file->manifest, "about/run")) return true;
    SavedTensor tensors[STATE_TENSORS];
    state_tensors(state, tensors);
    return read_whole_tensors(file, &tensors[COMPUTED_TENSORS + 2], 1, err) &&
           read_whole_tensors(file, &tensors[COMPUTED_TENSORS + 4], 2, err) &&
           read_short_text(file, "about/run", run->run, sizeof run->run, true, err) &&
           read_short_text(file, "about/parent_run", run->parent_run, sizeof run->parent_run, true,
                           err) &&
           read_short_text(file, "about/began_from", run->began_from, sizeof run->began_from, false,
                           err);
}

// Hashes stop accidents, not whoever makes a file by hand: a number is looked at before anything is
// computed from it.
static bool check_numbers(const char *name, const int64_t *values, int64_t count, int64_t least,
                          Error *err) {
    // sums of many of them stay inside 64 bits, and doubles hold them
    const int64_t most = (int64_t)1 << 53;
    for (int64_t i = 0; i < count; i++)
        if (values[i] < least || values[i] > most)
            return error_set(err, EXIT_CHECKPOINT, "%s holds %lld, but must lie from %lld to 2^53",
                             name, (long long)values[i], (long long)least);
    return true;
}

// Every whole number of these tensors is a count or a position: none is negative.
static bool check_counts(const SavedTensor *tensors, int count, Error *err) {
    for (int i = 0; i < count; i++) {
        const SavedTensor *tensor = &tensors[i];
        int64_t elements = tensor->shape[0] * tensor->shape[1] * tensor->shape[2];
        if (tensor->dtype == I64 && !check_numbers(tensor->name, tensor->data, elements, 0, err))
            return false;
    }
    return true;
}

static bool check_history(const UtilizationHistory *history, Error *err) {
    if (!check_numbers("utilization/steps", history->steps, history->rows, 1, err)) return false;
    for (int64_t row = 1; row < history->rows; row++)
        if (history->step[row] <= history->step[row - 1])
            return error_set(err, EXIT_CHECKPOINT,
                             "utilization/step goes from %lld to %lld, but must rise",
                             (long long)history->step[row - 1], (long long)history->step[row]);
    return true;
}

bool state_read(CheckpointFile *file, TrainState *state, Error *err) {
    TrainState read = {0};
    SavedTensor tensors[STATE_TENSORS];
    state_tensors(&read, tensors);
    if (!read_whole_tensors(file, tensors, COMPUTED_TENSORS, err) ||
        !check_counts(tensors, COMPUTED_TENSORS, err))
        return false;
    if (!memchr(read.data_id, 0, sizeof read.data_id))
        return error_set(err, EXIT_CHECKPOINT, "state/data_id is not terminated");
    if (!read_run(file, &read, err)) return false;
    *state = read;
    return true;
}

bool utilization_read(CheckpointFile *file, UtilizationHistory *history, Error *err) {
    const Dataset *step = manifest_find(&file->manifest, "utilization/step");
    const Dataset *open_routed = manifest_find(&file->manifest, "utilization/open/routed");
    if (!step || !open_routed)
        return error_set(err, EXIT_CHECKPOINT, "the utilization history is missing");
    // All sizes are compared with what is in the file before memory is taken for them.
    UtilizationHistory read = {
        .rows = step->shape[0], .layers = open_routed->shape[0], .experts = open_routed->shape[1]};
    SavedTensor tensors[UTILIZATION_TENSORS];
    utilization_tensors(&read, tensors);
    for (int i = 0; i < UTILIZATION_TENSORS; i++)
        if (!dataset_of_tensor(&file->manifest, &tensors[i], err)) return false;

    utilization_init(&read, read.layers, read.experts);
    utilization_reserve(&read, step->shape[0]);
    read.rows = step->shape[0];
    utilization_tensors(&read, tensors);
    bool ok = read_whole_tensors(file, tensors, UTILIZATION_TENSORS, err) &&
              check_counts(tensors, UTILIZATION_TENSORS, err) && check_history(&read, err);
    if (ok)
        *history = read;
    else
        utilization_free(&read);
    return ok;
}

bool text_read(CheckpointFile *file, const char *name, char **text, Error *err) {
    const Dataset *dataset = manifest_find(&file->manifest, name);
    if (!dataset || dataset->dtype != U8 || dataset->rank != 1)
        return error_set(err, EXIT_CHECKPOINT, "the text %s is missing", name);
    char *read = calloc((size_t)dataset->bytes + 1, 1);
    if (!read)
        return error_set(err, EXIT_IO, "no memory for %s, %lld bytes", name,
                         (long long)dataset->bytes);
    if (!checkpoint_file_read(file, dataset, 0, dataset->bytes, read, err)) {
        free(read);
        return false;
    }
    *text = read;
    return true;
}
