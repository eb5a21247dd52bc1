#include "worker/huggingface/export_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/new_folder.h"
#include "checkpoint/state_tensors.h"
#include "kernels/log.h"
#include "model/configured_layers.h"
#include "worker/data/vocabulary.h"
#include "worker/huggingface/export_proof.h"
#include "worker/huggingface/weight_shards.h"
#include "worker/watch/watchdog.h"

typedef struct Export {
    const ModelExport *wanted;
    ModelConfig model;
    TensorMap map;
    CheckpointFile file;
    WeightSource source; // the checkpoint
    NewFolder folder;
    // the slice of ours that was read last, and one of theirs
    float *ours, *theirs;
    int param;
    int64_t slice;
} Export;

bool export_vocab_size(const char *checkpoint_path, int64_t *size, Error *err) {
    int64_t shape[3];
    if (!checkpoint_read_shape(checkpoint_path, "parameters/embedding", shape, err)) return false;
    *size = shape[0];
    return true;
}

// ---- its files ----------------------------------------------------------------------------------

static bool make_folder(const Export *export, Error *err) {
    int64_t bytes = 1 << 20;
    for (int64_t i = 0; i < export->map.count; i++) {
        const int64_t *shape = export->map.tensors[i].shape;
        bytes += stored_type_bytes(export->wanted->options.type) * shape[0] * shape[1] * shape[2];
    }
    return new_folder_make(&export->folder, bytes, err);
}

static bool write_text(const Export *export, const char *name, const char *text, Error *err) {
    return new_folder_add(&export->folder, name, text, strlen(text), err);
}

// A slice of theirs. Neighbours in the map are often parts of one slice of ours.
static bool give_slice(void *context, const MappedTensor *tensor, int64_t number,
                       const float **theirs, int64_t *count, Error *err) {
    Export *export = context;
    *theirs = export->theirs;
    watchdog_beat("writing weights");
    if (tensor->param < 0) {
        *count = tensor->shape[0] * tensor->shape[1];
        memset(export->theirs, 0, (size_t)*count * sizeof **theirs);
        return true;
    }
    int64_t slice = tensor->expert < 0 ? number : tensor->expert;
    if (export->param != tensor->param || export->slice != slice) {
        export->param = -1;
        if (!weight_source_read(&export->source, tensor->param, slice, export->ours, err))
            return false;
        export->param = tensor->param;
        export->slice = slice;
    }
    slice_to_theirs(&export->map, tensor, export->theirs, export->ours);
    *count = mapped_rows(&export->map, tensor) *
             slice_shape(&export->map.model.params.rows[tensor->param]).columns;
    return true;
}

static void take_slices(Export *export) {
    size_t most = 1;
    for (int i = 0; i < export->map.model.params.count; i++) {
        SliceShape slice = slice_shape(&export->map.model.params.rows[i]);
        size_t elements = (size_t)(slice.rows * slice.columns);
        if (elements > most) most = elements;
    }
    for (int64_t i = 0; i < export->map.count; i++) {
        const MappedTensor *tensor = &export->map.tensors[i];
        size_t elements = (size_t)(tensor->shape[0] * tensor->shape[1]); // of zeros
        if (tensor->param < 0 && elements > most) most = elements;
    }
    export->ours = malloc(most * sizeof *export->ours);
    export->theirs = malloc(most * sizeof *export->theirs);
    CHECK_MEMORY(export->ours && export->theirs, "no memory for a tensor of %zu elements", most);
    export->param = -1;
}

// What a text's end is, is not known here: the classes' own numbers would end it anywhere.
static const char GENERATION[] = "{\n"
                                 "  \"bos_token_id\": null,\n"
                                 "  \"eos_token_id\": null,\n"
                                 "  \"pad_token_id\": null\n"
                                 "}\n";

// The class that reads any tokenizer.json.
static const char TOKENIZER_CLASS[] = "{\n"
                                      "  \"clean_up_tokenization_spaces\": false,\n"
                                      "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n"
                                      "}\n";

// The tokenizer of a checkpoint that carries one, byte for byte; a folder without is of token
// numbers.
static bool write_tokenizer(Export *export, Error *err) {
    char *json = NULL;
    if (!manifest_find(&export->file.manifest, SAVED_TOKENIZER)) return true;
    bool ok = text_read(&export->file, SAVED_TOKENIZER, &json, err) &&
              write_text(export, "tokenizer.json", json, err) &&
              write_text(export, "tokenizer_config.json", TOKENIZER_CLASS, err);
    free(json);
    return ok;
}

static bool write_files(Export *export, Error *err) {
    const ModelExport *wanted = export->wanted;
    return weight_shards_write(export->folder.temporary, &export->map, wanted->options.type,
                               wanted->options.shard_bytes, give_slice, export, err) &&
           write_text(export, "config.json", wanted->config_json, err) &&
           write_text(export, "generation_config.json", GENERATION, err) &&
           write_tokenizer(export, err);
}

// ---- the proof ----------------------------------------------------------------------------------

static bool prove(Export *export, int64_t context, Session *session, Error *err) {
    WeightFolder folder;
    WeightSource again = {0};
    Proof proof;
    if (!weight_folder_open(&folder, export->folder.temporary, (Quantization){0}, err))
        return false;
    bool ok = weight_source_of_folder(&again, &export->map, &folder, err) &&
              export_proof(&export->model, context, &export->source, &again, session, &proof, err);
    weight_source_free(&again);
    weight_folder_close(&folder);
    if (!ok) return false;
    if (export->wanted->options.type == STORED_F32 && proof.largest != 0)
        return error_set(err, EXIT_IO,
                         "what was written and read again computes other logits than the "
                         "checkpoint, by up to %g: the disk or its memory does not hold what it is "
                         "given",
                         proof.largest);
    printf("%lld tokens through both: largest |difference| of logits %g, largest |logit| %g\n",
           (long long)proof.tokens, proof.largest, proof.of_logit);
    return true;
}

static bool write_and_prove(Export *export, const TrainConfig *config, Session *session,
                            const char *checkpoint_path, Error *err) {
    if (!tensor_map_make(&export->map, export->wanted->family, &export->model,
                         export->wanted->alternate, err) ||
        !weight_source_of_checkpoint(&export->source, &export->map, &export->file,
                                     config->eval_weights == WEIGHTS_EMA, err))
        return error_prefix(err, "%s", checkpoint_path);
    take_slices(export);
    printf("%s as %s\n", checkpoint_path, export->wanted->family->model_type);
    bool ok = make_folder(export, err) && write_files(export, err) &&
              prove(export, config->context, session, err) &&
              new_folder_publish(&export->folder, err);
    if (!ok) new_folder_remove(&export->folder);
    return ok;
}

static bool run(Export *export, const TrainConfig *config, Session *session,
                const char *checkpoint_path, Error *err) {
    export->model = config->model;
    if (export->model.mtp.layers > 0)
        log_info("modules of multi-token prediction (mtp.layers %lld) are left out",
                 (long long)export->model.mtp.layers);
    export->model.mtp.layers = 0;
    if (!new_folder_name(&export->folder, export->wanted->folder, err) ||
        !session_open(session, config, err) || !model_for_generation(&export->model, err) ||
        !export_vocab_size(checkpoint_path, &export->model.vocab_size, err) ||
        !checkpoint_file_open(&export->file, checkpoint_path, err))
        return false;
    bool ok = write_and_prove(export, config, session, checkpoint_path, err);
    checkpoint_file_close(&export->file);
    return ok;
}

int export_model(const TrainConfig *config, const char *checkpoint_path, const ModelExport *wanted,
                 Error *err) {
    Export *export = calloc(1, sizeof *export);
    Session session = {0};
    CHECK_MEMORY(export, "no memory for an export");
    export->wanted = wanted;
    watchdog_start(config->hang_timeout, config->hang_floor);
    bool ok = run(export, config, &session, checkpoint_path, err);
    watchdog_stop();
    tensor_map_free(&export->map);
    weight_source_free(&export->source);
    free(export->ours);
    free(export->theirs);
    free(export);
    session_close(&session);
    return ok ? EXIT_DONE : err->exit_code;
}
