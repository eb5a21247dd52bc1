#include "worker/huggingface/quantized_weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char BLOCKS_END[] = "_blocks";
enum { BLOCK = 32, BLOCK_BYTES = BLOCK / 2 }; // of mxfp4

// ---- numbers of few bits ------------------------------------------------------------------------

// E4M3 without infinities (arXiv:2209.05433).
static float from_e4m3(uint8_t bits) {
    int exponent = bits >> 3 & 15, part = bits & 7;
    float size = exponent == 0 ? ldexpf((float)part, -9) : ldexpf((float)(8 + part), exponent - 10);
    if (exponent == 15 && part == 7) size = NAN;
    return bits & 0x80 ? -size : size;
}

// E2M1: a sign, and one of eight sizes.
static float from_e2m1(uint8_t bits) {
    static const float sizes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    return bits & 8 ? -sizes[bits & 7] : sizes[bits & 7];
}

// E8M0: a power of two.
static float from_e8m0(uint8_t bits) {
    return bits == 255 ? NAN : ldexpf(1, bits - 127);
}

// ---- putting together ---------------------------------------------------------------------------

static bool ends_with(const char *name, const char *end, size_t *stem) {
    size_t length = strlen(name), tail = strlen(end);
    *stem = length - tail;
    return length > tail && strcmp(name + length - tail, end) == 0;
}

// What is put together.
typedef struct Joining {
    WeightPlace *places; // in their order, until names change
    int64_t count;
    const Quantization *quantization;
} Joining;

// The tensor of the name with another end, which is then no weight of its own.
static const WeightPlace *take_scales(const Joining *all, const char *name, size_t stem,
                                      const char *end, Error *err) {
    char wanted[SAFETENSORS_NAME_BYTES + 16];
    snprintf(wanted, sizeof wanted, "%.*s%s", (int)stem, name, end);
    WeightPlace *scales = weight_places_find(all->places, all->count, wanted);
    if (!scales) error_set(err, EXIT_CHECKPOINT, "%s is missing beside %s", wanted, name);
    if (scales) scales->used = true;
    return scales;
}

static bool wrong_shape(const StoredTensor *scales, const StoredTensor *of, Error *err) {
    return error_set(err, EXIT_CHECKPOINT,
                     "%s has type %s and shape (%lld, %lld, %lld), which is none of scales for %s "
                     "(%lld, %lld, %lld)",
                     scales->name, stored_type_name(scales->type), (long long)scales->shape[0],
                     (long long)scales->shape[1], (long long)scales->shape[2], of->name,
                     (long long)of->shape[0], (long long)of->shape[1], (long long)of->shape[2]);
}

static int64_t blocks_of(int64_t length, int64_t block) {
    return length / block + (length % block > 0);
}

static bool join_fp8(const Joining *all, WeightPlace *place, Error *err) {
    const StoredTensor *weight = place->tensor;
    const int64_t *block = all->quantization->block;
    const WeightPlace *scales =
        take_scales(all, weight->name, strlen(weight->name), "_scale_inv", err);
    if (!scales) return false;
    const StoredTensor *has = scales->tensor;
    if (weight->rank != 2 || has->rank != 2 || !stored_type_is_float(has->type) ||
        has->shape[0] != blocks_of(weight->shape[0], block[0]) ||
        has->shape[1] != blocks_of(weight->shape[1], block[1]))
        return wrong_shape(has, weight, err);
    place->scales = has;
    place->scales_file = scales->file;
    return true;
}

static bool join_mxfp4(const Joining *all, WeightPlace *place, size_t stem, Error *err) {
    const StoredTensor *blocks = place->tensor;
    const WeightPlace *scales = take_scales(all, blocks->name, stem, "_scales", err);
    if (!scales) return false;
    const StoredTensor *has = scales->tensor;
    bool legal = blocks->rank == 4 && blocks->shape[3] == BLOCK_BYTES &&
                 blocks->shape[2] < INT64_MAX / BLOCK; // of a tensor without elements
    if (!legal || has->rank != 3 || has->type != STORED_U8 ||
        memcmp(has->shape, blocks->shape, 3 * sizeof *has->shape) != 0)
        return wrong_shape(has, blocks, err);
    place->blocks = blocks;
    place->scales = has;
    place->scales_file = scales->file;
    return true;
}

// What blocks stand for; its bytes are those of that.
static StoredTensor joined_tensor(const StoredTensor *blocks) {
    const int64_t *shape = blocks->shape;
    StoredTensor joined = {.type = STORED_F32,
                           .rank = 3,
                           .shape = {shape[0], shape[2] * BLOCK, shape[1], 1},
                           .bytes = blocks->bytes * 2 * (int64_t)sizeof(float)};
    size_t stem;
    ends_with(blocks->name, BLOCKS_END, &stem);
    snprintf(joined.name, sizeof joined.name, "%.*s", (int)stem, blocks->name);
    return joined;
}

static bool join(const Joining *all, WeightPlace *place, Error *err) {
    StoredType type = place->tensor->type;
    size_t stem;
    switch (all->quantization->kind) {
    case QUANTIZED_NOT:
        return true;
    case QUANTIZED_FP8:
        return type != STORED_F8 || join_fp8(all, place, err);
    case QUANTIZED_MXFP4:
        return type != STORED_U8 || !ends_with(place->tensor->name, BLOCKS_END, &stem) ||
               join_mxfp4(all, place, stem, err);
    }
    return true;
}

// Whether nothing is left whose numbers nobody knows.
static bool check_rest(const Joining *all, Error *err) {
    for (int64_t i = 0; i < all->count; i++) {
        const WeightPlace *place = &all->places[i];
        if (stored_type_is_float(place->tensor->type) || place->scales || place->used) continue;
        return error_set(err, EXIT_CHECKPOINT,
                         "%s: %s has dtype %s, and quantization_config of config.json does not say "
                         "what it stands for; convert it first, to BF16",
                         place->file->name, place->tensor->name,
                         stored_type_name(place->tensor->type));
    }
    return true;
}

bool quantized_weights_join(WeightPlace *places, int64_t count, const Quantization *quantization,
                            StoredTensor **joined, Error *err) {
    const Joining all = {places, count, quantization};
    for (int64_t i = 0; i < count; i++)
        if (!join(&all, &places[i], err)) return false;
    if (!check_rest(&all, err)) return false;
    // Names change only now: until here they are looked up in their order.
    *joined = calloc((size_t)count + 1, sizeof **joined);
    CHECK_MEMORY(*joined, "no memory for %lld tensors", (long long)count);
    for (int64_t i = 0; i < count; i++) {
        if (!places[i].blocks) continue;
        (*joined)[i] = joined_tensor(places[i].blocks);
        places[i].tensor = &(*joined)[i];
    }
    return true;
}

// ---- reading ------------------------------------------------------------------------------------

static bool read_fp8(const Quantization *quantization, const WeightPlace *place, int64_t first,
                     int64_t count, float *out, Error *err) {
    const StoredTensor *weight = place->tensor;
    const int64_t *block = quantization->block;
    int64_t across = place->scales->shape[1], columns = weight->shape[1];
    int64_t scale_count = place->scales->shape[0] * across;
    float values[256]; // of every E4M3
    for (int i = 0; i < 256; i++) values[i] = from_e4m3((uint8_t)i);
    uint8_t *bits = malloc((size_t)count + 1);
    float *scales = malloc(((size_t)scale_count + 1) * sizeof *scales);
    CHECK_MEMORY(bits && scales, "no memory for %lld numbers", (long long)count);
    bool ok =
        safetensors_read_bytes(place->file->header.fd, weight, first, count, bits, err) &&
        safetensors_read(place->scales_file->header.fd, place->scales, 0, scale_count, scales, err);
    for (int64_t i = 0; ok && i < count; i++) {
        int64_t row = (first + i) / columns, column = (first + i) % columns;
        out[i] = values[bits[i]] * scales[row / block[0] * across + column / block[1]];
    }
    free(bits);
    free(scales);
    return ok;
}

// One expert's numbers, (out, in), as (in, out).
static void expand_mxfp4(const uint8_t *blocks, const uint8_t *scales, int64_t in, int64_t out,
                         float *to) {
    float scale = 0; // of the block
    for (int64_t r = 0; r < out; r++)
        for (int64_t c = 0, block = r * in / BLOCK; c < in; c++) {
            uint8_t pair = blocks[(r * in + c) / 2];
            if (c % BLOCK == 0) scale = from_e8m0(scales[block++]);
            to[c * out + r] = from_e2m1(c % 2 == 0 ? pair & 15 : pair >> 4) * scale;
        }
}

static bool read_mxfp4(const WeightPlace *place, int64_t first, int64_t count, float *to,
                       Error *err) {
    int64_t in = place->tensor->shape[1], out = place->tensor->shape[2], size = in * out;
    uint8_t *blocks = malloc((size_t)size / 2 + 1), *scales = malloc((size_t)size / BLOCK + 1);
    float *expert = malloc((size_t)size * sizeof *expert + 1);
    CHECK_MEMORY(blocks && scales && expert, "no memory for %lld numbers", (long long)size);
    bool ok = true;
    for (int64_t done = 0; ok && done < count;) {
        int64_t number = (first + done) / size, within = (first + done) % size;
        int64_t some = size - within < count - done ? size - within : count - done;
        ok = safetensors_read_bytes(place->file->header.fd, place->blocks, number * size / 2,
                                    size / 2, blocks, err) &&
             safetensors_read_bytes(place->scales_file->header.fd, place->scales,
                                    number * size / BLOCK, size / BLOCK, scales, err);
        if (!ok) break;
        expand_mxfp4(blocks, scales, in, out, expert);
        memcpy(to + done, expert + within, (size_t)some * sizeof *to);
        done += some;
    }
    free(blocks);
    free(scales);
    free(expert);
    return ok;
}

bool quantized_weights_read(const Quantization *quantization, const WeightPlace *place,
                            int64_t first, int64_t count, float *out, Error *err) {
    const StoredTensor *tensor = place->tensor;
    bool ok = place->blocks ? read_mxfp4(place, first, count, out, err)
                            : read_fp8(quantization, place, first, count, out, err);
    return ok && check_finite(tensor->name, tensor->rank, tensor->shape, first, count, out, err);
}
