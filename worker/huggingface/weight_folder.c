#include "worker/huggingface/weight_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/run/json_file.h"

// Names lead nowhere else: no folders, nothing hidden.
static bool check_file_name(const char *name, Error *err) {
    size_t length = strlen(name), tail = strlen(".safetensors");
    bool legal = length > tail && length < WEIGHT_FILE_NAME_BYTES && name[0] != '.' &&
                 strcmp(name + length - tail, ".safetensors") == 0;
    for (size_t i = 0; legal && i < length; i++)
        legal = name[i] > ' ' && name[i] < 127 && name[i] != '/' && name[i] != '\\';
    return legal || error_set(err, EXIT_CHECKPOINT,
                              "%s: '%.60s' is no name of a .safetensors file in this folder",
                              WEIGHTS_INDEX, name);
}

// Opens the file, unless it is open.
static bool open_file(WeightFolder *folder, const char *name, Error *err) {
    char path[WEIGHT_PATH_BYTES];
    for (int i = 0; i < folder->file_count; i++)
        if (strcmp(folder->files[i].name, name) == 0) return true;
    if (folder->file_count == WEIGHT_FILES_MOST)
        return error_set(err, EXIT_CHECKPOINT, "%s names more than %d files", WEIGHTS_INDEX,
                         WEIGHT_FILES_MOST);
    folder->files =
        realloc(folder->files, (size_t)(folder->file_count + 1) * sizeof *folder->files);
    CHECK_MEMORY(folder->files, "no memory for %d files", folder->file_count + 1);
    WeightFile *file = &folder->files[folder->file_count];
    *file = (WeightFile){0};
    snprintf(file->name, sizeof file->name, "%s", name);
    if (!weight_file_path(folder->path, name, path, err)) return false;
    if (!safetensors_open(&file->header, path, err)) return error_prefix(err, "%s", name);
    folder->file_count++;
    return true;
}

// The tensors of all files, each name once.
static bool list_places(WeightFolder *folder, Error *err) {
    int64_t total = 0;
    for (int i = 0; i < folder->file_count; i++) total += folder->files[i].header.count;
    folder->places = calloc((size_t)total + 1, sizeof *folder->places);
    CHECK_MEMORY(folder->places, "no memory for %lld tensors", (long long)total);
    for (int i = 0; i < folder->file_count; i++)
        for (int64_t k = 0; k < folder->files[i].header.count; k++)
            folder->places[folder->count++] = (WeightPlace){
                .tensor = &folder->files[i].header.tensors[k], .file = &folder->files[i]};
    return weight_places_sort(folder->places, folder->count, err);
}

static bool open_files(WeightFolder *folder, const json_t *map, Error *err) {
    const char *name;
    json_t *value;
    if (!json_is_object(map))
        return error_set(err, EXIT_CHECKPOINT, "%s has no weight_map", WEIGHTS_INDEX);
    json_object_foreach((json_t *)map, name, value) {
        const char *file = json_string_value(value);
        if (!file)
            return error_set(err, EXIT_CHECKPOINT, "%s: weight_map names no file for %.100s",
                             WEIGHTS_INDEX, name);
        if (!check_file_name(file, err) || !open_file(folder, file, err)) return false;
    }
    return list_places(folder, err);
}

// Whether index and files say the same.
static bool check_index(const WeightFolder *folder, const json_t *map, Error *err) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)map, name, value) {
        const char *file = json_string_value(value);
        const WeightPlace *place = weight_folder_find(folder, name);
        if (!place || strcmp(place->file->name, file) != 0)
            return error_set(err, EXIT_CHECKPOINT, "%s: %.100s is not in %s", WEIGHTS_INDEX, name,
                             file);
    }
    for (int64_t i = 0; i < folder->count; i++)
        if (!json_object_get(map, folder->places[i].tensor->name))
            return error_set(err, EXIT_CHECKPOINT, "%s does not name %s of %s", WEIGHTS_INDEX,
                             folder->places[i].tensor->name, folder->places[i].file->name);
    return true;
}

static bool open_folder(WeightFolder *folder, Error *err) {
    char path[WEIGHT_PATH_BYTES];
    if (!weight_file_path(folder->path, WEIGHTS_INDEX, path, err)) return false;
    if (access(path, F_OK) != 0)
        return open_file(folder, WEIGHTS_FILE, err) && list_places(folder, err);
    json_t *index = json_file_load(path, SAFETENSORS_HEADER_MOST, EXIT_CHECKPOINT, err);
    if (!index) return error_prefix(err, "%s", WEIGHTS_INDEX);
    const json_t *map = json_object_get(index, "weight_map");
    bool ok = open_files(folder, map, err) && check_index(folder, map, err);
    json_decref(index);
    return ok;
}

// Quantised tensors with their scales, which leave the list.
static bool join_places(WeightFolder *folder, Error *err) {
    if (!quantized_weights_join(folder->places, folder->count, &folder->quantization,
                                &folder->joined, err))
        return false;
    int64_t kept = 0;
    for (int64_t i = 0; i < folder->count; i++)
        if (!folder->places[i].used) folder->places[kept++] = folder->places[i];
    folder->count = kept;
    return weight_places_sort(folder->places, folder->count, err);
}

bool weight_folder_open(WeightFolder *folder, const char *path, Quantization quantization,
                        Error *err) {
    *folder = (WeightFolder){.quantization = quantization};
    if (snprintf(folder->path, sizeof folder->path, "%s", path) >= (int)sizeof folder->path)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    if (open_folder(folder, err) && join_places(folder, err)) return true;
    weight_folder_close(folder);
    return error_prefix(err, "%s", path);
}

void weight_folder_close(WeightFolder *folder) {
    for (int i = 0; i < folder->file_count; i++) safetensors_close(&folder->files[i].header);
    free(folder->files);
    free(folder->places);
    free(folder->joined);
    *folder = (WeightFolder){0};
}

WeightPlace *weight_folder_find(const WeightFolder *folder, const char *name) {
    return weight_places_find(folder->places, folder->count, name);
}

bool weight_folder_read(const WeightFolder *folder, const WeightPlace *place, int64_t first,
                        int64_t count, float *out, Error *err) {
    const WeightFile *file = place->file;
    bool ok = place->scales
                  ? quantized_weights_read(&folder->quantization, place, first, count, out, err)
                  : safetensors_read(file->header.fd, place->tensor, first, count, out, err);
    return ok || error_prefix(err, "%s/%s", folder->path, file->name);
}
