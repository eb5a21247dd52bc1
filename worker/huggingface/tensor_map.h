// Which tensors the files of a family have for a model, and where each of their numbers is in ours:
// a row of TensorRule, for each layer and expert. Not collective.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_TENSOR_MAP_H
#define MOETRAIN_WORKER_HUGGINGFACE_TENSOR_MAP_H

#include "model/model.h"
#include "worker/huggingface/family.h"
#include "worker/huggingface/safetensors.h"

// A tensor of theirs. What both sides agree on is a slice: a matrix (rows, columns) of ours, which
// is one expert's where a parameter has experts, with a vector as a matrix of one column.
typedef struct MappedTensor {
    char name[SAFETENSORS_NAME_BYTES];
    int rank;
    int64_t shape[SAFETENSORS_AXES];
    const TensorRule *rule;
    int param;      // number in the table; -1: all zeros
    int64_t expert; // the slice of ours; -1: all of them, in order
} MappedTensor;

typedef struct TensorMap {
    const Family *family;
    Model model;    // measured: its table of parameters
    bool alternate; // turned channels are pairs of neighbours, as rope_interleave says
    MappedTensor *tensors;
    int64_t count;
} TensorMap;

// The whole map of a model, config->vocab_size included. False with exit 4 where a parameter has no
// tensor, or not all of its rows.
bool tensor_map_make(TensorMap *map, const Family *family, const ModelConfig *config,
                     bool alternate, Error *err);
void tensor_map_free(TensorMap *map); // legal on a zeroed one

// The slices of a parameter.
typedef struct SliceShape {
    int64_t slices, rows, columns;
} SliceShape;
SliceShape slice_shape(const Param *row);
// Rows of a mapped tensor's slice.
int64_t mapped_rows(const TensorMap *map, const MappedTensor *tensor);

// One slice from ours (rows, columns) to theirs and back, transposed where the rule says so.
void slice_to_theirs(const TensorMap *map, const MappedTensor *tensor, float *theirs,
                     const float *ours);
void slice_to_ours(const TensorMap *map, const MappedTensor *tensor, float *ours,
                   const float *theirs);

#endif
