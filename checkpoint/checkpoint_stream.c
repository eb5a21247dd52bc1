#include "checkpoint/checkpoint_stream.h"

#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_contents.h"
#include "checkpoint/file_io.h"
#include "checkpoint/temporary_name.h"
#include "checkpoint/tensor_file.h"

typedef struct Stream {
    char folder[CHECKPOINT_PATH_BYTES], temporary[CHECKPOINT_PATH_BYTES + TEMPORARY_NAME_BYTES];
    Manifest manifest;
    FileHeader header;
    SmallContents small;
    char *block;
} Stream;

static bool lay_out(Stream *stream, Error *err) {
    Manifest *manifest = &stream->manifest;
    int64_t bytes = 1 << 20;
    for (int64_t i = 0; i < manifest->count; i++) bytes += manifest->datasets[i].bytes;
    return directory_check_room(stream->folder, bytes, err) && file_check_limit(bytes, err) &&
           tensor_file_create(stream->temporary, manifest, &stream->header, err);
}

// One block, from `bytes`.
static bool write_block(Stream *stream, int fd, const Dataset *dataset, int64_t block,
                        const char *bytes, Error *err) {
    Span span = dataset_block(dataset, block);
    Hash *hash = &stream->manifest.hashes[dataset->first_block + block];
    int64_t offset = dataset->offset + span.begin;
    if (!write_and_hash(fd, bytes, span.bytes, offset, hash, err))
        return error_prefix(err, "%s: %s", stream->temporary, dataset->name);
    file_start_writing(fd, offset, span.bytes);
    return true;
}

static bool write_contents(Stream *stream, int fd, const Checkpoint *checkpoint,
                           CheckpointFill fill, void *context, Error *err) {
    for (int i = 0; i < checkpoint->tensor_count; i++) {
        const Dataset *dataset = dataset_of_tensor(&stream->manifest, &checkpoint->tensors[i], err);
        CHECK(dataset, "%s", err->message);
        int64_t width = (int64_t)dtype_bytes(dataset->dtype);
        for (int64_t block = 0; block < dataset->blocks; block++) {
            Span span = dataset_block(dataset, block);
            if (!fill(context, i, span.begin / width, span.bytes / width, stream->block, err) ||
                !write_block(stream, fd, dataset, block, stream->block, err))
                return false;
        }
    }
    for (int i = 0; i < stream->small.tensor_count; i++) {
        const SavedTensor *tensor = &stream->small.tensors[i];
        const Dataset *dataset = dataset_of_tensor(&stream->manifest, tensor, err);
        CHECK(dataset, "%s", err->message);
        for (int64_t block = 0; block < dataset->blocks; block++) {
            const char *bytes = (const char *)tensor->data + dataset_block(dataset, block).begin;
            if (!write_block(stream, fd, dataset, block, bytes, err)) return false;
        }
    }
    return file_sync(fd, err) || error_prefix(err, "%s", stream->temporary);
}

// What has the temporary name opens, with its hashes, and only then gets the other.
static bool publish(const Stream *stream, const char *path, Error *err) {
    CheckpointFile file;
    if (!checkpoint_file_open(&file, stream->temporary, err)) return false;
    checkpoint_file_close(&file);
    return temporary_name_publish(stream->temporary, path, err) &&
           directory_sync(stream->folder, err);
}

bool checkpoint_stream(const char *path, const Checkpoint *checkpoint, CheckpointFill fill,
                       void *context, Error *err) {
    char name[CHECKPOINT_PATH_BYTES];
    if (snprintf(name, sizeof name, "%s", path) >= (int)sizeof name)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    Stream *stream = calloc(1, sizeof *stream);
    CHECK_MEMORY(stream, "no memory for a checkpoint");
    stream->block = malloc(BLOCK_BYTES);
    CHECK_MEMORY(stream->block, "no memory for a block of %d bytes", BLOCK_BYTES);
    snprintf(stream->folder, sizeof stream->folder, "%s", dirname(name));
    small_contents_collect(checkpoint, &stream->small);
    checkpoint_list_datasets(checkpoint, &stream->small, &stream->manifest);

    bool named = file_check_place(path, err) &&
                 temporary_name_take(stream->temporary, sizeof stream->temporary, path, err);
    bool ok = named && lay_out(stream, err);
    int fd = ok ? file_open(stream->temporary, O_WRONLY, err) : -1;
    ok = fd >= 0 && write_contents(stream, fd, checkpoint, fill, context, err);
    if (fd >= 0) close(fd);
    ok = ok && checkpoint_seal(stream->temporary, &stream->manifest, &stream->header, err) &&
         publish(stream, path, err);
    Error ignored;
    if (named && !ok) file_remove(stream->temporary, &ignored);
    utilization_free(&stream->small.no_history);
    manifest_free(&stream->manifest);
    free(stream->block);
    free(stream);
    return ok;
}
