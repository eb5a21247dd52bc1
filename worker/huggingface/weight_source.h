// Where the parameters of a model come from, slice by slice (tensor_map.h): a checkpoint, or a
// folder of Hugging Face's form. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_SOURCE_H
#define MOETRAIN_WORKER_HUGGINGFACE_WEIGHT_SOURCE_H

#include "checkpoint/checkpoint_file.h"
#include "worker/huggingface/tensor_map.h"
#include "worker/huggingface/weight_folder.h"

typedef struct WeightSource {
    const TensorMap *map;
    // of a checkpoint, with its averages instead of what they are averages of; or
    CheckpointFile *checkpoint;
    bool averages;
    // of a folder
    WeightFolder *folder;
    int64_t *first_of, *next_of; // tensors of the map of each parameter, a list; -1 ends it
    float *theirs;               // scratch: the largest slice of theirs
} WeightSource;

// Looks at names, types and shapes before anything is read. False with exit 4, which names what is
// missing or has another shape.
bool weight_source_of_checkpoint(WeightSource *source, const TensorMap *map, CheckpointFile *file,
                                 bool averages, Error *err);
// Likewise; a tensor that the map does not have is an error, but for those that say nothing
// (angles of RoPE), a head equal to the embedding that it is tied to, and layers after the last.
bool weight_source_of_folder(WeightSource *source, const TensorMap *map, WeightFolder *folder,
                             Error *err);
void weight_source_free(WeightSource *source); // legal on a zeroed one

// The values of one slice of a parameter, (rows, columns), each of which is written. False with
// exit 4 where one is not finite, or exit 4 or 5 when it cannot be read.
bool weight_source_read(const WeightSource *source, int param, int64_t slice, float *out,
                        Error *err);

#endif
