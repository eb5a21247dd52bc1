#include "checkpoint/verify.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "comm/comm.h"
#include "comm/collectives.h"
#include "comm/rank_facts.h"
#include "kernels/log.h"

bool same_file(const char *path, const FileHeader *header, Error *err) {
    RankFact fact = {.what = "the checkpoint",
                     .exit_code = EXIT_CHECKPOINT,
                     .fix = "put it on a file system that all hosts share"};
    snprintf(fact.value, sizeof fact.value, "%lld bytes, contents ", (long long)header->file_bytes);
    for (size_t i = 0, used = strlen(fact.value); i < sizeof header->index_hash.bytes; i++)
        snprintf(fact.value + used + 2 * i, 3, "%02x", header->index_hash.bytes[i]);
    snprintf(fact.note, sizeof fact.note, "%s", path);
    return rank_facts_compare(&fact, 1, err);
}

bool verify_together(const char *path, VerifyDepth depth, Error *err) {
    CheckpointFile file;
    FileHeader header = {0};
    bool ok = checkpoint_file_open(&file, path, err);
    if (ok) {
        header = file.header;
        ok = depth == VERIFY_INDEX ||
             checkpoint_file_verify(&file, NULL, comm_rank(), comm_size(), err) ||
             error_prefix(err, "%s", path);
        checkpoint_file_close(&file);
    }
    return comm_agree(ok, err) && same_file(path, &header, err);
}

bool checkpoint_verify(const char *path, Error *err) {
    return verify_together(path, VERIFY_ALL, err);
}

// Of a file that rank 0 has seen in its folder: a rank that cannot open it lacks the file system,
// not the bytes. Collective over all ranks.
static bool verify_listed(const char *path, VerifyDepth depth, Error *err) {
    bool ok = access(path, R_OK) == 0;
    if (!ok)
        error_set(
            err, EXIT_IO,
            "%s: cannot be read: %s; it may be sound, so no older checkpoint is taken instead; "
            "make it readable on every rank, or move it away",
            path, strerror(errno));
    return comm_agree(ok, err) && verify_together(path, depth, err);
}

bool checkpoint_find_latest(const char *run_dir, int64_t before, VerifyDepth depth,
                            char path[CHECKPOINT_PATH_BYTES], Error *err) {
    CheckpointList list = {0};
    char directory[CHECKPOINT_PATH_BYTES - CHECKPOINT_NAME_BYTES], name[CHECKPOINT_NAME_BYTES];
    bool found = false;
    path[0] = 0;
    bool ok =
        snprintf(directory, sizeof directory, "%s/checkpoints", run_dir) < (int)sizeof directory ||
        error_set(err, EXIT_IO, "path too long: %.60s...", run_dir);
    // Rank 0's list decides, so that all ranks try the same files.
    if (ok && comm_rank() == 0) ok = checkpoint_list_read(&list, directory, err);
    ok = comm_follow(ok, err);
    if (!ok) goto cleanup;
    broadcast(comm_world(), &list.count, sizeof list.count, 0);
    for (int64_t i = 0; ok && !found && i < list.count; i++) {
        int64_t step = comm_rank() == 0 ? list.steps[i] : 0;
        broadcast(comm_world(), &step, sizeof step, 0);
        if (step >= before) continue;
        Error damage = {0};
        checkpoint_name(step, name);
        snprintf(path, CHECKPOINT_PATH_BYTES, "%s/%s", directory, name);
        found = verify_listed(path, depth, &damage);
        if (found) continue;
        if (damage.exit_code != EXIT_CHECKPOINT) {
            *err = damage;
            ok = false;
            goto cleanup;
        }
        log_warn("checkpoint not usable: %s", damage.message);
    }
    if (!found && list.count > 0)
        ok = error_set(err, EXIT_CHECKPOINT,
                       "none of the %lld checkpoints in %s is usable; to start anew move that "
                       "directory away",
                       (long long)list.count, directory);
cleanup:
    if (!found) path[0] = 0;
    checkpoint_list_free(&list);
    return ok;
}
