#include "worker/huggingface/weight_source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "kernels/log.h"

static const Param *param_at(const WeightSource *source, int param) {
    return &source->map->model.params.rows[param];
}

static int64_t slice_elements(SliceShape slice) {
    return slice.rows * slice.columns;
}

// ---- a checkpoint -------------------------------------------------------------------------------

static void dataset_name(const WeightSource *source, const Param *row, char name[160]) {
    bool average = source->averages && row->update == UPDATE_GRADIENT;
    snprintf(name, 160, "%s/%s", average ? "ema" : "parameters", row->name);
}

bool weight_source_of_checkpoint(WeightSource *source, const TensorMap *map, CheckpointFile *file,
                                 bool averages, Error *err) {
    *source = (WeightSource){.map = map, .checkpoint = file, .averages = averages};
    for (int i = 0; i < map->model.params.count; i++) {
        const Param *row = &map->model.params.rows[i];
        char name[160];
        dataset_name(source, row, name);
        const Dataset *dataset = manifest_find(&file->manifest, name);
        if (!dataset)
            return error_set(err, EXIT_CHECKPOINT, "%s is not in the checkpoint%s", name,
                             averages ? ", which holds no averages (train.ema)" : "");
        if (dataset->dtype != F32 || dataset->rank != row->rank ||
            memcmp(dataset->shape, row->shape, sizeof dataset->shape) != 0)
            return error_set(err, EXIT_CHECKPOINT,
                             "%s has another shape in the checkpoint than its configuration says",
                             name);
    }
    return true;
}

static bool read_checkpoint(const WeightSource *source, int param, int64_t slice, float *out,
                            Error *err) {
    const Param *row = param_at(source, param);
    char name[160];
    dataset_name(source, row, name);
    const Dataset *dataset = manifest_find(&source->checkpoint->manifest, name);
    int64_t elements = slice_elements(slice_shape(row)), width = (int64_t)sizeof *out;
    return checkpoint_file_read(source->checkpoint, dataset, slice * elements * width,
                                elements * width, out, err) &&
           check_finite(name, row->rank, row->shape, slice * elements, elements, out, err);
}

// ---- a folder -----------------------------------------------------------------------------------

static bool same_shape(const MappedTensor *mapped, const StoredTensor *stored) {
    return mapped->rank == stored->rank &&
           memcmp(mapped->shape, stored->shape, sizeof mapped->shape) == 0;
}

static void print_shape(int rank, const int64_t *shape, char text[80]) {
    text[0] = '\0';
    for (int axis = 0; axis < rank; axis++) {
        size_t used = strlen(text);
        snprintf(text + used, 80 - used, "%s%lld", axis ? ", " : "", (long long)shape[axis]);
    }
}

// Theirs is there where ours is not, and adds nothing.
static bool check_zeros(const WeightSource *source, const WeightPlace *place, Error *err) {
    int64_t count = place->tensor->bytes / stored_type_bytes(place->tensor->type);
    if (!weight_folder_read(source->folder, place, 0, count, source->theirs, err)) return false;
    for (int64_t i = 0; i < count; i++)
        if (source->theirs[i] != 0)
            return error_set(err, EXIT_CHECKPOINT, "%s[%lld] is %g, but nothing here takes it",
                             place->tensor->name, (long long)i, (double)source->theirs[i]);
    return true;
}

static bool find_tensors(WeightSource *source, Error *err) {
    const TensorMap *map = source->map;
    for (int64_t i = 0; i < map->count; i++) {
        const MappedTensor *mapped = &map->tensors[i];
        WeightPlace *place = weight_folder_find(source->folder, mapped->name);
        if (!place)
            return error_set(err, EXIT_CHECKPOINT, "%s: the tensor %s is missing",
                             source->folder->path, mapped->name);
        char has[80], wants[80];
        print_shape(place->tensor->rank, place->tensor->shape, has);
        print_shape(mapped->rank, mapped->shape, wants);
        if (!same_shape(mapped, place->tensor))
            return error_set(err, EXIT_CHECKPOINT,
                             "%s: the tensor %s has shape (%s), but config.json says (%s)",
                             source->folder->path, mapped->name, has, wants);
        place->used = true;
        if (mapped->param < 0) {
            if (!check_zeros(source, place, err)) return false;
            continue;
        }
        source->next_of[i] = source->first_of[mapped->param];
        source->first_of[mapped->param] = i;
    }
    return true;
}

// A head beside an embedding that it is tied to must be the same numbers.
static bool check_tied_head(const WeightSource *source, const WeightPlace *head, Error *err) {
    const WeightPlace *table = weight_folder_find(source->folder, "model.embed_tokens.weight");
    enum { PIECE = 1 << 16 };
    int64_t count = head->tensor->shape[0] * head->tensor->shape[1];
    bool same = table && table->tensor->rank == head->tensor->rank &&
                memcmp(table->tensor->shape, head->tensor->shape, sizeof head->tensor->shape) == 0;
    float *a = malloc(2 * PIECE * sizeof *a), *b = a + PIECE;
    CHECK_MEMORY(a, "no memory to compare two tensors");
    bool ok = true;
    for (int64_t at = 0; ok && same && at < count; at += PIECE) {
        int64_t some = smaller(PIECE, count - at);
        ok = weight_folder_read(source->folder, head, at, some, a, err) &&
             weight_folder_read(source->folder, table, at, some, b, err);
        same = ok && memcmp(a, b, (size_t)some * sizeof *a) == 0;
    }
    free(a);
    return !ok || same
               ? ok
               : error_set(err, EXIT_CHECKPOINT,
                           "%s: config.json ties the head to the embedding, but lm_head.weight is "
                           "another tensor; set tie_word_embeddings to false",
                           source->folder->path);
}

// The number in "model.layers.N.…", or -1.
static int64_t layer_of(const char *name) {
    static const char before[] = "model.layers.";
    if (strncmp(name, before, sizeof before - 1) != 0) return -1;
    char *end;
    long long number = strtoll(name + sizeof before - 1, &end, 10);
    return *end == '.' && end != name + sizeof before - 1 ? number : -1;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static bool check_rest(const WeightSource *source, Error *err) {
    const TensorMap *map = source->map;
    int64_t layers = map->model.config.layers, beyond = 0;
    for (int64_t i = 0; i < source->folder->count; i++) {
        const WeightPlace *place = &source->folder->places[i];
        const char *name = place->tensor->name;
        if (place->used || ends_with(name, "rotary_emb.inv_freq")) continue;
        if (strcmp(name, "lm_head.weight") == 0 && map->model.config.tied_embeddings) {
            if (!check_tied_head(source, place, err)) return false;
            continue;
        }
        if (layer_of(name) >= layers && map->family->widths_sum) {
            beyond++; // predicts further tokens (num_nextn_predict_layers)
            continue;
        }
        return error_set(err, EXIT_CHECKPOINT,
                         "%s: the tensor %s has no place in a %s model of this config.json",
                         source->folder->path, name, map->family->model_type);
    }
    if (beyond > 0)
        log_warn("%s: %lld tensors of layers after the last are left out: they predict further "
                 "tokens, which nothing here does",
                 source->folder->path, (long long)beyond);
    return true;
}

// Elements of the largest slice of theirs.
static int64_t largest_slice(const TensorMap *map) {
    int64_t largest = 1;
    for (int64_t i = 0; i < map->count; i++) {
        const MappedTensor *mapped = &map->tensors[i];
        int64_t slices = mapped->expert < 0 ? 1 : mapped->shape[0];
        largest = larger(largest, slices * mapped->shape[1] * mapped->shape[2]);
    }
    return largest;
}

bool weight_source_of_folder(WeightSource *source, const TensorMap *map, WeightFolder *folder,
                             Error *err) {
    size_t params = (size_t)map->model.params.count;
    *source = (WeightSource){.map = map, .folder = folder};
    source->first_of = malloc((params + 1) * sizeof *source->first_of);
    source->next_of = malloc(((size_t)map->count + 1) * sizeof *source->next_of);
    source->theirs = malloc((size_t)largest_slice(map) * sizeof *source->theirs);
    CHECK_MEMORY(source->first_of && source->next_of && source->theirs,
                 "no memory for %lld tensors", (long long)map->count);
    for (size_t i = 0; i < params; i++) source->first_of[i] = -1;
    for (int64_t i = 0; i < folder->count; i++) folder->places[i].used = false;
    if (find_tensors(source, err) && check_rest(source, err)) return true;
    weight_source_free(source);
    return false;
}

static bool read_folder(const WeightSource *source, int param, int64_t slice, float *out,
                        Error *err) {
    const TensorMap *map = source->map;
    SliceShape shape = slice_shape(param_at(source, param));
    int64_t written = 0;
    for (int64_t i = source->first_of[param]; i >= 0; i = source->next_of[i]) {
        const MappedTensor *mapped = &map->tensors[i];
        if (mapped->expert >= 0 && mapped->expert != slice) continue;
        int64_t rows = mapped_rows(map, mapped), elements = rows * shape.columns;
        int64_t first = mapped->expert < 0 ? slice * elements : 0;
        const WeightPlace *place = weight_folder_find(source->folder, mapped->name);
        if (!weight_folder_read(source->folder, place, first, elements, source->theirs, err))
            return false;
        slice_to_ours(map, mapped, out, source->theirs);
        written += rows;
    }
    CHECK(written == shape.rows, "%s: %lld of %lld rows are written", param_at(source, param)->name,
          (long long)written, (long long)shape.rows);
    return true;
}

void weight_source_free(WeightSource *source) {
    free(source->first_of);
    free(source->next_of);
    free(source->theirs);
    *source = (WeightSource){0};
}

bool weight_source_read(const WeightSource *source, int param, int64_t slice, float *out,
                        Error *err) {
    return source->checkpoint ? read_checkpoint(source, param, slice, out, err)
                              : read_folder(source, param, slice, out, err);
}
