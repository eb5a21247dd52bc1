// Saving: the commit protocol of checkpoint.h step by step. Reading is in checkpoint_load.c,
// finding the newest in checkpoint_find.c.
#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_contents.h"
#include "checkpoint/checkpoint_file.h"
#include "checkpoint/checkpoint_list.h"
#include "checkpoint/file_io.h"
#include "checkpoint/shared_copy.h"
#include "checkpoint/tensor_file.h"
#include "checkpoint/verify.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

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

// A block that this rank writes.
typedef struct Piece {
    const Dataset *dataset;
    int64_t block; // of the dataset
    const char *bytes;
    SavedStays stays;
} Piece;

struct CheckpointSave {
    Paths paths;
    int64_t step;
    void (*before_publish)(void);
    SmallContents small; // rank 0
    Manifest manifest;
    FileHeader header; // rank 0
    Piece *pieces;
    int64_t piece_count, piece_room;
    SharedCopy copy; // of what is written while training goes on
};

static void add_piece(CheckpointSave *save, Piece piece) {
    if (save->piece_count == save->piece_room) {
        save->piece_room = save->piece_room ? 2 * save->piece_room : 256;
        save->pieces = realloc(save->pieces, (size_t)save->piece_room * sizeof *save->pieces);
        CHECK_MEMORY(save->pieces, "no memory for %lld blocks", (long long)save->piece_room);
    }
    save->pieces[save->piece_count++] = piece;
}

// Of a replicated tensor every `writers`-th block.
static void list_shared_out(CheckpointSave *save, const SavedTensor *tensor, const Dataset *dataset,
                            int writer, int writers) {
    for (int64_t i = 0; i < dataset->blocks; i++)
        if ((dataset->first_block + i) % writers == writer)
            add_piece(save, (Piece){dataset, i,
                                    (const char *)tensor->data + dataset_block(dataset, i).begin,
                                    tensor->stays});
}

// Of a sharded tensor the blocks of one run that is held here. A row has equally many blocks.
static void list_run(CheckpointSave *save, const SavedTensor *tensor, const Dataset *dataset,
                     SavedRun run) {
    int64_t width = (int64_t)dtype_bytes(tensor->dtype), begin = run.first * width;
    int64_t end = begin + run.elements * width, of_row = dataset->blocks / dataset->shape[0];
    for (int64_t i = begin / dataset->row_bytes * of_row; i < dataset->blocks; i++) {
        Span span = dataset_block(dataset, i);
        if (span.begin >= end) break;
        if (span.begin < begin) continue;
        CHECK(span.begin + span.bytes <= end, "%s: a slice ends inside block %lld", tensor->name,
              (long long)i);
        const char *bytes = (const char *)tensor->data + run.at * width + (span.begin - begin);
        add_piece(save, (Piece){dataset, i, bytes, tensor->stays});
    }
}

// The blocks of one tensor that fall to this writer.
static void list_pieces(CheckpointSave *save, const SavedTensor *tensor, int writer, int writers) {
    Error err = {0};
    const Dataset *dataset = dataset_of_tensor(&save->manifest, tensor, &err);
    CHECK(dataset, "ranks save different tensors: %s", err.message);
    if (tensor->replicated)
        list_shared_out(save, tensor, dataset, writer, writers);
    else if (tensor->replica == 0 && dataset->blocks > 0)
        for (int64_t i = 0; i < saved_runs(tensor); i++)
            list_run(save, tensor, dataset, saved_run(tensor, i));
}

static bool write_pieces(CheckpointSave *save, int fd, Error *err) {
    for (int64_t i = 0; i < save->piece_count; i++) {
        const Piece *piece = &save->pieces[i];
        Span span = dataset_block(piece->dataset, piece->block);
        int64_t offset = piece->dataset->offset + span.begin;
        Hash *hash = &save->manifest.hashes[piece->dataset->first_block + piece->block];
        if (!write_and_hash(fd, piece->bytes, span.bytes, offset, hash, err))
            return error_prefix(err, "%s", piece->dataset->name);
        file_start_writing(fd, offset, span.bytes);
    }
    return true;
}

// Every block has one writer and a zero hash on the other ranks, so the sum is that writer's hash.
static void gather_hashes(Group *world, CheckpointSave *save) {
    Manifest *manifest = &save->manifest;
    Tensor none = {0};
    int64_t *written = calloc((size_t)manifest->blocks, sizeof *written);
    CHECK_MEMORY(written, "no memory for %lld counts", (long long)manifest->blocks);
    for (int64_t i = 0; i < save->piece_count; i++)
        written[save->pieces[i].dataset->first_block + save->pieces[i].block]++;
    _Static_assert(sizeof(Hash) == 2 * sizeof(int64_t), "a hash travels as two integers");
    all_reduce_sum(world, tensor_2d(manifest->hashes, I64, manifest->blocks, 2), REDUCE_ANY_ORDER,
                   none, TRAFFIC_OTHER);
    all_reduce_sum(world, tensor_1d(written, I64, manifest->blocks), REDUCE_ANY_ORDER, none,
                   TRAFFIC_OTHER);
    for (int64_t block = 0; block < manifest->blocks; block++)
        CHECK(written[block] == 1, "block %lld of the checkpoint was written by %lld ranks",
              (long long)block, (long long)written[block]);
    free(written);
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
    if (root) file_remove(paths.temporary, &room);
    if (ok && root && !directory_check_room(paths.directory, bytes, &room))
        log_warn("%s; training begins all the same", room.message);
    barrier(comm_world()); // what was removed is gone when any rank returns
    return ok;
}

// Takes away what failed, and the save with it. Collective over all ranks.
static void close_save(CheckpointSave *save, bool ok, Error *err) {
    if (!ok) err->exit_code = EXIT_IO;
    Error ignored;
    if (!ok && comm_rank() == 0) file_remove(save->paths.temporary, &ignored);
    barrier(comm_world()); // what was removed is gone when any rank returns
    utilization_free(&save->small.no_history);
    manifest_free(&save->manifest);
    shared_copy_free(&save->copy);
    free(save->pieces);
    free(save);
}

bool checkpoint_save_begin(CheckpointSave **begun, const char *run_dir,
                           const Checkpoint *checkpoint, Error *err) {
    const bool root = comm_rank() == 0;
    CheckpointSave *save = calloc(1, sizeof *save);
    CHECK_MEMORY(save, "no memory for a save");
    save->step = checkpoint->state.step;
    save->before_publish = checkpoint->before_publish;
    bool ok = name_paths(&save->paths, run_dir, save->step, err);
    if (ok && root) {
        small_contents_collect(checkpoint, &save->small);
        checkpoint_list_datasets(checkpoint, &save->small, &save->manifest);
        ok = lay_out(&save->paths, &save->manifest, &save->header, err);
    }
    ok = comm_follow(ok, err);
    if (!ok) {
        close_save(save, false, err);
        return false;
    }
    broadcast_manifest(comm_world(), &save->manifest);
    for (int i = 0; i < checkpoint->tensor_count; i++)
        list_pieces(save, &checkpoint->tensors[i], comm_rank(), comm_size());
    for (int i = 0; i < save->small.tensor_count; i++)
        list_pieces(save, &save->small.tensors[i], 0, 1);
    *begun = save;
    return true;
}

static size_t piece_bytes(const Piece *piece) {
    return (size_t)dataset_block(piece->dataset, piece->block).bytes;
}

void checkpoint_save_begin_copy(CheckpointSave *save, CheckpointCopy *copy) {
    size_t bytes = 0;
    for (int64_t i = 0; i < save->piece_count; i++)
        if (save->pieces[i].stays != STAYS_UNTIL_SAVED) bytes += piece_bytes(&save->pieces[i]);
    if (bytes > copy->bytes) {
        free(copy->data);
        copy->data = malloc(bytes);
        copy->bytes = bytes;
        CHECK_MEMORY(copy->data, "no memory for a copy of %zu bytes; leave checkpoint.async out",
                     bytes);
    }
    char *place = copy->data;
    for (int64_t i = 0; i < save->piece_count; i++) {
        Piece *piece = &save->pieces[i];
        if (piece->stays == STAYS_UNTIL_SAVED) continue;
        size_t size = piece_bytes(piece);
        if (piece->stays == STAYS_BRIEFLY)
            memcpy(place, piece->bytes, size);
        else
            shared_copy_add(&save->copy, piece->bytes, place, size);
        piece->bytes = place;
        place += size;
    }
}

void checkpoint_save_copy(CheckpointSave *save) {
    shared_copy_run(&save->copy);
}

bool checkpoint_save_write(CheckpointSave *save, Error *err) {
    checkpoint_save_copy(save);
    int fd = file_open_made_elsewhere(save->paths.temporary, O_WRONLY, err);
    if (fd < 0) return false;
    bool ok = write_pieces(save, fd, err) && file_sync(fd, err);
    close(fd);
    return ok || error_prefix(err, "%s", save->paths.temporary);
}

bool checkpoint_save_end(CheckpointSave *save, bool ok, CheckpointKeep keep, Error *err) {
    const bool root = comm_rank() == 0;
    Paths *paths = &save->paths;
    ok = comm_agree(ok, err);
    if (!ok) goto cleanup;
    gather_hashes(comm_world(), save);

    if (root) ok = checkpoint_seal(paths->temporary, &save->manifest, &save->header, err);
    ok = comm_follow(ok, err);
    if (!ok) goto cleanup;

    // Now that all see one sealed file, it may get its name.
    ok = verify_together(paths->temporary, VERIFY_INDEX, err);
    if (!ok) goto cleanup;

    if (root && save->before_publish) save->before_publish();
    if (root) ok = publish(paths, err);
    ok = comm_follow(ok, err);
    if (ok && root) checkpoint_list_prune(paths->directory, save->step, keep);
cleanup:
    close_save(save, ok, err);
    return ok;
}

bool checkpoint_save(const char *run_dir, const Checkpoint *checkpoint, CheckpointKeep keep,
                     Error *err) {
    CheckpointSave *save;
    if (!checkpoint_save_begin(&save, run_dir, checkpoint, err)) return false;
    bool ok = checkpoint_save_write(save, err);
    return checkpoint_save_end(save, ok, keep, err);
}
