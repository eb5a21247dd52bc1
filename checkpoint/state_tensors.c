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

// A dataset of a series: "utilization/" and what stands before its name.
static SavedTensor series_tensor(const UtilizationSeries *series, const char *before, DType dtype,
                                 int rank, int64_t n0, int64_t n1, int64_t n2, void *data) {
    SavedTensor tensor = whole_tensor("", dtype, rank, n0, n1, n2, data);
    snprintf(tensor.name, sizeof tensor.name, "utilization/%s%s", before, series->name);
    return tensor;
}

int utilization_tensors(UtilizationHistory *history, SavedTensor out[UTILIZATION_TENSORS_MAX]) {
    int64_t rows = history->rows;
    int count = 0;
    out[count++] = whole_tensor("utilization/step", I64, 1, rows, 1, 1, history->step);
    out[count++] = whole_tensor("utilization/steps", I64, 1, rows, 1, 1, history->steps);
    out[count++] = whole_tensor("utilization/open/steps", I64, 1, 1, 1, 1, &history->open_steps);
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        int64_t L = series->layers, W = series->width;
        DType dtype = series->kind == STATISTICS_COUNTS ? I64 : F64;
        int axes = series->kind == STATISTICS_SCALAR ? 1 : 2; // of one row
        out[count++] = series_tensor(series, "", dtype, axes + 1, rows, L, W, series->rows);
        out[count++] = series_tensor(series, "open/", dtype, axes, L, W, 1, series->open);
        out[count++] = series_tensor(series, "layers/", I64, 2, L, 2, 1, series->of);
    }
    return count;
}

SavedTensor list_tensor(const char *name, DType dtype, int64_t n, void *data) {
    return whole_tensor(name, dtype, 1, n, 1, 1, data);
}

SavedTensor text_tensor(const char *name, const char *text) {
    return list_tensor(name, U8, (int64_t)strlen(text), (void *)text);
}

int64_t saved_runs(const SavedTensor *tensor) {
    int64_t row = tensor->shape[1] * tensor->shape[2];
    return !tensor->rows ? 1 : row > 0 ? tensor->elements / row : 0;
}

SavedRun saved_run(const SavedTensor *tensor, int64_t i) {
    int64_t row = tensor->shape[1] * tensor->shape[2];
    if (!tensor->rows) return (SavedRun){tensor->first_element, tensor->elements, 0};
    return (SavedRun){tensor->rows[i] * row, row, i * row};
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
    for (int i = 0; i < history->series_count; i++) {
        const UtilizationSeries *series = &history->series[i];
        for (int64_t layer = 0; layer < series->layers; layer++)
            if (series->of[layer].values > series->width)
                return error_set(
                    err, EXIT_CHECKPOINT, "utilization/layers/%s gives a layer %lld of %lld values",
                    series->name, (long long)series->of[layer].values, (long long)series->width);
    }
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

// What the file has of the series: every "utilization/NAME" but the two that number the rows.
static bool list_series(const Manifest *manifest, UtilizationHistory *history, Error *err) {
    const char group[] = "utilization/";
    for (int64_t i = 0; i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        const char *name = dataset->name + sizeof group - 1;
        if (strncmp(dataset->name, group, sizeof group - 1) != 0 || strchr(name, '/') ||
            strcmp(name, "step") == 0 || strcmp(name, "steps") == 0)
            continue;
        bool counts = dataset->dtype == I64 && dataset->rank == 3;
        if ((dataset->dtype != F64 && !counts) || dataset->rank < 2 ||
            strlen(name) >= STATISTICS_NAME_BYTES ||
            history->series_count == UTILIZATION_SERIES_MAX)
            return error_set(err, EXIT_CHECKPOINT, "%s is no table of rows and layers",
                             dataset->name);
        UtilizationSeries *series = &history->series[history->series_count++];
        series->kind = counts               ? STATISTICS_COUNTS
                       : dataset->rank == 2 ? STATISTICS_SCALAR
                                            : STATISTICS_VECTOR;
        snprintf(series->name, sizeof series->name, "%s", name);
        series->layers = dataset->shape[1];
        series->width = dataset->shape[2];
    }
    return true;
}

// Files of earlier programs do not name the layers: they count them, all of the same width.
static void drop_unnamed_layers(const Manifest *manifest, SavedTensor *tensors, int *count) {
    const char group[] = "utilization/layers/";
    int kept = 0;
    for (int i = 0; i < *count; i++)
        if (strncmp(tensors[i].name, group, sizeof group - 1) != 0 ||
            manifest_find(manifest, tensors[i].name))
            tensors[kept++] = tensors[i];
    *count = kept;
}

static void number_layers(UtilizationHistory *history) {
    for (int i = 0; i < history->series_count; i++) {
        UtilizationSeries *series = &history->series[i];
        series->of = calloc((size_t)series->layers + 1, sizeof *series->of);
        CHECK_MEMORY(series->of, "no memory for %lld layers", (long long)series->layers);
        for (int64_t layer = 0; layer < series->layers; layer++)
            series->of[layer] = (UtilizationLayer){layer, series->width};
    }
}

bool utilization_read(CheckpointFile *file, UtilizationHistory *history, Error *err) {
    const Dataset *step = manifest_find(&file->manifest, "utilization/step");
    if (!step) return error_set(err, EXIT_CHECKPOINT, "the utilization history is missing");
    // All sizes are compared with what is in the file before memory is taken for them.
    UtilizationHistory read = {.rows = step->shape[0]};
    if (!list_series(&file->manifest, &read, err)) return false;
    SavedTensor tensors[UTILIZATION_TENSORS_MAX];
    int count = utilization_tensors(&read, tensors);
    drop_unnamed_layers(&file->manifest, tensors, &count);
    for (int i = 0; i < count; i++)
        if (!dataset_of_tensor(&file->manifest, &tensors[i], err)) return false;

    number_layers(&read);
    read.rows = 0; // there is no memory for them yet
    utilization_allocate(&read);
    utilization_reserve(&read, step->shape[0]);
    read.rows = step->shape[0];
    count = utilization_tensors(&read, tensors);
    drop_unnamed_layers(&file->manifest, tensors, &count);
    bool ok = read_whole_tensors(file, tensors, count, err) && check_counts(tensors, count, err) &&
              check_history(&read, err);
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
