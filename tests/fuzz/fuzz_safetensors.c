// Any bytes as a folder of Hugging Face's form: where the first byte is 2 its config.json, where it
// is odd an index up to the first zero byte and then a file of its, otherwise model.safetensors
// alone, quantised in the form that its next two bits name. Refused with a message, or every number
// of every tensor can be read.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/huggingface/config_json.h"
#include "seeds.h"
#include "worker/huggingface/weight_folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char folder[] = "/dev/shm/fuzz_safetensors.XXXXXX";
static char one_file[96], named_file[96], index_file[96], config_file[96];

static void remove_folder(void) {
    remove(one_file);
    remove(named_file);
    remove(index_file);
    remove(config_file);
    remove(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (!mkdtemp(folder)) return 1;
    snprintf(one_file, sizeof one_file, "%s/model.safetensors", folder);
    snprintf(named_file, sizeof named_file, "%s/a.safetensors", folder);
    snprintf(index_file, sizeof index_file, "%s/model.safetensors.index.json", folder);
    snprintf(config_file, sizeof config_file, "%s/config.json", folder);
    if (atexit(remove_folder) != 0) return 1;
    return seeds_must_reach((const char *const[]){"a file", "an index", "numbers", "numbers of fp8",
                                                  "numbers of mxfp4", "a configuration", NULL});
}

static void require(bool condition) {
    if (!condition) abort();
}

static void read_everything(const WeightFolder *weights) {
    float values[256];
    for (int64_t i = 0; i < weights->count; i++) {
        const WeightPlace *place = &weights->places[i];
        const StoredTensor *tensor = place->tensor;
        int64_t count = tensor->bytes / stored_type_bytes(tensor->type);
        require(weight_folder_find(weights, tensor->name) == place);
        for (int64_t first = 0; first < count; first += 256) {
            int64_t some = count - first < 256 ? count - first : 256;
            Error err = {0};
            if (weight_folder_read(weights, place, first, some, values, &err))
                reached(place->blocks   ? "numbers of mxfp4"
                        : place->scales ? "numbers of fp8"
                                        : "numbers");
            else
                require(err.exit_code == EXIT_CHECKPOINT && err.message[0]);
        }
    }
}

static void read_config(const uint8_t *bytes, size_t size) {
    ConfigJson json;
    Error err = {0};
    write_input(config_file, bytes, size);
    if (!config_json_read(&json, folder, &err)) {
        require(err.exit_code == EXIT_CONFIG && err.message[0]);
        return;
    }
    require(json.family && json.vocab_size > 0 && json.yaml && json.unread);
    reached("a configuration");
    free(json.yaml);
    free(json.unread);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size == 0) return 0;
    const uint8_t *bytes = input + 1, *end = input + size;
    if (input[0] == 2) {
        read_config(bytes, size - 1);
        return 0;
    }
    remove(index_file);
    remove(named_file);
    if (input[0] & 1) {
        const uint8_t *zero = memchr(bytes, 0, (size_t)(end - bytes));
        size_t length = (size_t)((zero ? zero : end) - bytes);
        write_input(index_file, bytes, length);
        bytes = zero ? zero + 1 : end;
        write_input(named_file, bytes, (size_t)(end - bytes));
    } else {
        write_input(one_file, bytes, (size_t)(end - bytes));
    }
    static const QuantizationKind kinds[] = {QUANTIZED_NOT, QUANTIZED_FP8, QUANTIZED_MXFP4,
                                             QUANTIZED_NOT};
    Quantization quantization = {.kind = kinds[input[0] >> 2 & 3], .block = {2, 3}};
    WeightFolder weights;
    Error err = {0};
    if (weight_folder_open(&weights, folder, quantization, &err)) {
        read_everything(&weights);
        reached(input[0] & 1 ? "an index" : "a file");
        weight_folder_close(&weights);
    } else {
        require((err.exit_code == EXIT_CHECKPOINT || err.exit_code == EXIT_IO) && err.message[0]);
    }
    return 0;
}
