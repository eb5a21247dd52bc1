#include "worker/huggingface/safetensors.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "checkpoint/file_io.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/f16.h"

static const struct StoredTypeFacts {
    const char *name;
    int64_t bytes;
} TYPES[] = {
    [STORED_F32] = {"F32", 4},    [STORED_BF16] = {"BF16", 2}, [STORED_F16] = {"F16", 2},
    [STORED_F8] = {"F8_E4M3", 1}, [STORED_U8] = {"U8", 1},
};
enum { TYPE_COUNT = sizeof TYPES / sizeof *TYPES, PIECE = 1 << 16 };

int64_t stored_type_bytes(StoredType type) {
    return TYPES[type].bytes;
}

bool stored_type_is_float(StoredType type) {
    return type == STORED_F32 || type == STORED_BF16 || type == STORED_F16;
}

const char *stored_type_name(StoredType type) {
    return TYPES[type].name;
}

// ---- the header ---------------------------------------------------------------------------------

static bool read_type(const json_t *entry, StoredTensor *tensor, Error *err) {
    const char *word = json_string_value(json_object_get(entry, "dtype"));
    if (!word) return error_set(err, EXIT_CHECKPOINT, "%s has no dtype", tensor->name);
    for (int i = 0; i < TYPE_COUNT; i++)
        if (strcmp(TYPES[i].name, word) == 0) {
            tensor->type = (StoredType)i;
            return true;
        }
    return error_set(err, EXIT_CHECKPOINT,
                     "%s has dtype %.20s, which is not known; F32, BF16 and F16 are, and quantised "
                     "F8_E4M3 and U8: convert it first, to BF16",
                     tensor->name, word);
}

static bool read_shape(const json_t *entry, StoredTensor *tensor, Error *err) {
    const json_t *shape = json_object_get(entry, "shape");
    size_t rank = json_array_size(shape);
    if (!json_is_array(shape) || rank > SAFETENSORS_AXES)
        return error_set(err, EXIT_CHECKPOINT, "%s has no shape of at most %d axes", tensor->name,
                         SAFETENSORS_AXES);
    int64_t bytes = stored_type_bytes(tensor->type);
    tensor->rank = (int)rank;
    for (size_t axis = 0; axis < SAFETENSORS_AXES; axis++) {
        const json_t *length = json_array_get(shape, axis);
        tensor->shape[axis] = axis < rank ? (int64_t)json_integer_value(length) : 1;
        bool legal = axis >= rank || (json_is_integer(length) && tensor->shape[axis] >= 0);
        if (!legal || __builtin_mul_overflow(bytes, tensor->shape[axis], &bytes))
            return error_set(err, EXIT_CHECKPOINT, "%s has a shape that cannot be", tensor->name);
    }
    tensor->bytes = bytes;
    return true;
}

// Offsets in the file; `begin` is where the bytes begin there, `bytes` how many there are.
static bool read_place(const json_t *entry, StoredTensor *tensor, int64_t begin, int64_t bytes,
                       Error *err) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to))
        return error_set(err, EXIT_CHECKPOINT, "%s has no data_offsets", tensor->name);
    int64_t first = (int64_t)json_integer_value(from), end = (int64_t)json_integer_value(to);
    if (first < 0 || end < first || end > bytes)
        return error_set(err, EXIT_CHECKPOINT,
                         "%s lies at bytes %lld to %lld, but the file has %lld: it is truncated or "
                         "damaged",
                         tensor->name, (long long)first, (long long)end, (long long)bytes);
    if (end - first != tensor->bytes)
        return error_set(err, EXIT_CHECKPOINT,
                         "%s has %lld bytes, but its dtype and shape want %lld", tensor->name,
                         (long long)(end - first), (long long)tensor->bytes);
    tensor->offset = begin + first;
    return true;
}

static bool read_name(const char *name, StoredTensor *tensor, Error *err) {
    size_t length = strlen(name);
    bool legal = length > 0 && length < sizeof tensor->name;
    for (size_t i = 0; i < length; i++) legal = legal && name[i] > ' ' && name[i] < 127;
    if (!legal)
        return error_set(err, EXIT_CHECKPOINT,
                         "a tensor's name has %zu bytes or characters that names have not", length);
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return true;
}

static int by_offset(const void *a, const void *b) {
    const StoredTensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); // empty ones before what lies there
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const StoredTensor *)a)->name, ((const StoredTensor *)b)->name);
}

// Each tensor begins where the one before it ends, and the last ends with the file.
static bool check_places(Safetensors *file, int64_t begin, int64_t end, Error *err) {
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_offset);
    const char *before = "the header";
    int64_t at = begin;
    for (int64_t i = 0; i < file->count; i++) {
        const StoredTensor *tensor = &file->tensors[i];
        if (tensor->offset < at)
            return error_set(err, EXIT_CHECKPOINT, "%s and %s overlap", before, tensor->name);
        if (tensor->offset > at)
            return error_set(err, EXIT_CHECKPOINT, "%lld bytes between %s and %s are of no tensor",
                             (long long)(tensor->offset - at), before, tensor->name);
        at = tensor->offset + tensor->bytes;
        before = tensor->name;
    }
    if (at != end)
        return error_set(err, EXIT_CHECKPOINT, "%lld bytes after %s are of no tensor",
                         (long long)(end - at), before);
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, by_name);
    return true;
}

static bool read_entries(Safetensors *file, json_t *header, int64_t begin, int64_t end,
                         Error *err) {
    const char *name;
    json_t *entry;
    file->tensors = calloc(json_object_size(header) + 1, sizeof *file->tensors);
    CHECK_MEMORY(file->tensors, "no memory for %zu tensors", json_object_size(header));
    json_object_foreach(header, name, entry) {
        StoredTensor *tensor = &file->tensors[file->count];
        if (strcmp(name, "__metadata__") == 0) continue;
        if (!read_name(name, tensor, err)) return false;
        if (!json_is_object(entry))
            return error_set(err, EXIT_CHECKPOINT, "%s is no tensor", tensor->name);
        if (!read_type(entry, tensor, err) || !read_shape(entry, tensor, err) ||
            !read_place(entry, tensor, begin, end - begin, err))
            return false;
        file->count++;
    }
    return check_places(file, begin, end, err);
}

static bool read_header(Safetensors *file, int64_t file_bytes, Error *err) {
    uint8_t prefix[8];
    uint64_t length = 0;
    if (file_bytes < 10)
        return error_set(err, EXIT_CHECKPOINT, "%lld bytes are no safetensors file",
                         (long long)file_bytes);
    if (!file_read_at(file->fd, prefix, sizeof prefix, 0, err)) return false;
    for (int i = 7; i >= 0; i--) length = length << 8 | prefix[i];
    if (length < 2 || length > SAFETENSORS_HEADER_MOST || length > (uint64_t)file_bytes - 8)
        return error_set(err, EXIT_CHECKPOINT,
                         "its header says that it has %llu bytes, the file has %lld: it is no "
                         "safetensors file, or truncated",
                         (unsigned long long)length, (long long)file_bytes);
    char *text = malloc((size_t)length);
    CHECK_MEMORY(text, "no memory for a header of %llu bytes", (unsigned long long)length);
    json_error_t wrong;
    json_t *header = NULL;
    bool ok = file_read_at(file->fd, text, (size_t)length, 8, err);
    if (ok) {
        header = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &wrong);
        ok = json_is_object(header) ||
             error_set(err, EXIT_CHECKPOINT, "its header is no JSON object: %s",
                       header ? "it is another value" : wrong.text);
    }
    free(text);
    ok = ok && read_entries(file, header, 8 + (int64_t)length, file_bytes, err);
    json_decref(header);
    return ok;
}

bool safetensors_open(Safetensors *file, const char *path, Error *err) {
    struct stat info;
    *file = (Safetensors){.fd = file_open_to_read(path, err)};
    if (file->fd < 0) {
        *file = (Safetensors){0};
        return false;
    }
    bool ok = (fstat(file->fd, &info) == 0 && S_ISREG(info.st_mode)) ||
              error_set(err, EXIT_CHECKPOINT, "it is no file");
    if (ok && read_header(file, info.st_size, err)) return true;
    safetensors_close(file);
    return false;
}

void safetensors_close(Safetensors *file) {
    if (file->fd > 0) close(file->fd);
    free(file->tensors);
    *file = (Safetensors){0};
}

// ---- numbers ------------------------------------------------------------------------------------

static void widen(StoredType type, const uint16_t *from, float *to, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        to[i] = type == STORED_BF16 ? f32_from_bf16(from[i]) : f32_from_f16(from[i]);
}

bool check_finite(const char *name, int rank, const int64_t *shape, int64_t first, int64_t count,
                  const float *values, Error *err) {
    char place[96] = "";
    int64_t at = 0, index[SAFETENSORS_AXES];
    while (at < count && isfinite(values[at])) at++;
    if (at == count) return true;
    int64_t rest = first + at;
    for (int axis = rank - 1; axis >= 0; axis--) {
        index[axis] = rest % shape[axis];
        rest /= shape[axis];
    }
    for (int axis = 0; axis < rank; axis++) {
        size_t used = strlen(place);
        snprintf(place + used, sizeof place - used, "%s%lld", axis ? ", " : "",
                 (long long)index[axis]);
    }
    return error_set(err, EXIT_CHECKPOINT,
                     "%s[%s] is %s; such weights compute nothing: take others", name, place,
                     isnan(values[at]) ? "not a number" : "infinite");
}

bool safetensors_read(int fd, const StoredTensor *tensor, int64_t first, int64_t count, float *out,
                      Error *err) {
    int64_t width = stored_type_bytes(tensor->type);
    CHECK(first >= 0 && count >= 0 && (first + count) * width <= tensor->bytes,
          "elements %lld to %lld of %s", (long long)first, (long long)(first + count),
          tensor->name);
    uint16_t piece[PIECE / 2];
    bool ok = true;
    CHECK(stored_type_is_float(tensor->type), "%s is %s", tensor->name,
          stored_type_name(tensor->type));
    if (tensor->type == STORED_F32)
        ok = file_read_at(fd, out, (size_t)(count * width), tensor->offset + first * width, err);
    for (int64_t done = 0; ok && tensor->type != STORED_F32 && done < count;) {
        int64_t some = count - done < PIECE / 2 ? count - done : PIECE / 2;
        ok = file_read_at(fd, piece, (size_t)(some * width),
                          tensor->offset + (first + done) * width, err);
        if (ok) widen(tensor->type, piece, out + done, some);
        done += some;
    }
    if (!ok) return error_prefix(err, "%s", tensor->name);
    return check_finite(tensor->name, tensor->rank, tensor->shape, first, count, out, err);
}

bool safetensors_read_bytes(int fd, const StoredTensor *tensor, int64_t first, int64_t count,
                            uint8_t *out, Error *err) {
    CHECK(stored_type_bytes(tensor->type) == 1 && first >= 0 && count >= 0 &&
              first + count <= tensor->bytes,
          "bytes %lld to %lld of %s", (long long)first, (long long)(first + count), tensor->name);
    return file_read_at(fd, out, (size_t)count, tensor->offset + first, err) ||
           error_prefix(err, "%s", tensor->name);
}

// ---- writing ------------------------------------------------------------------------------------

static bool append(SafetensorsWriter *writer, const void *data, size_t bytes, Error *err) {
    if (!file_write_at(writer->fd, data, bytes, writer->at, err)) return false;
    hasher_add(writer->hasher, data, bytes);
    writer->at += (int64_t)bytes;
    return true;
}

// Names are those that we make: letters, digits, dots and underscores.
static char *header_text(StoredTensor *tensors, int64_t count, size_t *bytes) {
    char *text = NULL;
    int64_t at = 0;
    FILE *out = open_memstream(&text, bytes);
    CHECK_MEMORY(out, "no memory for a header");
    fputs("{\"__metadata__\":{\"format\":\"pt\"}", out);
    for (int64_t i = 0; i < count; i++) {
        StoredTensor *tensor = &tensors[i];
        fprintf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensor->name,
                stored_type_name(tensor->type));
        tensor->bytes = stored_type_bytes(tensor->type);
        for (int axis = 0; axis < tensor->rank; axis++) {
            fprintf(out, "%s%lld", axis ? "," : "", (long long)tensor->shape[axis]);
            tensor->bytes *= tensor->shape[axis];
        }
        fprintf(out, "],\"data_offsets\":[%lld,%lld]}", (long long)at,
                (long long)(at + tensor->bytes));
        tensor->offset = at;
        at += tensor->bytes;
    }
    fputc('}', out);
    while (ftell(out) % 8 != 0) fputc(' ', out); // so that tensors begin at multiples of 8
    fclose(out);
    CHECK_MEMORY(text, "no memory for a header");
    return text;
}

bool safetensors_create(SafetensorsWriter *writer, const char *path, StoredTensor *tensors,
                        int64_t count, Error *err) {
    size_t bytes = 0;
    uint8_t prefix[8];
    *writer = (SafetensorsWriter){.fd = file_open(path, O_RDWR | O_CREAT, err)};
    if (writer->fd < 0) return false;
    writer->hasher = hasher_open();
    char *text = header_text(tensors, count, &bytes);
    for (int64_t i = 0; i < count; i++) tensors[i].offset += 8 + (int64_t)bytes;
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)((uint64_t)bytes >> 8 * i);
    bool ok = append(writer, prefix, sizeof prefix, err) && append(writer, text, bytes, err);
    free(text);
    if (!ok) safetensors_finish(writer, false, &(Hash){0}, err);
    return ok;
}

bool safetensors_append(SafetensorsWriter *writer, StoredType type, const float *values,
                        int64_t count, Error *err) {
    uint16_t piece[PIECE / 2];
    CHECK(type == STORED_F32 || type == STORED_BF16, "%s is not written", stored_type_name(type));
    if (type == STORED_F32) return append(writer, values, (size_t)count * sizeof *values, err);
    for (int64_t done = 0; done < count;) {
        int64_t some = count - done < PIECE / 2 ? count - done : PIECE / 2;
        for (int64_t i = 0; i < some; i++) piece[i] = bf16_from_f32(values[done + i]);
        if (!append(writer, piece, (size_t)some * sizeof *piece, err)) return false;
        done += some;
    }
    return true;
}

bool safetensors_finish(SafetensorsWriter *writer, bool ok, Hash *hash, Error *err) {
    ok = ok && file_sync(writer->fd, err);
    close(writer->fd);
    *hash = hasher_close(writer->hasher);
    *writer = (SafetensorsWriter){0};
    return ok;
}
