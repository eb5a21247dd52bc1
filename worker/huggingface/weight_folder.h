// The weights in a folder of Hugging Face's form: model.safetensors, or several files and
// model.safetensors.index.json, which says in which of them each tensor is. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_FOLDER_H
#define MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_FOLDER_H

#include "worker/huggingface/tensor_map.h"

enum { WEIGHT_FILE_NAME_BYTES = 128, WEIGHT_FILES_MOST = 4096 };

// ---- reading ------------------------------------------------------------------------------------

typedef struct WeightFile {
    char name[WEIGHT_FILE_NAME_BYTES]; // in the folder
    Safetensors header;
} WeightFile;

// How weights are stored in fewer bits, as quantization_config of config.json says
// (quantized_weights.h).
typedef enum QuantizationKind { QUANTIZED_NOT, QUANTIZED_FP8, QUANTIZED_MXFP4 } QuantizationKind;
typedef struct Quantization {
    QuantizationKind kind;
    int64_t block[2]; // of QUANTIZED_FP8: rows and columns of a scale
} Quantization;

typedef struct WeightPlace {
    const StoredTensor *tensor; // as readers see it
    int file;
    bool used; // for the caller
    // Of a quantised one: what its numbers are multiplied by, and of mxfp4 what is stored; NULL:
    // none.
    const StoredTensor *scales, *blocks;
    int scales_file;
} WeightPlace;

typedef struct WeightFolder {
    char path[1024];
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

// ---- writing ------------------------------------------------------------------------------------

// What writes a tensor: slice after slice of theirs, each f32.
typedef bool (*WeightSlices)(void *context, const MappedTensor *tensor, int64_t slice,
                             const float **theirs, int64_t *count, Error *err);

// Writes the map's tensors into a folder that has none, files of at most `most` bytes (or of one
// tensor) in the order of the map, and the index where there are several. Says each file's hash.
// False with exit 5, or as `slices` has it.
bool weight_folder_write(const char *path, const TensorMap *map, StoredType type, int64_t most,
                         WeightSlices slices, void *context, Error *err);

#endif
