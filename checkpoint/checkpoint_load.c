// Reading a checkpoint: into a running trainer, for `inspect`, and as a digest.
#include "checkpoint/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_file.h"
#include "checkpoint/config_difference.h"
#include "checkpoint/state_tensors.h"
#include "checkpoint/verify.h"
#include "comm/comm.h"
#include "model/router_health.h"

// Length of "parameters/" in "parameters/norm.weight"; 0 for a name without a group.
static size_t group_length(const char *name) {
    const char *slash = strchr(name, '/');
    return slash ? (size_t)(slash - name) + 1 : 0;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Every tensor that is asked for is in the file with the same type and shape, and every dataset of
// a group from which something is asked for is asked for: a model of fewer layers does not load a
// part of a larger one, while a reader of "parameters/…" alone may leave out "optimizer/…".
static bool match_tensors(const CheckpointFile *file, Checkpoint *wanted, Error *err) {
    const Manifest *manifest = &file->manifest;
    int count = wanted->tensor_count;
    const char **names = calloc((size_t)count + 1, sizeof *names);
    CHECK_MEMORY(names, "no memory for %d names", count);
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        SavedTensor *tensor = &wanted->tensors[i];
        Error ignored = {0};
        names[i] = tensor->name;
        tensor->found =
            dataset_of_tensor(manifest, tensor, tensor->optional ? &ignored : err) != NULL;
        ok = tensor->found || tensor->optional;
    }
    if (ok) qsort(names, (size_t)count, sizeof *names, compare_names);
    for (int64_t i = 0; ok && i < manifest->count; i++) {
        const char *name = manifest->datasets[i].name;
        bool group_wanted = false;
        for (int j = 0; j < count && !group_wanted; j++)
            group_wanted =
                group_length(name) > 0 && strncmp(names[j], name, group_length(name)) == 0;
        if (group_wanted && !bsearch(&name, names, (size_t)count, sizeof *names, compare_names))
            ok = error_set(err, EXIT_CHECKPOINT, "%s is in the checkpoint and not in the model",
                           name);
    }
    free(names);
    return ok;
}

// Adds the configuration keys that explain a mismatch, as far as both configurations are known.
static void explain_mismatch(CheckpointFile *file, const Checkpoint *wanted, Error *err) {
    char *saved = NULL, keys[900];
    Error ignored = {0};
    if (!wanted->config_yaml || !text_read(file, "config", &saved, &ignored)) return;
    config_difference(saved, wanted->config_yaml, keys, sizeof keys);
    size_t used = strlen(err->message);
    if (keys[0])
        snprintf(err->message + used, sizeof err->message - used,
                 "; configuration of the checkpoint -> this one: %s", keys);
    free(saved);
}

// Where a run of a tensor lies in its dataset, in bytes.
static Span span_of(const SavedTensor *tensor, const Dataset *dataset, SavedRun run) {
    int64_t width = (int64_t)dtype_bytes(tensor->dtype), whole = dataset->bytes / width;
    CHECK(run.first >= 0 && run.elements >= 0 && run.elements <= whole - run.first,
          "elements %lld to %lld of %s with %lld", (long long)run.first,
          (long long)(run.first + run.elements), tensor->name, (long long)whole);
    return (Span){run.first * width, run.elements * width};
}

// Reads what is held of a tensor, or only announces it, so that the disk can work ahead.
static bool read_tensor(CheckpointFile *file, const SavedTensor *tensor, bool announce,
                        Error *err) {
    const Dataset *dataset = manifest_find(&file->manifest, tensor->name);
    int64_t width = (int64_t)dtype_bytes(tensor->dtype);
    for (int64_t i = 0; i < saved_runs(tensor); i++) {
        SavedRun run = saved_run(tensor, i);
        Span span = span_of(tensor, dataset, run);
        char *to = tensor->data;
        if (announce)
            checkpoint_file_expect(file, dataset, span.begin, span.bytes);
        else if (!checkpoint_file_read(file, dataset, span.begin, span.bytes, to + run.at * width,
                                       err))
            return false;
    }
    return true;
}

static bool read_tensors(CheckpointFile *file, const Checkpoint *checkpoint, Error *err) {
    for (int i = 0; i < checkpoint->tensor_count; i++)
        if (checkpoint->tensors[i].found) read_tensor(file, &checkpoint->tensors[i], true, err);
    for (int i = 0; i < checkpoint->tensor_count; i++) {
        const SavedTensor *tensor = &checkpoint->tensors[i];
        if (!tensor->found) continue;
        if (!read_tensor(file, tensor, false, err) ||
            (checkpoint->arrived && !checkpoint->arrived(checkpoint->context, tensor, err)))
            return false;
    }
    return true;
}

// Every byte that no rank was asked to read, shared out among them.
static bool verify_rest(CheckpointFile *file, const Checkpoint *checkpoint, Error *err) {
    const Manifest *manifest = &file->manifest;
    bool *known = calloc((size_t)manifest->count + 1, sizeof *known);
    CHECK_MEMORY(known, "no memory for %lld datasets", (long long)manifest->count);
    for (int i = 0; i < checkpoint->tensor_count; i++)
        if (checkpoint->tensors[i].found)
            known[manifest_find(manifest, checkpoint->tensors[i].name) - manifest->datasets] = true;
    bool ok = checkpoint_file_verify(file, known, comm_rank(), comm_size(), err);
    free(known);
    return ok;
}

// Rank 0 keeps the history, and goes on from the file's.
static bool load_utilization(CheckpointFile *file, UtilizationHistory *history, Error *err) {
    UtilizationHistory read = {0};
    if (!utilization_read(file, &read, err)) return false;
    bool ok = utilization_continue(history, &read, err);
    utilization_free(&read);
    return ok;
}

bool checkpoint_load(const char *path, Checkpoint *checkpoint, Error *err) {
    CheckpointFile file;
    FileHeader header = {0};
    TrainState state = {0};
    bool ok = checkpoint_file_open(&file, path, err);
    if (ok) {
        header = file.header;
        ok = match_tensors(&file, checkpoint, err);
        if (!ok) explain_mismatch(&file, checkpoint, err);
        ok = ok && read_tensors(&file, checkpoint, err) &&
             (!checkpoint->verify_rest || verify_rest(&file, checkpoint, err)) &&
             state_read(&file, &state, err);
        if (ok && comm_rank() == 0 && checkpoint->utilization)
            ok = load_utilization(&file, checkpoint->utilization, err);
        checkpoint_file_close(&file);
        if (!ok) error_prefix(err, "%s", path);
    }
    ok = comm_agree(ok, err) && verify_same_file(path, &header, err);
    if (ok) checkpoint->state = state;
    return ok;
}

bool checkpoint_read_text(const char *path, const char *name, char **text, Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    bool ok = text_read(&file, name, text, err) || error_prefix(err, "%s", path);
    checkpoint_file_close(&file);
    return ok;
}

bool checkpoint_read_config(const char *path, char **config_yaml, Error *err) {
    return checkpoint_read_text(path, "config", config_yaml, err);
}

bool checkpoint_read_state(const char *path, TrainState *state, Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    bool ok = state_read(&file, state, err) || error_prefix(err, "%s", path);
    checkpoint_file_close(&file);
    return ok;
}

bool checkpoint_read_utilization(const char *path, UtilizationHistory *history, Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    bool ok = utilization_read(&file, history, err) || error_prefix(err, "%s", path);
    checkpoint_file_close(&file);
    return ok;
}

bool checkpoint_read_shape(const char *path, const char *name, int64_t shape[3], Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    const Dataset *dataset = manifest_find(&file.manifest, name);
    bool ok = dataset || error_set(err, EXIT_CHECKPOINT, "%s: holds no %s", path, name);
    if (ok) memcpy(shape, dataset->shape, sizeof dataset->shape);
    checkpoint_file_close(&file);
    return ok;
}

bool checkpoint_in_digest(const char *name) {
    return strcmp(name, "config") != 0 && strncmp(name, "about/", 6) != 0 &&
           strncmp(name, "utilization/", 12) != 0 && strncmp(name, "watch/", 6) != 0;
}

// One dataset into the digest, or only verified.
static bool digest_dataset(CheckpointFile *file, const Dataset *dataset, Hasher *hasher,
                           Error *err) {
    bool counts = checkpoint_in_digest(dataset->name);
    if (counts) {
        ManifestRecord record = dataset_encode(dataset);
        record.row_blocks = record.offset = 0; // layout, not content
        hasher_add(hasher, &record, sizeof record);
    }
    for (int64_t block = 0; block < dataset->blocks; block++) {
        if (!checkpoint_file_read_block(file, dataset, block, err)) return false;
        if (counts) hasher_add(hasher, file->block, (size_t)dataset_block(dataset, block).bytes);
    }
    return true;
}

// The counts of a cell over the whole history. Unsigned: a crafted file may hold any number.
static uint64_t total_of(const UtilizationHistory *history, const UtilizationSeries *series,
                         int64_t cell) {
    uint64_t total = (uint64_t)((const int64_t *)series->open)[cell];
    for (int64_t row = 0; row < history->rows; row++)
        total += (uint64_t)utilization_counts(series, row, 0)[cell];
    return total;
}

// Squares of logits are measured, not counted, though they are whole numbers: files of programs
// that measure them or do not have one digest.
static bool is_of_choices(const UtilizationSeries *series) {
    return series->kind == STATISTICS_COUNTS && strcmp(series->name, ROUTER_SQUARES_COLUMN) != 0;
}

// What has been counted, as every expert's load, in the whole history: integers, whose sums do not
// depend on how the steps were put together into rows. Tables of one shape go in together, cell by
// cell and in descending order of their names; a model without any has one of no layers.
static bool digest_utilization(CheckpointFile *file, Hasher *hasher, Error *err) {
    UtilizationHistory history = {0};
    if (!utilization_read(file, &history, err)) return false;
    uint64_t steps = (uint64_t)history.open_steps;
    for (int64_t row = 0; row < history.rows; row++) steps += (uint64_t)history.steps[row];
    const UtilizationSeries none = {0}, *left[UTILIZATION_SERIES_MAX + 1];
    int count = 0;
    for (int i = history.series_count - 1; i >= 0; i--) // the file's are in ascending order
        if (is_of_choices(&history.series[i])) left[count++] = &history.series[i];
    if (count == 0) left[count++] = &none;
    while (count > 0) {
        int64_t layers = left[0]->layers, width = left[0]->width, shape[] = {layers, width};
        const UtilizationSeries *together[UTILIZATION_SERIES_MAX + 1];
        int members = 0, others = 0;
        for (int i = 0; i < count; i++)
            if (left[i]->layers == layers && left[i]->width == width)
                together[members++] = left[i];
            else
                left[others++] = left[i];
        hasher_add(hasher, shape, sizeof shape);
        hasher_add(hasher, &steps, sizeof steps);
        for (int64_t cell = 0; cell < layers * width; cell++)
            for (int i = 0; i < members; i++) {
                uint64_t total = total_of(&history, together[i], cell);
                hasher_add(hasher, &total, sizeof total);
            }
        count = others;
    }
    utilization_free(&history);
    return true;
}

// The digest of a file, and with it a check of every hash.
static bool digest_file(CheckpointFile *file, char digest[40], Error *err) {
    Hasher *hasher = hasher_open();
    bool ok = checkpoint_file_verify_structure(file, err);
    for (int64_t i = 0; ok && i < file->manifest.count; i++)
        checkpoint_file_expect(file, &file->manifest.datasets[i], 0,
                               file->manifest.datasets[i].bytes);
    for (int64_t i = 0; ok && i < file->manifest.count; i++)
        ok = digest_dataset(file, &file->manifest.datasets[i], hasher, err);
    ok = ok && digest_utilization(file, hasher, err);
    Hash hash = hasher_close(hasher);
    for (size_t i = 0; ok && i < sizeof hash.bytes; i++)
        snprintf(digest + 2 * i, 3, "%02x", hash.bytes[i]);
    return ok;
}

bool checkpoint_digest(const char *path, char digest[40], Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    bool ok = digest_file(&file, digest, err) || error_prefix(err, "%s", path);
    checkpoint_file_close(&file);
    return ok;
}

// The tensors the trainer saved: not what state_tensors.h adds.
static bool is_tensor(const char *name) {
    return checkpoint_in_digest(name) && strncmp(name, "state/", 6) != 0;
}

static void list_tensors(const Manifest *manifest, CheckpointInfo *info) {
    info->tensors = calloc((size_t)manifest->count + 1, sizeof *info->tensors);
    CHECK_MEMORY(info->tensors, "no memory for %lld tensors", (long long)manifest->count);
    for (int64_t i = 0; i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        if (!is_tensor(dataset->name)) continue;
        SavedTensor *tensor = &info->tensors[info->tensor_count++];
        *tensor = (SavedTensor){.dtype = dataset->dtype,
                                .rank = dataset->rank,
                                .elements = dataset->bytes / (int64_t)dtype_bytes(dataset->dtype)};
        memcpy(tensor->name, dataset->name, sizeof tensor->name);
        memcpy(tensor->shape, dataset->shape, sizeof tensor->shape);
    }
}

static bool read_text_field(CheckpointFile *file, const char *name, char *out, size_t out_bytes,
                            Error *err) {
    char *text = NULL;
    if (!text_read(file, name, &text, err)) return false;
    snprintf(out, out_bytes, "%s", text);
    free(text);
    return true;
}

bool checkpoint_read_info(const char *path, CheckpointInfo *info, Error *err) {
    CheckpointFile file;
    CheckpointInfo read = {0};
    if (!checkpoint_file_open(&file, path, err)) return false;
    list_tensors(&file.manifest, &read);
    bool ok = digest_file(&file, read.digest, err) && state_read(&file, &read.state, err) &&
              text_read(&file, "config", &read.config_yaml, err) &&
              read_text_field(&file, "about/program_version", read.program_version,
                              sizeof read.program_version, err) &&
              read_text_field(&file, "about/created_utc", read.created_utc, sizeof read.created_utc,
                              err) &&
              utilization_read(&file, &read.utilization, err);
    checkpoint_file_close(&file);
    if (ok) {
        *info = read;
    } else {
        checkpoint_free_info(&read);
        error_prefix(err, "%s", path);
    }
    return ok;
}

bool checkpoint_read_table(const char *path, CheckpointInfo *info, Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, path, err)) return false;
    *info = (CheckpointInfo){0};
    list_tensors(&file.manifest, info);
    checkpoint_file_close(&file);
    return true;
}

void checkpoint_free_info(CheckpointInfo *info) {
    free(info->tensors);
    free(info->config_yaml);
    utilization_free(&info->utilization);
    *info = (CheckpointInfo){0};
}
