#include "checkpoint/checkpoint_list.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/log.h"

static const char TEMPORARY_SUFFIX[] = ".tmp";

void checkpoint_name(int64_t step, char name[CHECKPOINT_NAME_BYTES]) {
    snprintf(name, CHECKPOINT_NAME_BYTES, "step-%08lld.h5", (long long)step);
}

// True for the name of a checkpoint + suffix, with the step as checkpoint_name writes it.
static bool name_parse(const char *name, const char *suffix, int64_t *step) {
    char again[CHECKPOINT_NAME_BYTES], *end;
    if (strncmp(name, "step-", 5) != 0) return false;
    errno = 0;
    *step = strtoll(name + 5, &end, 10);
    if (errno != 0 || *step < 0) return false;
    checkpoint_name(*step, again);
    size_t length = strlen(again);
    return strncmp(name, again, length) == 0 && strcmp(name + length, suffix) == 0;
}

int64_t checkpoint_step(const char *path) {
    const char *slash = strrchr(path, '/');
    int64_t step;
    return name_parse(slash ? slash + 1 : path, "", &step) ? step : -1;
}

static int compare_newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

bool checkpoint_list_read(CheckpointList *list, const char *directory, Error *err) {
    *list = (CheckpointList){0};
    DIR *stream = opendir(directory);
    if (!stream)
        return errno == ENOENT || error_set(err, EXIT_IO, "cannot read the directory %s: %s",
                                            directory, strerror(errno));
    int64_t step, capacity = 0;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(stream)); errno = 0) {
        if (!name_parse(entry->d_name, "", &step)) continue;
        if (list->count == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            list->steps = realloc(list->steps, (size_t)capacity * sizeof *list->steps);
            CHECK_MEMORY(list->steps, "no memory for %lld file names", (long long)capacity);
        }
        list->steps[list->count++] = step;
    }
    int cause = errno;
    closedir(stream);
    if (cause != 0) {
        checkpoint_list_free(list);
        return error_set(err, EXIT_IO, "cannot read the directory %s: %s", directory,
                         strerror(cause));
    }
    if (list->count > 0)
        qsort(list->steps, (size_t)list->count, sizeof *list->steps, compare_newest_first);
    return true;
}

void checkpoint_list_free(CheckpointList *list) {
    free(list->steps);
    *list = (CheckpointList){0};
}

// ---- removal ------------------------------------------------------------------------------------

enum { MOST_OPEN = 64 };

// A file without a name stays until it is closed: here, by a thread.
typedef struct Removed {
    int files[MOST_OPEN];
    int count;
} Removed;

static pthread_t freeing;
static bool is_freeing;

static void *close_all(void *taken) {
    Removed *removed = taken;
    for (int i = 0; i < removed->count; i++) close(removed->files[i]);
    free(removed);
    return NULL;
}

static void free_behind(const Removed *removed) {
    if (removed->count == 0) return;
    Removed *taken = malloc(sizeof *taken);
    CHECK_MEMORY(taken, "no memory for %d removed files", removed->count);
    *taken = *removed;
    is_freeing = pthread_create(&freeing, NULL, close_all, taken) == 0;
    if (!is_freeing) close_all(taken);
}

void checkpoint_list_wait_freed(void) {
    if (is_freeing) pthread_join(freeing, NULL);
    is_freeing = false;
}

static bool remove_file(const char *directory, const char *name) {
    char path[PATH_MAX];
    Error err;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    bool ok = file_remove(path, &err);
    if (!ok) log_warn("%s", err.message);
    return ok;
}

// Keeps it open, if that can be.
static bool remove_name(Removed *removed, const char *directory, const char *name) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    int fd = -1;
    Error ignored;
    if (removed->count < MOST_OPEN) fd = file_open(path, O_RDONLY | O_NONBLOCK, &ignored);
    bool ok = remove_file(directory, name);
    if (fd >= 0) removed->files[removed->count++] = fd;
    return ok;
}

void checkpoint_list_remove_temporary(const char *directory) {
    DIR *stream = opendir(directory);
    if (!stream) return;
    int64_t step;
    for (struct dirent *entry; (entry = readdir(stream));)
        if (name_parse(entry->d_name, TEMPORARY_SUFFIX, &step))
            remove_file(directory, entry->d_name);
    closedir(stream);
}

// Whether a checkpoint may be thrown away on account of newer ones alone. A damaged one is no loss;
// one that cannot be read now may be the good one.
typedef enum Health { SICK, HEALTHY, UNKNOWN } Health;

static Health health_of(const char *directory, int64_t step) {
    char path[PATH_MAX], name[CHECKPOINT_NAME_BYTES];
    TrainState state;
    Error err = {0};
    checkpoint_name(step, name);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    if (checkpoint_read_state(path, &state, &err)) return state.run.healthy ? HEALTHY : SICK;
    return err.exit_code == EXIT_CHECKPOINT ? SICK : UNKNOWN;
}

int64_t checkpoint_list_prune(const char *directory, int64_t step, CheckpointKeep keep) {
    CheckpointList list;
    Error err = {0};
    Removed removed = {0};
    if (keep.last <= 0) return 0;
    if (!checkpoint_list_read(&list, directory, &err)) {
        log_warn("old checkpoints are not removed: %s", err.message);
        return 0;
    }
    int64_t kept = 0, stay = 0;
    bool healthy_kept = false;
    for (int64_t i = 0; i < list.count; i++) {
        if (list.steps[i] > step) continue;
        // Asked only until a healthy one is found: usually once, of the newest.
        Health health = healthy_kept ? SICK : health_of(directory, list.steps[i]);
        bool spared = kept++ < keep.last || health != SICK ||
                      (keep.every > 0 && list.steps[i] % keep.every == 0) ||
                      (keep.from > 0 && list.steps[i] >= keep.from);
        if (health == HEALTHY) healthy_kept = true;
        if (spared) continue;
        char name[CHECKPOINT_NAME_BYTES];
        checkpoint_name(list.steps[i], name);
        if (!remove_name(&removed, directory, name)) stay++;
    }
    checkpoint_list_free(&list);
    checkpoint_list_wait_freed();
    free_behind(&removed);
    return stay;
}
