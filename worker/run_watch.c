#include "worker/run_watch.h"

#include <stdio.h>
#include <sys/stat.h>

#include "checkpoint/file_io.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/run_dir.h"
#include "worker/run_lock.h"
#include "worker/train_config.h"

typedef struct Found {
    struct stat folder, lock;
    bool has_folder, has_lock, has_config, has_checkpoints;
} Found;

static bool look_at(const char *run_dir, const char *name, struct stat *info) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s%s", run_dir, name);
    return stat(path, info) == 0;
}

static Found look(const char *run_dir) {
    Found found = {0};
    struct stat ignored;
    found.has_folder = look_at(run_dir, "", &found.folder);
    found.has_lock = look_at(run_dir, "/lock", &found.lock);
    found.has_config = look_at(run_dir, "/config.yaml", &ignored);
    found.has_checkpoints = look_at(run_dir, "/checkpoints", &ignored);
    return found;
}

void run_watch_begin(RunWatch *watch, const char *run_dir) {
    Found found = look(run_dir);
    *watch = (RunWatch){
        .device = found.folder.st_dev, .folder = found.folder.st_ino, .lock = found.lock.st_ino};
}

static bool make_anew(const char *run_dir, const char *config_yaml, bool lock, Error *err) {
    char checkpoints[CONFIG_PATH_BYTES + 32];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", run_dir);
    if (lock) run_lock_release();
    return run_dir_open(run_dir, err) && (!lock || run_lock_take(run_dir, comm_size(), err)) &&
           run_dir_write_config(run_dir, config_yaml, err) && directory_make(checkpoints, err);
}

bool run_watch_look(RunWatch *watch, const char *run_dir, const char *config_yaml, Error *err) {
    Found found = look(run_dir);
    bool same_folder = found.has_folder && found.folder.st_dev == watch->device &&
                       found.folder.st_ino == watch->folder;
    bool same_lock = same_folder && found.has_lock && found.lock.st_ino == watch->lock;
    if (same_lock && found.has_checkpoints && (found.has_config || !watch->config)) return true;
    if (!watch->lost)
        log_warn("run.dir %s: %s removed or moved away while the run is alive; %s", run_dir,
                 !same_folder             ? "the folder was"
                 : !found.has_checkpoints ? "checkpoints/ was"
                 : !same_lock             ? "lock was"
                                          : "config.yaml was",
                 found.has_checkpoints && same_folder
                     ? "it is made anew"
                     : "it is made anew, without the checkpoints that were in it");
    bool ok = make_anew(run_dir, config_yaml, !same_lock, err);
    if (ok) {
        run_watch_begin(watch, run_dir);
    } else if (!watch->lost) {
        watch->lost = true;
        log_warn("%s; rows of metrics are lost until this is mended", err->message);
    }
    return ok;
}
