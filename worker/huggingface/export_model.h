// `moetrain export hf`: a checkpoint's model as a folder of Hugging Face's form.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_EXPORT_MODEL_H
#define MOETRAIN_WORKER_HUGGINGFACE_EXPORT_MODEL_H

#include "worker/huggingface/family.h"
#include "worker/huggingface/safetensors.h"
#include "worker/train_config.h"

typedef struct ExportOptions {
    StoredType type;     // of the weights
    int64_t shard_bytes; // of a file at most, unless one tensor is larger
} ExportOptions;

typedef struct ModelExport {
    const Family *family;    // that holds the model
    const char *config_json; // the model's, as text
    bool alternate;          // as it says: rope_interleave
    const char *folder;      // to be made
    ExportOptions options;
} ModelExport;

// The rows of the embedding in a checkpoint, which is the size of its vocabulary. Exit 4. Not
// collective.
bool export_vocab_size(const char *checkpoint_path, int64_t *size, Error *err);

// Writes the folder under a temporary name, tensor after tensor, reads it again and compares what
// both compute (export_proof.h); then it gets its name. Prints each file's hash and the largest
// difference of two logits, which is 0 unless weights were narrowed. With eval.weights: ema the
// averages. Returns the exit code; on failure nothing is left. Collective over all ranks, of which
// there must be one.
int export_model(const TrainConfig *config, const char *checkpoint_path, const ModelExport *wanted,
                 Error *err);

#endif
