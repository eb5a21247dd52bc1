#include "checkpoint/checkpoint_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

// Of a block: small enough for the CPU's cache, large enough for the disk.
enum { CACHED_BYTES = 1 << 20 };
// Of what is expected, how much the disk reads ahead: some milliseconds of a fast one.
enum { AHEAD_BYTES = 32 << 20 };

// Header, records and block hashes: everything needed to find and check a dataset.
static bool read_index(CheckpointFile *file, int64_t file_bytes, Error *err) {
    FileHeader *header = &file->header;
    ManifestRecord *records = NULL;
    Hash *hashes = NULL;
    bool ok = false;
    if (file_bytes < HEADER_BYTES) {
        error_set(err, EXIT_CHECKPOINT, "%lld bytes are too few for a checkpoint",
                  (long long)file_bytes);
        goto cleanup;
    }
    if (!file_read_at(file->fd, header, sizeof *header, 0, err) ||
        !header_check(header, file_bytes, err))
        goto cleanup;
    size_t records_bytes = (size_t)header->record_count * sizeof *records;
    size_t hashes_bytes = (size_t)header->block_count * sizeof *hashes;
    records = malloc(records_bytes);
    hashes = malloc(hashes_bytes);
    if (!records || !hashes) {
        error_set(err, EXIT_IO, "no memory for a manifest of %zu bytes",
                  records_bytes + hashes_bytes);
        goto cleanup;
    }
    if (!file_read_at(file->fd, records, records_bytes, header->records_offset, err) ||
        !file_read_at(file->fd, hashes, hashes_bytes, header->hashes_offset, err))
        goto cleanup;
    Hash hash = index_hash(records, header->record_count, hashes, header->block_count);
    if (!hash_equal(hash, header->index_hash)) {
        error_set(err, EXIT_CHECKPOINT, "the manifest is damaged");
        goto cleanup;
    }
    ok = manifest_decode(&file->manifest, header, records, hashes, err);
cleanup:
    free(records);
    free(hashes);
    return ok;
}

bool checkpoint_file_open(CheckpointFile *file, const char *path, Error *err) {
    *file = (CheckpointFile){.fd = file_open_to_read(path, err)};
    if (file->fd < 0)
        return errno != ENOENT ? false
                               : error_set(err, EXIT_CHECKPOINT,
                                           "%s: there is no such file or folder; name a "
                                           "checkpoint, as RUN/checkpoints/step-00000100.h5, or a "
                                           "run's folder",
                                           path);
    struct stat info;
    bool ok = fstat(file->fd, &info) == 0 ||
              error_set(err, EXIT_IO, "cannot ask for its size: %s", strerror(errno));
    if (ok && S_ISDIR(info.st_mode))
        ok = error_set(err, EXIT_CHECKPOINT,
                       "it is a folder; name a checkpoint, such as step-00000100.h5 in a run's "
                       "folder checkpoints");
    else if (ok && !S_ISREG(info.st_mode))
        ok = error_set(err, EXIT_CHECKPOINT, "not a file");
    if (ok) { // no block is larger than its file
        size_t bytes = info.st_size < BLOCK_BYTES ? (size_t)info.st_size : BLOCK_BYTES;
        file->block = malloc(bytes + 1);
        ok = file->block || error_set(err, EXIT_IO, "no memory for a block of %zu bytes", bytes);
    }
    ok = ok && read_index(file, info.st_size, err);
    if (!ok) {
        checkpoint_file_close(file);
        error_prefix(err, "%s", path);
    }
    return ok;
}

void checkpoint_file_close(CheckpointFile *file) {
    close(file->fd);
    manifest_free(&file->manifest);
    free(file->block);
    free(file->expected);
    file->block = NULL;
    file->expected = NULL;
}

void checkpoint_file_expect(CheckpointFile *file, const Dataset *dataset, int64_t begin,
                            int64_t bytes) {
    if (file->expected_count == file->expected_room) {
        file->expected_room = file->expected_room ? 2 * file->expected_room : 64;
        file->expected =
            realloc(file->expected, (size_t)file->expected_room * sizeof *file->expected);
        CHECK_MEMORY(file->expected, "no memory for %lld places", (long long)file->expected_room);
    }
    file->expected[file->expected_count++] = (Span){dataset->offset + begin, bytes};
}

// `bytes` are about to be read: the disk is asked for as much behind what it was asked for.
static void read_ahead(CheckpointFile *file, int64_t bytes) {
    file->ahead_bytes -= bytes;
    while (file->ahead_bytes < AHEAD_BYTES && file->asked < file->expected_count) {
        Span span = file->expected[file->asked];
        int64_t rest = span.bytes - file->asked_bytes, room = AHEAD_BYTES - file->ahead_bytes;
        int64_t more = rest < room ? rest : room;
        file_start_reading(file->fd, span.begin + file->asked_bytes, more);
        file->ahead_bytes += more;
        file->asked_bytes += more;
        if (more < rest) continue;
        file->asked++;
        file->asked_bytes = 0;
    }
}

bool write_and_hash(int fd, const char *from, int64_t bytes, int64_t offset, Hash *hash,
                    Error *err) {
    Hasher *hasher = hasher_open();
    bool ok = true;
    for (int64_t done = 0; ok && done < bytes; done += CACHED_BYTES) {
        size_t piece = (size_t)(bytes - done < CACHED_BYTES ? bytes - done : CACHED_BYTES);
        hasher_add(hasher, from + done, piece);
        ok = file_write_at(fd, from + done, piece, offset + done, err);
    }
    *hash = hasher_close(hasher);
    return ok;
}

// Likewise.
static bool read_and_hash(int fd, char *to, int64_t bytes, int64_t offset, Hash *hash, Error *err) {
    Hasher *hasher = hasher_open();
    bool ok = true;
    for (int64_t done = 0; ok && done < bytes; done += CACHED_BYTES) {
        size_t piece = (size_t)(bytes - done < CACHED_BYTES ? bytes - done : CACHED_BYTES);
        ok = file_read_at(fd, to + done, piece, offset + done, err);
        if (ok) hasher_add(hasher, to + done, piece);
    }
    *hash = hasher_close(hasher);
    return ok;
}

// A block to where it is wanted.
static bool read_block_to(CheckpointFile *file, const Dataset *dataset, int64_t block, void *to,
                          Error *err) {
    Span span = dataset_block(dataset, block);
    int64_t offset = dataset->offset + span.begin;
    Hash hash;
    read_ahead(file, span.bytes);
    if (!read_and_hash(file->fd, to, span.bytes, offset, &hash, err))
        return error_prefix(err, "%s", dataset->name);
    if (hash_equal(hash, file->manifest.hashes[dataset->first_block + block])) return true;
    return error_set(err, EXIT_CHECKPOINT,
                     "%s is damaged in block %lld of %lld (%lld bytes at offset %lld of the file)",
                     dataset->name, (long long)block, (long long)dataset->blocks,
                     (long long)span.bytes, (long long)offset);
}

bool checkpoint_file_read_block(CheckpointFile *file, const Dataset *dataset, int64_t block,
                                Error *err) {
    return read_block_to(file, dataset, block, file->block, err);
}

bool checkpoint_file_read(CheckpointFile *file, const Dataset *dataset, int64_t begin,
                          int64_t bytes, void *out, Error *err) {
    int64_t end = begin + bytes;
    for (int64_t block = 0; block < dataset->blocks; block++) {
        Span span = dataset_block(dataset, block);
        int64_t from = span.begin > begin ? span.begin : begin;
        int64_t to = span.begin + span.bytes < end ? span.begin + span.bytes : end;
        if (from >= to) continue;
        char *wanted = (char *)out + (from - begin);
        bool whole = to - from == span.bytes;
        if (!read_block_to(file, dataset, block, whole ? wanted : file->block, err)) return false;
        if (!whole) memcpy(wanted, file->block + (from - span.begin), (size_t)(to - from));
    }
    return true;
}

bool checkpoint_file_verify(CheckpointFile *file, const bool *known, int part, int parts,
                            Error *err) {
    const Manifest *manifest = &file->manifest;
    for (int64_t i = 0; i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        if (known && known[i]) continue;
        for (int64_t block = 0; block < dataset->blocks; block++) {
            if ((dataset->first_block + block) % parts != part) continue;
            if (!checkpoint_file_read_block(file, dataset, block, err)) return false;
        }
    }
    return part != 0 || checkpoint_file_verify_structure(file, err);
}

bool checkpoint_file_verify_structure(CheckpointFile *file, Error *err) {
    Hash hash;
    if (!structure_hash(file->fd, &file->manifest, file->header.file_bytes, &hash, err))
        return false;
    return hash_equal(hash, file->header.structure_hash) ||
           error_set(err, EXIT_CHECKPOINT, "the HDF5 structure of the file is damaged");
}

bool structure_hash(int fd, const Manifest *manifest, int64_t file_bytes, Hash *hash, Error *err) {
    char chunk[16384];
    Hasher *hasher = hasher_open();
    bool ok = true;
    for (int64_t i = 0; ok && i <= manifest->in_file_count; i++) {
        Span gap = manifest_gap(manifest, i, file_bytes);
        for (int64_t done = 0; ok && done < gap.bytes;) {
            int64_t rest = gap.bytes - done;
            size_t bytes = rest < (int64_t)sizeof chunk ? (size_t)rest : sizeof chunk;
            ok = file_read_at(fd, chunk, bytes, gap.begin + done, err);
            if (ok) hasher_add(hasher, chunk, bytes);
            done += (int64_t)bytes;
        }
    }
    *hash = hasher_close(hasher);
    return ok;
}
