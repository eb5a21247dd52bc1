#include "launcher/huggingface/quantization_config.h"

#include <string.h>

static bool is_word(const json_t *value, const char *word) {
    const char *text = json_string_value(value);
    return text && strcmp(text, word) == 0;
}

// Blocks of rows and columns; without them each tensor, or row, has a scale, which is another form.
static bool read_fp8(const json_t *value, Quantization *quantization, Error *err) {
    const json_t *block = json_object_get(value, "weight_block_size");
    const json_t *format = json_object_get(value, "fmt");
    bool whole = json_array_size(block) == 2;
    for (size_t i = 0; i < 2 && whole; i++) {
        const json_t *length = json_array_get(block, i);
        quantization->block[i] = (int64_t)json_integer_value(length);
        whole = json_is_integer(length) && quantization->block[i] > 0 &&
                quantization->block[i] < INT32_MAX;
    }
    if (!whole || (format && !json_is_null(format) && !is_word(format, "e4m3")))
        return error_set(err, EXIT_CONFIG,
                         "config.json: quantization_config is fp8, but %s; weights of e4m3 with a "
                         "scale for each block of weight_block_size [rows, columns] can be read: "
                         "convert others first, to BF16",
                         whole ? "fmt is not e4m3" : "weight_block_size is not two lengths");
    quantization->kind = QUANTIZED_FP8;
    return true;
}

bool quantization_config_read(const json_t *value, const Family *family, Quantization *quantization,
                              Error *err) {
    *quantization = (Quantization){.kind = QUANTIZED_NOT};
    if (!value) return true;
    const json_t *method = json_object_get(value, "quant_method");
    if (is_word(method, "fp8")) return read_fp8(value, quantization, err);
    if (is_word(method, "mxfp4") && family->mxfp4) {
        quantization->kind = QUANTIZED_MXFP4;
        return true;
    }
    const char *word = json_string_value(method);
    return error_set(err, EXIT_CONFIG,
                     "config.json: quantization_config has quant_method %.40s, but %s models can "
                     "be read quantised only as fp8%s; convert the weights first, to BF16, and "
                     "leave the key out",
                     word ? word : "missing", family->model_type, family->mxfp4 ? " or mxfp4" : "");
}
