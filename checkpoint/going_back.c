#include "checkpoint/going_back.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "checkpoint/file_io.h"
#include "kernels/log.h"

static const char MOVING[] = ".moving";

// "abandoned-ID-whole", or "abandoned-ID-from-step-00000020", the first step that is given up being
// the one after; "-2", "-3" where such a folder exists.
static void name_folder(char name[NAME_MAX], const char *run, int64_t step, int number) {
    char part[48] = "whole", again[16] = "";
    if (step != GOING_BACK_WHOLE) snprintf(part, sizeof part, "from-step-%08lld", (long long)step);
    if (number > 1) snprintf(again, sizeof again, "-%d", number);
    snprintf(name, NAME_MAX, "abandoned-%.8s-%s%s", run[0] ? run : "unknown", part, again);
}

// The step of a folder name that ends in ".moving"; false for any other name.
static bool parse_folder(const char *name, int64_t *step) {
    size_t length = strlen(name), suffix = sizeof MOVING - 1;
    if (strncmp(name, "abandoned-", 10) != 0 || length <= suffix ||
        strcmp(name + length - suffix, MOVING) != 0)
        return false;
    const char *from = strstr(name, "-from-step-");
    *step = from ? strtoll(from + 11, NULL, 10) : GOING_BACK_WHOLE;
    return true;
}

static bool join(char path[PATH_MAX], const char *folder, const char *name, Error *err) {
    return snprintf(path, PATH_MAX, "%s/%s", folder, name) < PATH_MAX ||
           error_set(err, EXIT_IO, "path too long: %.60s...", folder);
}

// Under a temporary name until it is whole. A file that does not exist is no error.
static bool copy_file(const char *from, const char *to, Error *err) {
    char temporary[PATH_MAX + 8], chunk[65536];
    Error ignored, cause = {0};
    snprintf(temporary, sizeof temporary, "%s.tmp", to);
    int in = file_open_to_read(from, &cause);
    if (in < 0 && errno == ENOENT) return true;
    *err = cause;
    if (in < 0) return false;
    file_remove(temporary, &ignored); // of a crash
    int out = file_open(temporary, O_WRONLY | O_CREAT, err);
    bool ok = out >= 0;
    for (int64_t offset = 0; ok;) {
        int64_t got = file_read_some(in, chunk, sizeof chunk, offset, err);
        if (got < 0) ok = error_prefix(err, "%s", from);
        if (got <= 0) break;
        ok = file_write_at(out, chunk, (size_t)got, offset, err) ||
             error_prefix(err, "%s", temporary);
        offset += got;
    }
    ok = ok && (file_sync(out, err) || error_prefix(err, "%s", temporary));
    close(in);
    if (out >= 0) close(out);
    return ok && file_rename(temporary, to, err);
}

// Steps 2 to 4; any of it may have been done before.
static bool finish(const char *run_dir, const char *folder, int64_t step, Error *err) {
    char checkpoints[PATH_MAX], moving[PATH_MAX], final[PATH_MAX], metrics[PATH_MAX],
        from[PATH_MAX], to[PATH_MAX];
    CheckpointList list;
    if (!join(checkpoints, run_dir, "checkpoints", err) ||
        !join(moving, checkpoints, folder, err) || !join(metrics, run_dir, "metrics.jsonl", err) ||
        !checkpoint_list_read(&list, checkpoints, err))
        return false;
    snprintf(final, sizeof final, "%.*s", (int)(strlen(moving) - (sizeof MOVING - 1)), moving);
    bool ok = true;
    int64_t moved = 0;
    for (int64_t i = 0; ok && i < list.count; i++) {
        char name[CHECKPOINT_NAME_BYTES];
        if (list.steps[i] <= step) continue;
        checkpoint_name(list.steps[i], name);
        ok = join(from, checkpoints, name, err) && join(to, moving, name, err) &&
             file_rename(from, to, err);
        moved++;
    }
    checkpoint_list_free(&list);
    ok = ok && join(to, moving, "metrics.jsonl", err);
    if (ok && step == GOING_BACK_WHOLE)
        ok = access(metrics, F_OK) != 0 || file_rename(metrics, to, err);
    else if (ok && access(to, F_OK) != 0)
        ok = copy_file(metrics, to, err);
    ok = ok && directory_sync(moving, err) && file_rename(moving, final, err) &&
         directory_sync(checkpoints, err);
    if (ok)
        log_info(
            "going back: what came later is now in %s, checkpoints (%lld) and metrics.jsonl as "
            "it was; nothing was removed",
            final, (long long)moved);
    return ok;
}

bool going_back_to(const char *run_dir, const char *run, int64_t step, Error *err) {
    char checkpoints[PATH_MAX], name[NAME_MAX], path[PATH_MAX], moving[PATH_MAX];
    CheckpointList list;
    if (!join(checkpoints, run_dir, "checkpoints", err) ||
        !checkpoint_list_read(&list, checkpoints, err))
        return false;
    bool nothing = list.count == 0 || list.steps[0] <= step;
    checkpoint_list_free(&list);
    if (nothing) return true;
    int number = 1;
    do { // the first name that is free
        name_folder(name, run, step, number);
        if (!join(path, checkpoints, name, err)) return false;
    } while (access(path, F_OK) == 0 && number++ < 10000);
    strncat(name, MOVING, sizeof name - strlen(name) - 1);
    if (!join(moving, checkpoints, name, err)) return false;
    return directory_make_new(moving, err) && directory_sync(checkpoints, err) &&
           finish(run_dir, name, step, err);
}

bool going_back_finish(const char *run_dir, Error *err) {
    char checkpoints[PATH_MAX], name[NAME_MAX + 1];
    if (!join(checkpoints, run_dir, "checkpoints", err)) return false;
    for (;;) { // one at a time: finishing changes the folder that is being read
        DIR *stream = opendir(checkpoints);
        if (!stream)
            return errno == ENOENT || error_set(err, EXIT_IO, "cannot read the directory %s: %s",
                                                checkpoints, strerror(errno));
        int64_t step = 0;
        bool found = false;
        for (struct dirent *entry; !found && (entry = readdir(stream));) {
            found = parse_folder(entry->d_name, &step);
            snprintf(name, sizeof name, "%s", entry->d_name);
        }
        closedir(stream);
        if (!found) return true;
        if (!finish(run_dir, name, step, err)) return false;
    }
}
