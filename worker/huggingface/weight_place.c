#include "worker/huggingface/weight_place.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool weight_file_path(const char *folder, const char *name, char path[WEIGHT_PATH_BYTES],
                      Error *err) {
    return snprintf(path, WEIGHT_PATH_BYTES, "%s/%s", folder, name) < WEIGHT_PATH_BYTES ||
           error_set(err, EXIT_IO, "path too long: %.60s...", folder);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const WeightPlace *)a)->tensor->name, ((const WeightPlace *)b)->tensor->name);
}

bool weight_places_sort(WeightPlace *places, int64_t count, Error *err) {
    qsort(places, (size_t)count, sizeof *places, by_name);
    for (int64_t i = 1; i < count; i++)
        if (by_name(&places[i - 1], &places[i]) == 0)
            return error_set(err, EXIT_CHECKPOINT, "%s is in %s and in %s", places[i].tensor->name,
                             places[i - 1].file->name, places[i].file->name);
    return true;
}

WeightPlace *weight_places_find(const WeightPlace *places, int64_t count, const char *name) {
    StoredTensor wanted = {0};
    WeightPlace key = {.tensor = &wanted};
    if (strlen(name) >= sizeof wanted.name) return NULL;
    snprintf(wanted.name, sizeof wanted.name, "%s", name);
    return bsearch(&key, places, (size_t)count, sizeof *places, by_name);
}
