// Which checkpoint a run goes on from: the newest of its folder that holds (checkpoint.h).
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "checkpoint/verify.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

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
