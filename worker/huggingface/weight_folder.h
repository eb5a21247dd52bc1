// Reading the weights in a folder of Hugging Face's form: model.safetensors, or several files and
// model.safetensors.index.json, which says in which of them each tensor is. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_FOLDER_H
#define MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_FOLDER_H

#include "worker/huggingface/quantized_weights.h"

enum { WEIGHT_FILES_MOST = 4096 };

typedef struct WeightFolder {
    char path[WEIGHT_FOLDER_BYTES];
    WeightFile *files;
    int file_count;
    WeightPlace *places; // ascending by name
    int64_t count;
    Quantization quantization;
    StoredTensor *joined; // what `tensor` of mxfp4 points to
} WeightFolder;

// Opens every file and checks header and index: names of files are those of the folder itself, each
// tensor is in the file that the index says, and the index has all of them. Quantised ones are then
// seen as what they stand for, without their scales. False with exit 4 or 5.
bool weight_folder_open(WeightFolder *folder, const char *path, Quantization quantization,
                        Error *err);
void weight_folder_close(WeightFolder *folder); // legal on a zeroed one
WeightPlace *weight_folder_find(const WeightFolder *folder, const char *name); // or NULL
// Elements as of safetensors_read; messages begin with the file.
bool weight_folder_read(const WeightFolder *folder, const WeightPlace *place, int64_t first,
                        int64_t count, float *out, Error *err);

#endif
