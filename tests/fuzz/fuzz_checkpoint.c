// Any bytes as a checkpoint: refused with a message, or everything in it can be read. Hashes would
// stop nearly every input at the door, so where the first byte is odd they are made to fit. The
// rest of the input is the file.
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_file.h"
#include "seeds.h"
#include "worker/inspect.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void require(bool condition) {
    if (!condition) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    require(freopen("/dev/null", "w", stdout)); // what is inspected is not looked at
    return seeds_must_reach((const char *const[]){"opened", "a block", "inspected", "a state",
                                                  "a history", "a configuration",
                                                  "as it is on the disk", NULL});
}

static bool inside(int64_t offset, int64_t count, size_t item_bytes, size_t size) {
    return offset >= 0 && count >= 0 && (uint64_t)offset <= size &&
           (uint64_t)count <= (size - (size_t)offset) / item_bytes;
}

// Hashes the blocks as they are, in the file's own table.
static void repair_blocks(uint8_t *bytes, const Manifest *manifest, const FileHeader *header) {
    for (int64_t i = 0; i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        for (int64_t block = 0; block < dataset->blocks; block++) {
            Span span = dataset_block(dataset, block);
            Hash hash = hash_bytes(bytes + dataset->offset + span.begin, (size_t)span.bytes);
            memcpy(bytes + header->hashes_offset + (dataset->first_block + block) * 16, &hash, 16);
        }
    }
}

// Fits sizes and hashes to whatever header, manifest and blocks say.
static void repair(uint8_t *bytes, size_t size, int file) {
    FileHeader header;
    if (size < sizeof header) return;
    memcpy(&header, bytes, sizeof header);
    header.format_version = CHECKPOINT_FORMAT_VERSION;
    header.file_bytes = (int64_t)size;
    if (inside(header.records_offset, header.record_count, sizeof(ManifestRecord), size) &&
        inside(header.hashes_offset, header.block_count, sizeof(Hash), size)) {
        // Aligned copies: the places are arbitrary.
        size_t records_bytes = (size_t)header.record_count * sizeof(ManifestRecord);
        size_t hashes_bytes = (size_t)header.block_count * sizeof(Hash);
        ManifestRecord *records = malloc(records_bytes + 1);
        Hash *hashes = malloc(hashes_bytes + 1);
        require(records && hashes);
        memcpy(records, bytes + header.records_offset, records_bytes);
        memcpy(hashes, bytes + header.hashes_offset, hashes_bytes);
        Manifest manifest = {0};
        Error err = {0};
        header_seal(&header);
        if (header_check(&header, header.file_bytes, &err) &&
            manifest_decode(&manifest, &header, records, hashes, &err)) {
            repair_blocks(bytes, &manifest, &header);
            require(pwrite(file, bytes, size, 0) == (ssize_t)size);
            require(
                structure_hash(file, &manifest, header.file_bytes, &header.structure_hash, &err));
        }
        memcpy(records, bytes + header.records_offset, records_bytes);
        memcpy(hashes, bytes + header.hashes_offset, hashes_bytes);
        header.index_hash = index_hash(records, header.record_count, hashes, header.block_count);
        manifest_free(&manifest);
        free(records);
        free(hashes);
    }
    header_seal(&header);
    memcpy(bytes, &header, sizeof header);
}

// Whatever opens can be walked through; blocks either verify or give a message.
static void read_everything(const char *path) {
    CheckpointFile file;
    Error err = {0};
    if (!checkpoint_file_open(&file, path, &err)) {
        require(err.exit_code == EXIT_CHECKPOINT && err.message[0]);
        return;
    }
    reached("opened");
    for (int64_t i = 0; i < file.manifest.count; i++) {
        const Dataset *dataset = &file.manifest.datasets[i];
        require(manifest_find(&file.manifest, dataset->name) == dataset);
        for (int64_t block = 0; block < dataset->blocks; block++) {
            Span span = dataset_block(dataset, block);
            require(span.begin >= 0 && span.bytes > 0 && span.bytes <= BLOCK_BYTES);
            require(span.begin + span.bytes <= dataset->bytes);
            err = (Error){0};
            bool holds = checkpoint_file_read_block(&file, dataset, block, &err);
            require(holds || err.message[0]);
            if (holds) reached("a block");
        }
    }
    checkpoint_file_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size == 0) return 0;
    uint8_t *bytes = malloc(size);
    int file = memfd_create("checkpoint", 0);
    require(bytes && file >= 0);
    size_t file_bytes = size - 1;
    memcpy(bytes, input + 1, file_bytes);
    require(pwrite(file, bytes, file_bytes, 0) == (ssize_t)file_bytes);
    if (input[0] & 1) repair(bytes, file_bytes, file);
    require(pwrite(file, bytes, file_bytes, 0) == (ssize_t)file_bytes);

    char path[64], *config = NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    read_everything(path);

    CheckpointInfo info;
    Error err = {0};
    TrainConfig shape = {.model.moe = {.experts = {1, {input[0] >> 4}}, .top_k = {1, {2}}}};
    int shown = inspect_run(&shape, path, &err);
    require(shown == EXIT_DONE || (shown == err.exit_code && err.message[0]));
    if (shown == EXIT_DONE) reached("inspected");
    err = (Error){0};
    if (checkpoint_read_info(path, &info, &err)) {
        const TrainState *state = &info.state;
        require(info.utilization.rows >= 0 && memchr(state->data_id, 0, sizeof state->data_id));
        reached(input[0] & 1 ? "a state" : "as it is on the disk");
        if (info.utilization.rows > 0) reached("a history");
        require(state->step >= 0 && state->data_epoch >= 0 && state->data_index >= 0);
        checkpoint_free_info(&info);
    } else {
        require(err.message[0]);
    }
    if (checkpoint_read_config(path, &config, &err)) reached("a configuration");
    free(config);
    close(file);
    free(bytes);
    return 0;
}
