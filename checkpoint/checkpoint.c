// Saving: the commit protocol of checkpoint.h step by step. Reading is in checkpoint_load.c,
// finding the newest in verify.c.
#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/checkpoint_file.h"
#include "checkpoint/checkpoint_list.h"
#include "checkpoint/file_io.h"
#include "checkpoint/state_tensors.h"
#include "checkpoint/tensor_file.h"
#include "checkpoint/verify.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

enum { ABOUT_TENSORS = 3 };

typedef struct Paths {
    char directory[CHECKPOINT_PATH_BYTES], final[CHECKPOINT_PATH_BYTES];
    char temporary[CHECKPOINT_PATH_BYTES];
} Paths;

static bool name_paths(Paths *paths, const char *run_dir, int64_t step, Error *err) {
    const int room = CHECKPOINT_PATH_BYTES;
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_name(step, name);
    // The longest of the three last: when it fits, all do.
    snprintf(paths->directory, (size_t)room, "%s/checkpoints", run_dir);
    snprintf(paths->final, (size_t)room, "%s/checkpoints/%s", run_dir, name);
    return snprintf(paths->temporary, (size_t)room, "%s/checkpoints/%s.tmp", run_dir, name) <
               room ||
           error_set(err, EXIT_IO, "path too long: %.60s...", run_dir);
}

// What rank 0 saves besides the tensors, as tensors over its own copies.
typedef struct SmallContents {
    TrainState state;
    UtilizationHistory no_history;
    char created_utc[32];
    SavedTensor tensors[STATE_TENSORS + UTILIZATION_TENSORS_MAX + ABOUT_TENSORS];
    int tensor_count;
} SmallContents;

static void collect_small_contents(const Checkpoint *checkpoint, SmallContents *small) {
    *small = (SmallContents){.state = checkpoint->state};
    time_t now = time(NULL);
    struct tm utc;
    strftime(small->created_utc, sizeof small->created_utc, "%Y-%m-%dT%H:%M:%SZ",
             gmtime_r(&now, &utc));
    UtilizationHistory *history = checkpoint->utilization;
    if (!history) utilization_allocate(history = &small->no_history);
    state_tensors(&small->state, small->tensors);
    small->tensor_count = STATE_TENSORS;
    small->tensor_count += utilization_tensors(history, small->tensors + STATE_TENSORS);
    SavedTensor *about = small->tensors + small->tensor_count;
    about[0] = text_tensor("config", checkpoint->config_yaml ? checkpoint->config_yaml : "");
    about[1] = text_tensor("about/program_version", MOETRAIN_VERSION);
    about[2] = text_tensor("about/created_utc", small->created_utc);
    small->tensor_count += ABOUT_TENSORS;
}

// Everything that is saved, on the rank that lays the file out.
static void list_datasets(const Checkpoint *checkpoint, const SmallContents *small,
                          Manifest *manifest) {
    for (int i = 0; i < checkpoint->tensor_count; i++) {
        const SavedTensor *tensor = &checkpoint->tensors[i];
        manifest_add(manifest, tensor->name, tensor->dtype, tensor->rank, tensor->shape,
                     !tensor->replicated);
    }
    for (int i = 0; i < small->tensor_count; i++) {
        const SavedTensor *tensor = &small->tensors[i];
        manifest_add(manifest, tensor->name, tensor->dtype, tensor->rank, tensor->shape, false);
    }
    Error err = {0};
    CHECK(manifest_arrange(manifest, &err), "cannot save: %s", err.message);
}

// Directory, room, and the empty file under its temporary name. Rank 0.
static bool lay_out(const Paths *paths, Manifest *manifest, FileHeader *header, Error *err) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < manifest->count; i++) bytes += manifest->datasets[i].bytes;
    if (!directory_make(paths->directory, err)) return false;
    checkpoint_list_remove_temporary(paths->directory);
    checkpoint_list_wait_freed(); // what was removed last time is room now
    bytes += bytes / 10 + (1 << 20);
    if (!directory_check_room(paths->directory, bytes, err) || !file_check_limit(bytes, err))
        return false;
    return tensor_file_create(paths->temporary, manifest, header, err);
}

// Rank 0's datasets, in their order and with their offsets, on every rank.
static void broadcast_manifest(Group *world, Manifest *manifest) {
    broadcast(world, &manifest->count, sizeof manifest->count, 0);
    broadcast(world, &manifest->blocks, sizeof manifest->blocks, 0);
    if (comm_rank() != 0) {
        manifest->datasets = calloc((size_t)manifest->count, sizeof *manifest->datasets);
        manifest->hashes = calloc((size_t)manifest->blocks, sizeof *manifest->hashes);
        CHECK_MEMORY(manifest->datasets && manifest->hashes, "no memory for %lld datasets",
                     (long long)manifest->count);
    }
    broadcast(world, manifest->datasets, (size_t)manifest->count * sizeof *manifest->datasets, 0);
}

// Writes and hashes the blocks of one tensor that fall to this writer: of a replicated tensor every
// `writers`-th, of a sharded one those held here. written[block] counts the writers of
// a block.
static bool write_tensor(int fd, Manifest *manifest, int64_t *written, const SavedTensor *tensor,
                         int writer, int writers, Error *err) {
    const Dataset *dataset = dataset_of_tensor(manifest, tensor, err);
    CHECK(dataset, "ranks save different tensors: %s", err->message);
    int64_t width = (int64_t)dtype_bytes(tensor->dtype), begin = tensor->first_element * width;
    int64_t end = begin + tensor->elements * width;
    for (int64_t i = 0; i < dataset->blocks; i++) {
        Span span = dataset_block(dataset, i);
        int64_t block = dataset->first_block + i;
        bool mine = tensor->replicated
                        ? block % writers == writer
                        : tensor->replica == 0 && begin <= span.begin && span.begin < end;
        if (!mine) continue;
        CHECK(span.begin + span.bytes <= end, "%s: a slice ends inside block %lld", tensor->name,
              (long long)i);
        const char *bytes = (const char *)tensor->data + (span.begin - begin);
        written[block]++;
        if (!write_and_hash(fd, bytes, span.bytes, dataset->offset + span.begin,
                            &manifest->hashes[block], err))
            return error_prefix(err, "%s", tensor->name);
        file_start_writing(fd, dataset->offset + span.begin, span.bytes);
    }
    return true;
}

// Reads back what this rank has written, and compares it with the hashes, while the disk is busy.
static bool read_back(int fd, const Manifest *manifest, const int64_t *written, Error *err) {
    CheckpointFile file = {.fd = fd, .manifest = *manifest, .block = malloc(BLOCK_BYTES)};
    CHECK_MEMORY(file.block, "no memory for a block of %d bytes", BLOCK_BYTES);
    bool ok = true;
    for (int64_t i = 0; ok && i < manifest->count; i++) {
        const Dataset *dataset = &manifest->datasets[i];
        for (int64_t block = 0; ok && block < dataset->blocks; block++)
            ok = !written[dataset->first_block + block] ||
                 checkpoint_file_read_block(&file, dataset, block, err);
    }
    free(file.block);
    return ok;
}

// This rank's part of all contents, down to the disk. small: on rank 0 only, NULL elsewhere.
static bool write_contents(const char *temporary, const Checkpoint *checkpoint,
                           const SmallContents *small, Manifest *manifest, int64_t *written,
                           Error *err) {
    int fd = file_open_made_elsewhere(temporary, O_RDWR, err);
    if (fd < 0) return false;
    bool ok = true;
    for (int i = 0; ok && i < checkpoint->tensor_count; i++)
        ok = write_tensor(fd, manifest, written, &checkpoint->tensors[i], comm_rank(), comm_size(),
                          err);
    for (int i = 0; ok && small && i < small->tensor_count; i++)
        ok = write_tensor(fd, manifest, written, &small->tensors[i], 0, 1, err);
    ok = ok && read_back(fd, manifest, written, err) && file_sync(fd, err);
    close(fd);
    return ok || error_prefix(err, "%s", temporary);
}

// Every block has one writer and a zero hash on the other ranks, so the sum is that writer's hash.
static void gather_hashes(Group *world, Manifest *manifest, int64_t *written) {
    Tensor none = {0};
    _Static_assert(sizeof(Hash) == 2 * sizeof(int64_t), "a hash travels as two integers");
    all_reduce_sum(world, tensor_2d(manifest->hashes, I64, manifest->blocks, 2), REDUCE_ANY_ORDER,
                   none, TRAFFIC_OTHER);
    all_reduce_sum(world, tensor_1d(written, I64, manifest->blocks), REDUCE_ANY_ORDER, none,
                   TRAFFIC_OTHER);
    for (int64_t block = 0; block < manifest->blocks; block++)
        CHECK(written[block] == 1, "block %lld of the checkpoint was written by %lld ranks",
              (long long)block, (long long)written[block]);
}

// Manifest and hashes, then the header that declares them valid. Rank 0.
static bool seal(const char *temporary, Manifest *manifest, FileHeader *header, Error *err) {
    size_t records_bytes = (size_t)manifest->count * sizeof(ManifestRecord);
    size_t hashes_bytes = (size_t)manifest->blocks * sizeof(Hash);
    bool ok = false;
    ManifestRecord *records = malloc(records_bytes);
    CHECK_MEMORY(records, "no memory for a manifest of %zu bytes", records_bytes);
    for (int64_t i = 0; i < manifest->count; i++)
        records[i] = dataset_encode(&manifest->datasets[i]);
    int fd = file_open(temporary, O_RDWR, err);
    if (fd < 0) {
        free(records);
        return false;
    }
    header->format_version = CHECKPOINT_FORMAT_VERSION;
    header->index_hash = index_hash(records, manifest->count, manifest->hashes, manifest->blocks);
    if (!file_write_at(fd, records, records_bytes, header->records_offset, err)) goto cleanup;
    if (!file_write_at(fd, manifest->hashes, hashes_bytes, header->hashes_offset, err))
        goto cleanup;
    if (!structure_hash(fd, manifest, header->file_bytes, &header->structure_hash, err))
        goto cleanup;
    header_seal(header);
    ok = file_write_at(fd, header, sizeof *header, 0, err) && file_sync(fd, err);
cleanup:
    close(fd);
    free(records);
    return ok || error_prefix(err, "%s", temporary);
}

// From here on the checkpoint exists. Rank 0.
static bool publish(const Paths *paths, Error *err) {
    return file_rename(paths->temporary, paths->final, err) &&
           directory_sync(paths->directory, err);
}

// Rank 0's part of the trial: a file of one block under a temporary name.
static bool make_trial_file(const Paths *paths, Error *err) {
    static const char block[4096];
    if (!directory_make(paths->directory, err)) return false;
    checkpoint_list_remove_temporary(paths->directory);
    int fd = file_open(paths->temporary, O_WRONLY | O_CREAT, err);
    if (fd < 0) return false;
    bool ok = (file_write_at(fd, block, sizeof block, 0, err) && file_sync(fd, err)) ||
              error_prefix(err, "%s", paths->temporary);
    close(fd);
    return ok;
}

bool checkpoint_try_directory(const char *run_dir, int64_t bytes, Error *err) {
    const bool root = comm_rank() == 0;
    Paths paths = {0};
    bool ok = name_paths(&paths, run_dir, 0, err);
    if (ok && root) ok = make_trial_file(&paths, err) && file_check_limit(bytes, err);
    ok = comm_follow(ok, err);
    if (ok) {
        int fd = file_open_made_elsewhere(paths.temporary, O_WRONLY, err);
        if (fd >= 0) close(fd);
        ok = fd >= 0 || error_prefix(err, "what rank 0 writes into run.dir cannot be opened here; "
                                          "choose a folder on a file system that all hosts share");
        ok = comm_agree(ok, err);
    }
    Error room = {0};
    if (root) unlink(paths.temporary);
    if (ok && root && !directory_check_room(paths.directory, bytes, &room))
        log_warn("%s; training begins all the same", room.message);
    barrier(comm_world()); // what was removed is gone when any rank returns
    return ok;
}

bool checkpoint_save(const char *run_dir, const Checkpoint *checkpoint, CheckpointKeep keep,
                     Error *err) {
    const bool root = comm_rank() == 0;
    Paths paths = {0};
    SmallContents small = {0};
    Manifest manifest = {0};
    FileHeader header = {0};
    int64_t *written = NULL;

    bool ok = name_paths(&paths, run_dir, checkpoint->state.step, err);
    if (ok && root) {
        collect_small_contents(checkpoint, &small);
        list_datasets(checkpoint, &small, &manifest);
        ok = lay_out(&paths, &manifest, &header, err);
    }
    ok = comm_follow(ok, err);
    if (!ok) goto cleanup;
    broadcast_manifest(comm_world(), &manifest);
    written = calloc((size_t)manifest.blocks, sizeof *written);
    CHECK_MEMORY(written, "no memory for %lld counts", (long long)manifest.blocks);

    ok = write_contents(paths.temporary, checkpoint, root ? &small : NULL, &manifest, written, err);
    ok = comm_agree(ok, err);
    if (!ok) goto cleanup;
    gather_hashes(comm_world(), &manifest, written);

    if (root) ok = seal(paths.temporary, &manifest, &header, err);
    ok = comm_follow(ok, err);
    if (!ok) goto cleanup;

    // Each rank has read back what it wrote; now that all see one sealed file, it may get its name.
    ok = verify_together(paths.temporary, VERIFY_INDEX, err);
    if (!ok) goto cleanup;

    if (root && checkpoint->before_publish) checkpoint->before_publish();
    if (root) ok = publish(&paths, err);
    ok = comm_follow(ok, err);
    if (ok && root) checkpoint_list_prune(paths.directory, checkpoint->state.step, keep);
cleanup:
    if (!ok) err->exit_code = EXIT_IO;
    if (!ok && root) unlink(paths.temporary);
    barrier(comm_world()); // what was removed is gone when any rank returns
    utilization_free(&small.no_history);
    manifest_free(&manifest);
    free(written);
    return ok;
}
