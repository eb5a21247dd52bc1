#include "worker/huggingface/import_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint_stream.h"
#include "kernels/integers.h"
#include "worker/data/vocabulary.h"
#include "worker/huggingface/weight_source.h"

typedef struct Import {
    const Tokenizer *tokenizer;
    TensorMap map;
    WeightFolder folder;
    WeightSource source;
    // the slice that was read last
    float *slice;
    int param;
    int64_t number;
} Import;

// What the checkpoint asks for: elements of a parameter, of one slice after the other.
static bool give_elements(void *context, int tensor, int64_t first, int64_t elements, void *out,
                          Error *err) {
    Import *import = context;
    if (tensor == import->map.model.params.count) {
        memcpy(out, import->tokenizer->json + first, (size_t)elements);
        return true;
    }
    SliceShape shape = slice_shape(&import->map.model.params.rows[tensor]);
    int64_t size = shape.rows * shape.columns;
    for (int64_t done = 0; done < elements;) {
        int64_t number = (first + done) / size, within = (first + done) % size;
        int64_t some = smaller(size - within, elements - done);
        if (import->param != tensor || import->number != number) {
            import->param = -1;
            if (!weight_source_read(&import->source, tensor, number, import->slice, err))
                return false;
            import->param = tensor;
            import->number = number;
        }
        memcpy((float *)out + done, import->slice + within, (size_t)some * sizeof(float));
        done += some;
    }
    return true;
}

// Those of the parameters, and the tokenizer behind them.
static SavedTensor *list_tensors(const ParamTable *params, const Tokenizer *tokenizer) {
    SavedTensor *tensors = calloc((size_t)params->count + 1, sizeof *tensors);
    CHECK_MEMORY(tensors, "no memory for %d tensors", params->count);
    for (int i = 0; i < params->count; i++) {
        const Param *row = &params->rows[i];
        tensors[i] =
            (SavedTensor){.dtype = F32, .rank = row->rank, .replicated = row->kind == PARAM_DENSE};
        memcpy(tensors[i].shape, row->shape, sizeof row->shape);
        snprintf(tensors[i].name, sizeof tensors[i].name, "parameters/%s", row->name);
    }
    SavedTensor *last = &tensors[params->count];
    *last = (SavedTensor){.dtype = U8, .rank = 1, .replicated = true, .shape = {1, 1, 1}};
    snprintf(last->name, sizeof last->name, SAVED_TOKENIZER);
    if (tokenizer) last->shape[0] = (int64_t)tokenizer->json_bytes;
    return tensors;
}

static bool write_checkpoint(Import *import, const ModelImport *wanted, Error *err) {
    const ParamTable *params = &import->map.model.params;
    int64_t most = 1;
    for (int i = 0; i < params->count; i++) {
        SliceShape shape = slice_shape(&params->rows[i]);
        most = larger(most, shape.rows * shape.columns);
    }
    import->param = -1;
    import->slice = malloc((size_t)most * sizeof *import->slice);
    CHECK_MEMORY(import->slice, "no memory for a matrix of %lld elements", (long long)most);
    Checkpoint checkpoint = {
        .tensors = list_tensors(params, wanted->tokenizer),
        .tensor_count = params->count + (wanted->tokenizer != NULL),
        .state = {.run = {.parent_step = -1, .healthy = 1}},
        .config_yaml = wanted->config_yaml,
    };
    bool ok = checkpoint_stream(wanted->checkpoint, &checkpoint, give_elements, import, err);
    free(checkpoint.tensors);
    free(import->slice);
    return ok;
}

bool import_model(const TrainConfig *config, const ModelImport *wanted, Error *err) {
    Import *import = calloc(1, sizeof *import);
    ModelConfig *model = malloc(sizeof *model);
    CHECK_MEMORY(import && model, "no memory for an import");
    *model = config->model;
    import->tokenizer = wanted->tokenizer;
    model->vocab_size = wanted->vocab_size;
    bool ok = tensor_map_make(&import->map, wanted->family, model, wanted->alternate, err) &&
              weight_folder_open(&import->folder, wanted->folder, wanted->quantization, err) &&
              weight_source_of_folder(&import->source, &import->map, &import->folder, err) &&
              write_checkpoint(import, wanted, err);
    if (ok)
        printf("%s: %lld tensors of %s, a %s model of %lld parameters\n", wanted->checkpoint,
               (long long)import->map.count, wanted->folder, wanted->family->model_type,
               (long long)model_total_params(&import->map.model));
    weight_source_free(&import->source);
    weight_folder_close(&import->folder);
    tensor_map_free(&import->map);
    free(model);
    free(import);
    return ok;
}
