#include "checkpoint/manifest.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checkpoints are little-endian");

static const char MAGIC[8] = {'M', 'O', 'E', 'T', 'R', 'A', 'I', 'N'};

void manifest_free(Manifest *manifest) {
    free(manifest->datasets);
    free(manifest->in_file_order);
    free(manifest->hashes);
    *manifest = (Manifest){0};
}

void manifest_add(Manifest *manifest, const char *name, DType dtype, int rank,
                  const int64_t shape[], bool row_blocks) {
    if (manifest->count == manifest->capacity) {
        manifest->capacity = manifest->capacity ? 2 * manifest->capacity : 64;
        manifest->datasets =
            realloc(manifest->datasets, (size_t)manifest->capacity * sizeof *manifest->datasets);
        CHECK_MEMORY(manifest->datasets, "no memory for %lld datasets",
                     (long long)manifest->capacity);
    }
    Dataset *dataset = &manifest->datasets[manifest->count++];
    *dataset = (Dataset){.dtype = dtype, .rank = rank, .row_blocks = row_blocks};
    CHECK(strlen(name) < sizeof dataset->name, "the name %s is too long for a dataset", name);
    memcpy(dataset->name, name, strlen(name));
    for (int axis = 0; axis < DATASET_AXES; axis++)
        dataset->shape[axis] = axis < rank ? shape[axis] : 1;
}

// Components of letters, digits, '_', '-' and '.', joined by '/'; none of them "." or "..".
static bool name_allowed(const char name[DATASET_NAME_BYTES]) {
    size_t length = strnlen(name, DATASET_NAME_BYTES);
    if (length == 0 || length == DATASET_NAME_BYTES) return false;
    static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.";
    for (const char *part = name;; part++) {
        size_t span = strspn(part, plain);
        if (span == 0 || strspn(part, ".") == span) return false;
        part += span;
        if (*part == 0) return true;
        if (*part != '/') return false;
    }
}

static int64_t blocks_in(int64_t bytes) {
    return bytes / BLOCK_BYTES + (bytes % BLOCK_BYTES != 0);
}

// Checks name, type and shape; fills in the derived fields except first_block.
static bool dataset_derive(Dataset *dataset, Error *err) {
    if (!name_allowed(dataset->name))
        return error_set(err, EXIT_CHECKPOINT, "\"%.*s\" cannot be the name of a dataset",
                         DATASET_NAME_BYTES, dataset->name);
    if (dataset->rank < 1 || dataset->rank > DATASET_AXES)
        return error_set(err, EXIT_CHECKPOINT, "%s has %d axes", dataset->name, dataset->rank);
    int64_t row_bytes = (int64_t)dtype_bytes(dataset->dtype), bytes = 0;
    bool fits = dataset->shape[0] >= 0;
    for (int axis = 1; axis < DATASET_AXES; axis++)
        fits = fits && dataset->shape[axis] >= 0 &&
               (axis < dataset->rank || dataset->shape[axis] == 1) &&
               !__builtin_mul_overflow(row_bytes, dataset->shape[axis], &row_bytes);
    fits = fits && !__builtin_mul_overflow(row_bytes, dataset->shape[0], &bytes);
    if (!fits)
        return error_set(err, EXIT_CHECKPOINT, "%s has the impossible shape (%lld, %lld, %lld)",
                         dataset->name, (long long)dataset->shape[0], (long long)dataset->shape[1],
                         (long long)dataset->shape[2]);
    dataset->row_bytes = row_bytes;
    dataset->bytes = bytes;
    // Cannot overflow: a row of at least one byte has at most as many blocks as bytes.
    dataset->blocks = dataset->row_blocks && bytes > 0 ? dataset->shape[0] * blocks_in(row_bytes)
                                                       : blocks_in(bytes);
    return true;
}

static int compare_names(const void *a, const void *b) {
    return strncmp(((const Dataset *)a)->name, ((const Dataset *)b)->name, DATASET_NAME_BYTES);
}

// Derives everything of sorted datasets; refuses names that do not ascend.
static bool manifest_derive(Manifest *manifest, Error *err) {
    manifest->blocks = 0;
    for (int64_t i = 0; i < manifest->count; i++) {
        Dataset *dataset = &manifest->datasets[i];
        if (!dataset_derive(dataset, err)) return false;
        if (i > 0 && compare_names(dataset - 1, dataset) >= 0)
            return error_set(err, EXIT_CHECKPOINT, "the dataset %s is listed twice or out of order",
                             dataset->name);
        dataset->first_block = manifest->blocks;
        if (__builtin_add_overflow(manifest->blocks, dataset->blocks, &manifest->blocks))
            return error_set(err, EXIT_CHECKPOINT, "too many blocks");
    }
    return true;
}

bool manifest_arrange(Manifest *manifest, Error *err) {
    qsort(manifest->datasets, (size_t)manifest->count, sizeof *manifest->datasets, compare_names);
    if (!manifest_derive(manifest, err)) return false;
    manifest->hashes = calloc((size_t)manifest->blocks + 1, sizeof *manifest->hashes);
    CHECK_MEMORY(manifest->hashes, "no memory for %lld hashes", (long long)manifest->blocks);
    return true;
}

static int compare_offsets(const void *a, const void *b) {
    int64_t x = (*(const Dataset *const *)a)->offset, y = (*(const Dataset *const *)b)->offset;
    return (x > y) - (x < y);
}

bool manifest_check_places(Manifest *manifest, int64_t file_bytes, Error *err) {
    free(manifest->in_file_order);
    manifest->in_file_order = calloc((size_t)manifest->count + 1, sizeof(const Dataset *));
    CHECK_MEMORY(manifest->in_file_order, "no memory for %lld datasets",
                 (long long)manifest->count);
    manifest->in_file_count = 0;
    for (int64_t i = 0; i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        bool inside = dataset->bytes == 0
                          ? dataset->offset == 0
                          : dataset->offset >= HEADER_BYTES && dataset->bytes <= file_bytes &&
                                dataset->offset <= file_bytes - dataset->bytes;
        if (!inside)
            return error_set(err, EXIT_CHECKPOINT,
                             "%s, %lld bytes at offset %lld, is not inside the file of %lld bytes",
                             dataset->name, (long long)dataset->bytes, (long long)dataset->offset,
                             (long long)file_bytes);
        if (dataset->bytes > 0) manifest->in_file_order[manifest->in_file_count++] = dataset;
    }
    qsort(manifest->in_file_order, (size_t)manifest->in_file_count, sizeof(const Dataset *),
          compare_offsets);
    for (int64_t i = 1; i < manifest->in_file_count; i++) {
        const Dataset *before = manifest->in_file_order[i - 1], *here = manifest->in_file_order[i];
        if (before->offset + before->bytes > here->offset)
            return error_set(err, EXIT_CHECKPOINT, "%s and %s overlap", before->name, here->name);
    }
    return true;
}

Span manifest_gap(const Manifest *manifest, int64_t index, int64_t file_bytes) {
    int64_t begin = HEADER_BYTES, end = file_bytes;
    if (index > 0) {
        const Dataset *before = manifest->in_file_order[index - 1];
        begin = before->offset + before->bytes;
    }
    if (index < manifest->in_file_count) end = manifest->in_file_order[index]->offset;
    return (Span){.begin = begin, .bytes = end - begin};
}

const Dataset *manifest_find(const Manifest *manifest, const char *name) {
    Dataset key = {0};
    snprintf(key.name, sizeof key.name, "%s", name);
    return bsearch(&key, manifest->datasets, (size_t)manifest->count, sizeof key, compare_names);
}

Span dataset_block(const Dataset *dataset, int64_t block) {
    int64_t unit_bytes = dataset->row_blocks ? dataset->row_bytes : dataset->bytes;
    int64_t blocks_per_unit = blocks_in(unit_bytes);
    int64_t within = block % blocks_per_unit * BLOCK_BYTES;
    int64_t rest = unit_bytes - within;
    return (Span){.begin = block / blocks_per_unit * unit_bytes + within,
                  .bytes = rest < BLOCK_BYTES ? rest : BLOCK_BYTES};
}

ManifestRecord dataset_encode(const Dataset *dataset) {
    ManifestRecord record = {
        .rank = dataset->rank, .row_blocks = dataset->row_blocks, .offset = dataset->offset};
    memcpy(record.name, dataset->name, sizeof record.name);
    memcpy(record.shape, dataset->shape, sizeof record.shape);
    snprintf(record.dtype, sizeof record.dtype, "%s", dtype_name(dataset->dtype));
    return record;
}

static bool dtype_parse(const char text[8], DType *dtype) {
    for (DType candidate = F32; candidate <= U8; candidate++) {
        if (strncmp(text, dtype_name(candidate), 8) != 0) continue;
        *dtype = candidate;
        return true;
    }
    return false;
}

bool manifest_decode(Manifest *manifest, const FileHeader *header, const ManifestRecord *records,
                     const Hash *hashes, Error *err) {
    Manifest parsed = {.count = header->record_count};
    bool ok = true;
    parsed.datasets = calloc((size_t)parsed.count, sizeof *parsed.datasets);
    parsed.hashes = calloc((size_t)header->block_count, sizeof *parsed.hashes);
    CHECK_MEMORY(parsed.datasets && parsed.hashes, "no memory for %lld datasets and %lld hashes",
                 (long long)parsed.count, (long long)header->block_count);
    memcpy(parsed.hashes, hashes, (size_t)header->block_count * sizeof *hashes);
    for (int64_t i = 0; ok && i < parsed.count; i++) {
        const ManifestRecord *record = &records[i];
        Dataset *dataset = &parsed.datasets[i];
        memcpy(dataset->name, record->name, sizeof dataset->name);
        memcpy(dataset->shape, record->shape, sizeof dataset->shape);
        dataset->rank = record->rank >= 1 && record->rank <= DATASET_AXES ? (int)record->rank : 0;
        dataset->row_blocks = record->row_blocks == 1;
        dataset->offset = record->offset;
        if (!dtype_parse(record->dtype, &dataset->dtype) || record->row_blocks >> 1 != 0)
            ok = error_set(err, EXIT_CHECKPOINT, "record %lld of the manifest is not understood",
                           (long long)i);
    }
    ok = ok && manifest_derive(&parsed, err) &&
         manifest_check_places(&parsed, header->file_bytes, err);
    if (ok && parsed.blocks != header->block_count)
        ok = error_set(err, EXIT_CHECKPOINT, "%lld block hashes for %lld blocks",
                       (long long)header->block_count, (long long)parsed.blocks);
    if (ok)
        *manifest = parsed;
    else
        manifest_free(&parsed);
    return ok;
}

Hash index_hash(const ManifestRecord *records, int64_t count, const Hash *hashes, int64_t blocks) {
    Hasher *hasher = hasher_open();
    hasher_add(hasher, records, (size_t)count * sizeof *records);
    hasher_add(hasher, hashes, (size_t)blocks * sizeof *hashes);
    return hasher_close(hasher);
}

void header_seal(FileHeader *header) {
    memcpy(header->magic, MAGIC, sizeof MAGIC);
    memset(header->zero, 0, sizeof header->zero);
    header->header_hash = hash_bytes(header, offsetof(FileHeader, header_hash));
}

// Room for `count` things of item_bytes at offset.
static bool part_inside(int64_t offset, int64_t count, int64_t item_bytes, int64_t file_bytes) {
    return offset >= HEADER_BYTES && offset <= file_bytes && count >= 1 &&
           count <= (file_bytes - offset) / item_bytes;
}

bool header_check(const FileHeader *header, int64_t file_bytes, Error *err) {
    if (memcmp(header->magic, MAGIC, sizeof MAGIC) != 0)
        return error_set(err, EXIT_CHECKPOINT,
                         "not a checkpoint of moetrain, or one whose writing was cut off");
    if (!hash_equal(hash_bytes(header, offsetof(FileHeader, header_hash)), header->header_hash))
        return error_set(err, EXIT_CHECKPOINT, "the header is damaged");
    if (header->format_version != CHECKPOINT_FORMAT_VERSION)
        return error_set(err, EXIT_CHECKPOINT, "format version %lld; this program reads version %d",
                         (long long)header->format_version, CHECKPOINT_FORMAT_VERSION);
    if (header->file_bytes != file_bytes)
        return error_set(err, EXIT_CHECKPOINT,
                         "the file has %lld bytes and should have %lld: it was cut off or written "
                         "to; use an earlier checkpoint",
                         (long long)file_bytes, (long long)header->file_bytes);
    if (!part_inside(header->records_offset, header->record_count, sizeof(ManifestRecord),
                     file_bytes) ||
        !part_inside(header->hashes_offset, header->block_count, sizeof(Hash), file_bytes))
        return error_set(err, EXIT_CHECKPOINT, "the header points outside the file");
    return true;
}
