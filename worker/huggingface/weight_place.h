// Where tensors are in a folder of Hugging Face's form: the names of its files, and a list of
// places that is ascending by name. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_PLACE_H
#define MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_PLACE_H

#include "worker/huggingface/safetensors.h"

#define WEIGHTS_FILE  "model.safetensors"            // all of them
#define WEIGHTS_INDEX "model.safetensors.index.json" // which file of several has each tensor

enum {
    WEIGHT_FILE_NAME_BYTES = 128,
    WEIGHT_FOLDER_BYTES = 1024, // of its path
    WEIGHT_PATH_BYTES = WEIGHT_FOLDER_BYTES + WEIGHT_FILE_NAME_BYTES + 2,
};

// FOLDER/NAME. False with exit 5 where that is too long.
bool weight_file_path(const char *folder, const char *name, char path[WEIGHT_PATH_BYTES],
                      Error *err);

typedef struct WeightFile {
    char name[WEIGHT_FILE_NAME_BYTES]; // in its folder
    Safetensors header;
} WeightFile;

typedef struct WeightPlace {
    const StoredTensor *tensor; // as readers see it
    const WeightFile *file;
    bool used; // for the caller
    // Of a quantised one: what its numbers are multiplied by, and of mxfp4 what is stored; NULL:
    // none.
    const StoredTensor *scales, *blocks;
    const WeightFile *scales_file;
} WeightPlace;

// Puts them in their order. False with exit 4 where two have one name.
bool weight_places_sort(WeightPlace *places, int64_t count, Error *err);
// That of the name, or NULL.
WeightPlace *weight_places_find(const WeightPlace *places, int64_t count, const char *name);

#endif
