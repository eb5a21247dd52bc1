// `moetrain import hf`: a folder of Hugging Face's form as a checkpoint.
#ifndef MOETRAIN_WORKER_HUGGINGFACE_IMPORT_MODEL_H
#define MOETRAIN_WORKER_HUGGINGFACE_IMPORT_MODEL_H

#include "worker/huggingface/family.h"
#include "worker/huggingface/weight_folder.h"
#include "worker/tokenizer/tokenizer.h"
#include "worker/train_config.h"

typedef struct ModelImport {
    const Family *family;
    bool alternate;             // rope_interleave of its config.json
    int64_t vocab_size;         // likewise
    Quantization quantization;  // likewise
    const Tokenizer *tokenizer; // that the checkpoint carries; NULL: none
    const char *config_yaml;    // the configuration that the checkpoint carries, as --print-config
    const char *folder;
    const char *checkpoint; // path of the file to be made
} ModelImport;

// Makes a checkpoint of step 0 with the folder's weights: what training begins from (init) on any
// number of ranks, and what evaluate and generate read. A matrix at a time is in memory. False with
// exit 4 where a tensor is missing, has no place, has another shape or numbers that are not finite;
// exit 5 where it cannot be written. Nothing is left then. Not collective.
bool import_model(const TrainConfig *config, const ModelImport *wanted, Error *err);

#endif
