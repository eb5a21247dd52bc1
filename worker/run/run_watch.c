#include "worker/run/run_watch.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/file_io.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/run/run_dir.h"
#include "worker/run/run_lock.h"
#include "worker/train_config.h"

typedef struct Found {
    struct stat folder, lock;
    bool has_folder, has_lock, has_config, has_checkpoints;
    int cause; // errno, when one of them is neither there nor gone: a server that does not answer
} Found;

static bool look_at(Found *found, const char *run_dir, const char *name, struct stat *info) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s%s", run_dir, name);
    bool there = stat(path, info) == 0;
    if (!there && errno != ENOENT && errno != ENOTDIR) found->cause = errno;
    return there;
}

static Found look(const char *run_dir) {
    Found found = {0};
    struct stat ignored;
    found.has_folder = look_at(&found, run_dir, "", &found.folder);
    found.has_lock = look_at(&found, run_dir, "/lock", &found.lock);
    found.has_config = look_at(&found, run_dir, "/config.yaml", &ignored);
    found.has_checkpoints = look_at(&found, run_dir, "/checkpoints", &ignored);
    return found;
}

void run_watch_begin(RunWatch *watch, const char *run_dir) {
    Found found = look(run_dir);
    *watch = (RunWatch){.device = found.folder.st_dev,
                        .folder = found.folder.st_ino,
                        .lock = found.lock.st_ino,
                        .config = found.has_config};
}

// Takes the lock of a folder that is not the one we had. Where another job has begun, this one has
// nothing left to write to.
static bool lock_anew(const char *run_dir, Error *err) {
    run_lock_release();
    if (run_lock_take(run_dir, "lock", comm_size(), err)) return true;
    if (err->exit_code == EXIT_LOCKED || err->exit_code == EXIT_REQUEUE)
        die((ExitCode)err->exit_code, __FILE__, __LINE__,
            "what this run had in run.dir was removed, and nothing more is written there: %s",
            err->message);
    return false;
}

static bool make_anew(const char *run_dir, const char *config_yaml, bool lock, Error *err) {
    char checkpoints[CONFIG_PATH_BYTES + 32];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", run_dir);
    return run_dir_open(run_dir, err) && (!lock || lock_anew(run_dir, err)) &&
           run_dir_write_config(run_dir, config_yaml, err) && directory_make(checkpoints, err);
}

static void warn_of_loss(const char *run_dir, const Found *found, bool same_folder,
                         bool same_lock) {
    const char *what = !same_folder              ? "the folder"
                       : !found->has_checkpoints ? "checkpoints/"
                       : !same_lock              ? "lock"
                                                 : "config.yaml";
    bool lost = !same_folder || !found->has_checkpoints;
    log_warn("run.dir %s: %s was removed or moved away while the run is alive; it is made anew%s",
             run_dir, what, lost ? ", without the checkpoints that were in it" : "");
}

bool run_watch_look(RunWatch *watch, const char *run_dir, const char *config_yaml, Error *err) {
    Found found = look(run_dir);
    bool same_folder = found.has_folder && found.folder.st_dev == watch->device &&
                       found.folder.st_ino == watch->folder;
    bool same_lock = same_folder && found.has_lock && found.lock.st_ino == watch->lock;
    bool ok = same_lock && found.has_checkpoints && (found.has_config || !watch->config);
    if (!ok && found.cause) {
        error_set(err, EXIT_IO, "run.dir %s cannot be looked at: %s", run_dir,
                  strerror(found.cause));
    } else if (!ok) {
        if (!watch->lost) warn_of_loss(run_dir, &found, same_folder, same_lock);
        ok = make_anew(run_dir, config_yaml, !same_lock, err);
        if (ok) run_watch_begin(watch, run_dir);
    }
    if (!ok && !watch->lost)
        log_warn("%s; rows of metrics are lost until this is mended", err->message);
    watch->lost = !ok;
    return ok;
}
