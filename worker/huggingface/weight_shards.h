// Writing the weights of a folder of Hugging Face's form, which weight_folder.h reads. Not
// collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_SHARDS_H
#define MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_SHARDS_H

#include "worker/huggingface/tensor_map.h"

// What writes a tensor: slice after slice of theirs, each f32.
typedef bool (*WeightSlices)(void *context, const MappedTensor *tensor, int64_t slice,
                             const float **theirs, int64_t *count, Error *err);

// Writes the map's tensors into a folder that has none, files of at most `most` bytes (or of one
// tensor) in the order of the map, and the index where there are several. Says each file's hash.
// False with exit 5, or as `slices` has it.
bool weight_shards_write(const char *path, const TensorMap *map, StoredType type, int64_t most,
                         WeightSlices slices, void *context, Error *err);

#endif
