#include "worker/huggingface/weight_shards.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/file_io.h"
#include "worker/huggingface/weight_place.h"

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
        snprintf(name, WEIGHT_FILE_NAME_BYTES, "%s", WEIGHTS_FILE);
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
    char name[WEIGHT_FILE_NAME_BYTES], path[WEIGHT_PATH_BYTES];
    int64_t first = shards->first[number], end = shards->first[number + 1];
    SafetensorsWriter writer;
    Hash hash;
    name_file(shards, number, name);
    if (!weight_file_path(folder, name, path, err) ||
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
    char name[WEIGHT_FILE_NAME_BYTES], path[WEIGHT_PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "no memory for %s", WEIGHTS_INDEX);
    fprintf(out, "{\n  \"metadata\": {\"total_size\": %lld},\n  \"weight_map\": {",
            (long long)shards->bytes);
    for (int number = 0; number < shards->count; number++) {
        name_file(shards, number, name);
        for (int64_t i = shards->first[number]; i < shards->first[number + 1]; i++)
            fprintf(out, "%s\n    \"%s\": \"%s\"", i > 0 ? "," : "", shards->tensors[i].name, name);
    }
    fputs("\n  }\n}\n", out);
    fclose(out);
    CHECK_MEMORY(text, "no memory for %s", WEIGHTS_INDEX);
    bool ok =
        weight_file_path(folder, WEIGHTS_INDEX, path, err) && file_make(path, text, bytes, err);
    free(text);
    return ok;
}

bool weight_shards_write(const char *path, const TensorMap *map, StoredType type, int64_t most,
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
