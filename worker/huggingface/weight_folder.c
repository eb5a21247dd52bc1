#include "worker/huggingface/weight_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "worker/huggingface/quantized_weights.h"
#include "worker/run/json_file.h"

static const char ONE_FILE[] = "model.safetensors", INDEX[] = "model.safetensors.index.json";
enum { PATH_BYTES = sizeof((WeightFolder *)0)->path + WEIGHT_FILE_NAME_BYTES + 2 };

static bool name_path(const char *folder, const char *name, char path[PATH_BYTES], Error *err) {
    return snprintf(path, PATH_BYTES, "%s/%s", folder, name) < PATH_BYTES ||
           error_set(err, EXIT_IO, "path too long: %.60s...", folder);
}

// ---- reading ------------------------------------------------------------------------------------

// Names lead nowhere else: no folders, nothing hidden.
static bool check_file_name(const char *name, Error *err) {
    size_t length = strlen(name), tail = strlen(".safetensors");
    bool legal = length > tail && length < WEIGHT_FILE_NAME_BYTES && name[0] != '.' &&
                 strcmp(name + length - tail, ".safetensors") == 0;
    for (size_t i = 0; legal && i < length; i++)
        legal = name[i] > ' ' && name[i] < 127 && name[i] != '/' && name[i] != '\\';
    return legal ||
           error_set(err, EXIT_CHECKPOINT,
                     "%s: '%.60s' is no name of a .safetensors file in this folder", INDEX, name);
}

// The file's number, opened at first.
static bool open_file(WeightFolder *folder, const char *name, int *number, Error *err) {
    char path[PATH_BYTES];
    for (*number = 0; *number < folder->file_count; ++*number)
        if (strcmp(folder->files[*number].name, name) == 0) return true;
    if (*number == WEIGHT_FILES_MOST)
        return error_set(err, EXIT_CHECKPOINT, "%s names more than %d files", INDEX,
                         WEIGHT_FILES_MOST);
    folder->files =
        realloc(folder->files, (size_t)(folder->file_count + 1) * sizeof *folder->files);
    CHECK_MEMORY(folder->files, "no memory for %d files", folder->file_count + 1);
    WeightFile *file = &folder->files[folder->file_count];
    *file = (WeightFile){0};
    snprintf(file->name, sizeof file->name, "%s", name);
    if (!name_path(folder->path, name, path, err)) return false;
    if (!safetensors_open(&file->header, path, err)) return error_prefix(err, "%s", name);
    folder->file_count++;
    return true;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const WeightPlace *)a)->tensor->name, ((const WeightPlace *)b)->tensor->name);
}

static bool sort_places(WeightFolder *folder, Error *err) {
    qsort(folder->places, (size_t)folder->count, sizeof *folder->places, by_name);
    for (int64_t i = 1; i < folder->count; i++)
        if (by_name(&folder->places[i - 1], &folder->places[i]) == 0)
            return error_set(err, EXIT_CHECKPOINT, "%s is in %s and in %s",
                             folder->places[i].tensor->name,
                             folder->files[folder->places[i - 1].file].name,
                             folder->files[folder->places[i].file].name);
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
            folder->places[folder->count++] =
                (WeightPlace){.tensor = &folder->files[i].header.tensors[k], .file = i};
    return sort_places(folder, err);
}

static bool open_files(WeightFolder *folder, const json_t *map, Error *err) {
    const char *name;
    json_t *value;
    int number;
    if (!json_is_object(map)) return error_set(err, EXIT_CHECKPOINT, "%s has no weight_map", INDEX);
    json_object_foreach((json_t *)map, name, value) {
        const char *file = json_string_value(value);
        if (!file)
            return error_set(err, EXIT_CHECKPOINT, "%s: weight_map names no file for %.100s", INDEX,
                             name);
        if (!check_file_name(file, err) || !open_file(folder, file, &number, err)) return false;
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
        if (!place || strcmp(folder->files[place->file].name, file) != 0)
            return error_set(err, EXIT_CHECKPOINT, "%s: %.100s is not in %s", INDEX, name, file);
    }
    for (int64_t i = 0; i < folder->count; i++)
        if (!json_object_get(map, folder->places[i].tensor->name))
            return error_set(err, EXIT_CHECKPOINT, "%s does not name %s of %s", INDEX,
                             folder->places[i].tensor->name,
                             folder->files[folder->places[i].file].name);
    return true;
}

static bool open_folder(WeightFolder *folder, Error *err) {
    char path[PATH_BYTES];
    int number;
    if (!name_path(folder->path, INDEX, path, err)) return false;
    if (access(path, F_OK) != 0)
        return open_file(folder, ONE_FILE, &number, err) && list_places(folder, err);
    json_t *index = json_file_load(path, SAFETENSORS_HEADER_MOST, EXIT_CHECKPOINT, err);
    if (!index) return error_prefix(err, "%s", INDEX);
    const json_t *map = json_object_get(index, "weight_map");
    bool ok = open_files(folder, map, err) && check_index(folder, map, err);
    json_decref(index);
    return ok;
}

// Quantised tensors with their scales, which leave the list.
static bool join_places(WeightFolder *folder, Error *err) {
    if (!quantized_weights_join(folder, err)) return false;
    int64_t kept = 0;
    for (int64_t i = 0; i < folder->count; i++)
        if (!folder->places[i].used) folder->places[kept++] = folder->places[i];
    folder->count = kept;
    return sort_places(folder, err);
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
    StoredTensor wanted = {0};
    WeightPlace key = {.tensor = &wanted};
    if (strlen(name) >= sizeof wanted.name) return NULL;
    snprintf(wanted.name, sizeof wanted.name, "%s", name);
    return bsearch(&key, folder->places, (size_t)folder->count, sizeof *folder->places, by_name);
}

bool weight_folder_read(const WeightFolder *folder, const WeightPlace *place, int64_t first,
                        int64_t count, float *out, Error *err) {
    const WeightFile *file = &folder->files[place->file];
    bool ok = place->scales
                  ? quantized_weights_read(folder, place, first, count, out, err)
                  : safetensors_read(file->header.fd, place->tensor, first, count, out, err);
    return ok || error_prefix(err, "%s/%s", folder->path, file->name);
}

// ---- writing ------------------------------------------------------------------------------------

typedef struct Shards {
    StoredTensor *tensors; // of all files, in the order of the map
    int64_t *first;        // of each file, and the end
    int count;
    int64_t bytes; // of all tensors
} Shards;

static StoredType type_of(const MappedTensor *tensor, StoredType type) {
    return tensor->rule->wide ? STORED_F32 : type;
}

// A file takes the next tensor unless it would grow over `most`.
static Shards cut(const TensorMap *map, StoredType type, int64_t most) {
    Shards shards = {.tensors = calloc((size_t)map->count + 1, sizeof *shards.tensors),
                     .first = calloc((size_t)map->count + 2, sizeof *shards.first)};
    CHECK_MEMORY(shards.tensors && shards.first, "no memory for %lld tensors",
                 (long long)map->count);
    int64_t bytes = 0;
    for (int64_t i = 0; i < map->count; i++) {
        StoredTensor *tensor = &shards.tensors[i];
        const MappedTensor *mapped = &map->tensors[i];
        tensor->type = type_of(mapped, type);
        tensor->rank = mapped->rank;
        memcpy(tensor->name, mapped->name, sizeof tensor->name);
        memcpy(tensor->shape, mapped->shape, sizeof tensor->shape);
        int64_t size = stored_type_bytes(tensor->type) * mapped->shape[0] * mapped->shape[1] *
                       mapped->shape[2];
        if (i == 0 || (bytes > 0 && bytes + size > most)) {
            shards.first[shards.count++] = i;
            bytes = 0;
        }
        bytes += size;
        shards.bytes += size;
    }
    shards.first[shards.count] = map->count;
    return shards;
}

static void name_file(const Shards *shards, int number, char name[WEIGHT_FILE_NAME_BYTES]) {
    if (shards->count == 1)
        snprintf(name, WEIGHT_FILE_NAME_BYTES, "%s", ONE_FILE);
    else
        snprintf(name, WEIGHT_FILE_NAME_BYTES, "model-%05d-of-%05d.safetensors", number + 1,
                 shards->count);
}

static bool write_tensor(SafetensorsWriter *writer, const TensorMap *map, int64_t i,
                         StoredType type, WeightSlices slices, void *context, Error *err) {
    const MappedTensor *tensor = &map->tensors[i];
    int64_t elements = tensor->shape[0] * tensor->shape[1] * tensor->shape[2], done = 0;
    for (int64_t slice = 0; done < elements; slice++) {
        const float *theirs = NULL;
        int64_t count = 0;
        if (!slices(context, tensor, slice, &theirs, &count, err)) return false;
        CHECK(count > 0 && done + count <= elements, "%s: slice %lld", tensor->name,
              (long long)slice);
        if (!safetensors_append(writer, type, theirs, count, err)) return false;
        done += count;
    }
    return true;
}

static bool write_file(const char *folder, const TensorMap *map, const Shards *shards, int number,
                       WeightSlices slices, void *context, Error *err) {
    char name[WEIGHT_FILE_NAME_BYTES], path[PATH_BYTES];
    int64_t first = shards->first[number], end = shards->first[number + 1];
    SafetensorsWriter writer;
    Hash hash;
    name_file(shards, number, name);
    if (!name_path(folder, name, path, err) ||
        !safetensors_create(&writer, path, shards->tensors + first, end - first, err))
        return false;
    bool ok = true;
    for (int64_t i = first; ok && i < end; i++)
        ok = write_tensor(&writer, map, i, shards->tensors[i].type, slices, context, err);
    if (!safetensors_finish(&writer, ok, &hash, err)) return error_prefix(err, "%s", name);
    printf("%s: %lld tensors, XXH3-128 ", name, (long long)(end - first));
    for (int i = 0; i < 16; i++) printf("%02x", hash.bytes[i]);
    putchar('\n');
    return true;
}

static bool write_index(const char *folder, const Shards *shards, Error *err) {
    char name[WEIGHT_FILE_NAME_BYTES], path[PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "no memory for %s", INDEX);
    fprintf(out, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {",
            (long long)shards->bytes);
    for (int number = 0; number < shards->count; number++) {
        name_file(shards, number, name);
        for (int64_t i = shards->first[number]; i < shards->first[number + 1]; i++)
            fprintf(out, "%s\n    \"%s\": \"%s\"", i > 0 ? "," : "", shards->tensors[i].name, name);
    }
    fputs("\n  }\n}\n", out);
    fclose(out);
    CHECK_MEMORY(text, "no memory for %s", INDEX);
    bool ok = name_path(folder, INDEX, path, err) && file_make(path, text, bytes, err);
    free(text);
    return ok;
}

bool weight_folder_write(const char *path, const TensorMap *map, StoredType type, int64_t most,
                         WeightSlices slices, void *context, Error *err) {
    Shards shards = cut(map, type, most);
    bool ok = true;
    for (int number = 0; ok && number < shards.count; number++)
        ok = write_file(path, map, &shards, number, slices, context, err);
    ok = ok && (shards.count == 1 || write_index(path, &shards, err));
    free(shards.tensors);
    free(shards.first);
    return ok;
}
