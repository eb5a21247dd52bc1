#include "worker/checkpoint_tools.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint_file.h"
#include "checkpoint/checkpoint_list.h"
#include "checkpoint/config_difference.h"
#include "checkpoint/file_io.h"
#include "worker/npz_file.h"

static bool is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

// The folder with the checkpoints of a run's folder, or itself.
static bool folder_of(const char *path, char folder[CHECKPOINT_PATH_BYTES], CheckpointList *list,
                      Error *err) {
    int length = (int)strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length + 16 > CHECKPOINT_PATH_BYTES)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    if (!is_folder(path)) { // the reader of a file says why it is none
        CheckpointFile file;
        if (!checkpoint_file_open(&file, path, err)) return false;
        checkpoint_file_close(&file);
        return error_set(err, EXIT_CHECKPOINT, "%s: is a checkpoint; name its run's folder", path);
    }
    snprintf(folder, CHECKPOINT_PATH_BYTES, "%.*s/checkpoints", length, path);
    if (!is_folder(folder)) folder[length] = 0;
    if (!checkpoint_list_read(list, folder, err)) return false;
    return list->count > 0 ||
           error_set(err, EXIT_CHECKPOINT, "%s: is a folder without checkpoints", path);
}

static void path_in(const char *folder, int64_t step, char path[CHECKPOINT_PATH_BYTES + 40]) {
    char name[CHECKPOINT_NAME_BYTES];
    checkpoint_name(step, name);
    snprintf(path, CHECKPOINT_PATH_BYTES + 40, "%s/%s", folder, name);
}

// ---- verify -------------------------------------------------------------------------------------

static bool verify_one(const char *path, Error *err) {
    char digest[40];
    TrainState state;
    if (!checkpoint_digest(path, digest, err) || !checkpoint_read_state(path, &state, err))
        return false;
    printf("%s: step %lld holds, digest %s\n", path, (long long)state.step, digest);
    return true;
}

int checkpoint_tool_verify(const char *path, Error *err) {
    if (!is_folder(path)) return verify_one(path, err) ? EXIT_DONE : err->exit_code;
    char folder[CHECKPOINT_PATH_BYTES], file[CHECKPOINT_PATH_BYTES + 40];
    CheckpointList list = {0};
    int64_t wrong = 0;
    int exit_code = EXIT_DONE;
    if (!folder_of(path, folder, &list, err)) return err->exit_code;
    for (int64_t i = 0; i < list.count; i++) {
        Error cause = {0};
        path_in(folder, list.steps[i], file);
        if (verify_one(file, &cause)) continue;
        printf("%s\n", cause.message);
        wrong++;
        if (cause.exit_code > exit_code) exit_code = cause.exit_code;
    }
    if (wrong > 0)
        error_set(err, (ExitCode)exit_code, "%lld of the %lld checkpoints in %s %s",
                  (long long)wrong, (long long)list.count, folder,
                  exit_code == EXIT_IO ? "cannot be read or are damaged" : "are damaged");
    checkpoint_list_free(&list);
    return exit_code;
}

// ---- diff ---------------------------------------------------------------------------------------

typedef struct Difference {
    int64_t elements; // that differ
    double most;      // by; only of floats
} Difference;

static void compare_block(const Dataset *dataset, const char *a, const char *b, int64_t bytes,
                          Difference *difference) {
    int64_t width = (int64_t)dtype_bytes(dataset->dtype);
    for (int64_t at = 0; at < bytes; at += width) {
        if (memcmp(a + at, b + at, (size_t)width) == 0) continue;
        difference->elements++;
        float x, y;
        if (dataset->dtype != F32) continue;
        memcpy(&x, a + at, sizeof x);
        memcpy(&y, b + at, sizeof y);
        double by = fabs((double)x - (double)y);
        if (!(by <= difference->most)) difference->most = by; // NaN as well
    }
}

// A whole number of the state.
static bool read_number(CheckpointFile *file, const Dataset *dataset, int64_t *value, Error *err) {
    return checkpoint_file_read(file, dataset, 0, sizeof *value, value, err);
}

// The two that are compared.
typedef struct Pair {
    CheckpointFile a, b;
    char *block; // of b, as a is cut
} Pair;

// Whether one dataset of both is the same; says how it differs.
static bool compare_dataset(Pair *pair, const Dataset *here, const Dataset *there, bool *same,
                            Error *err) {
    CheckpointFile *a = &pair->a, *b = &pair->b;
    if (here->dtype != there->dtype || memcmp(here->shape, there->shape, sizeof here->shape) != 0) {
        printf("%s: %s (%lld, %lld, %lld) -> %s (%lld, %lld, %lld)\n", here->name,
               dtype_name(here->dtype), (long long)here->shape[0], (long long)here->shape[1],
               (long long)here->shape[2], dtype_name(there->dtype), (long long)there->shape[0],
               (long long)there->shape[1], (long long)there->shape[2]);
        *same = false;
        return true;
    }
    if (here->dtype == I64 && here->bytes == sizeof(int64_t)) {
        int64_t x, y;
        if (!read_number(a, here, &x, err) || !read_number(b, there, &y, err)) return false;
        *same = x == y;
        if (x != y) printf("%s: %lld -> %lld\n", here->name, (long long)x, (long long)y);
        return true;
    }
    Difference difference = {0};
    for (int64_t block = 0; block < here->blocks; block++) {
        Span span = dataset_block(here, block);
        if (!checkpoint_file_read_block(a, here, block, err)) return false;
        if (!checkpoint_file_read(b, there, span.begin, span.bytes, pair->block, err)) return false;
        compare_block(here, a->block, pair->block, span.bytes, &difference);
    }
    *same = difference.elements == 0;
    if (*same) return true;
    printf("%s: %lld of %lld elements differ", here->name, (long long)difference.elements,
           (long long)(here->bytes / (int64_t)dtype_bytes(here->dtype)));
    if (here->dtype == F32) printf(", by %.3g at most", difference.most);
    putchar('\n');
    return true;
}

static bool compare_files(Pair *pair, bool *same, Error *err) {
    const Manifest *first = &pair->a.manifest, *second = &pair->b.manifest;
    for (int64_t i = 0; i < first->count; i++) {
        const Dataset *here = &first->datasets[i];
        const Dataset *there = manifest_find(second, here->name);
        bool equal = there;
        if (!checkpoint_in_digest(here->name)) continue;
        if (!there) printf("%s: only in the first\n", here->name);
        if (there && !compare_dataset(pair, here, there, &equal, err)) return false;
        *same = *same && equal;
    }
    for (int64_t i = 0; i < second->count; i++) {
        const char *name = second->datasets[i].name;
        if (!checkpoint_in_digest(name) || manifest_find(first, name)) continue;
        printf("%s: only in the second\n", name);
        *same = false;
    }
    return true;
}

static bool print_changed_keys(const char *path, const char *other, Error *err) {
    char *yaml = NULL, *other_yaml = NULL, keys[4096];
    bool ok =
        checkpoint_read_config(path, &yaml, err) && checkpoint_read_config(other, &other_yaml, err);
    if (ok) config_difference(yaml, other_yaml, keys, sizeof keys);
    if (ok && keys[0]) printf("configuration: %s\n", keys);
    free(yaml);
    free(other_yaml);
    return ok;
}

int checkpoint_tool_diff(const char *path, const char *other, Error *err) {
    Pair pair = {.block = malloc(BLOCK_BYTES)};
    bool same = true, ok = print_changed_keys(path, other, err);
    CHECK_MEMORY(pair.block, "no memory for a block of %d bytes", BLOCK_BYTES);
    ok = ok && checkpoint_file_open(&pair.a, path, err);
    if (ok) {
        ok = checkpoint_file_open(&pair.b, other, err);
        if (ok) {
            ok = compare_files(&pair, &same, err) || error_prefix(err, "%s, %s", path, other);
            checkpoint_file_close(&pair.b);
        }
        checkpoint_file_close(&pair.a);
    }
    free(pair.block);
    if (!ok) return err->exit_code;
    if (same) printf("nothing differs that was computed\n");
    return same ? EXIT_DONE : EXIT_DIFFERENT;
}

// ---- export-npz ---------------------------------------------------------------------------------

static bool is_exported(const char *name) {
    return strncmp(name, "parameters/", 11) == 0 || strncmp(name, "ema/", 4) == 0 ||
           strncmp(name, "data/", 5) == 0;
}

static bool export_dataset(CheckpointFile *file, NpzFile *npz, const Dataset *dataset, Error *err) {
    if (!npz_begin(npz, dataset->name, dataset->dtype, dataset->rank, dataset->shape, err))
        return false;
    for (int64_t block = 0; block < dataset->blocks; block++) {
        size_t bytes = (size_t)dataset_block(dataset, block).bytes;
        if (!checkpoint_file_read_block(file, dataset, block, err)) return false;
        if (!npz_add(npz, file->block, bytes, err)) return false;
    }
    return npz_end(npz, err);
}

// Before anything is written.
static bool check_room(const CheckpointFile *file, const char *npz, Error *err) {
    char folder[CHECKPOINT_PATH_BYTES];
    const char *slash = strrchr(npz, '/');
    int64_t bytes = 1 << 20;
    for (int64_t i = 0; i < file->manifest.count; i++)
        if (is_exported(file->manifest.datasets[i].name)) bytes += file->manifest.datasets[i].bytes;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - npz) + 1 : 1, slash ? npz : ".");
    return directory_check_room(folder, bytes, err) && file_check_limit(bytes, err);
}

int checkpoint_tool_export_npz(const char *path, const char *npz, Error *err) {
    CheckpointFile file;
    NpzFile *out = NULL;
    if (!checkpoint_file_open(&file, path, err)) return err->exit_code;
    bool ok = file_check_place(npz, err) && check_room(&file, npz, err) && npz_open(&out, npz, err);
    if (ok) {
        for (int64_t i = 0; ok && i < file.manifest.count; i++)
            if (is_exported(file.manifest.datasets[i].name))
                ok = export_dataset(&file, out, &file.manifest.datasets[i], err);
        ok = npz_close(out, ok, err);
    }
    checkpoint_file_close(&file);
    return ok ? EXIT_DONE : err->exit_code;
}

// ---- prune --------------------------------------------------------------------------------------

int checkpoint_tool_prune(const char *path, CheckpointKeep keep, Error *err) {
    char folder[CHECKPOINT_PATH_BYTES], file[CHECKPOINT_PATH_BYTES + 40];
    CheckpointList list = {0}, left = {0};
    if (!folder_of(path, folder, &list, err)) return err->exit_code;
    int64_t newest = 0;
    bool holds = false;
    for (int64_t i = 0; i < list.count && !holds; i++) {
        Error cause = {0};
        path_in(folder, newest = list.steps[i], file);
        holds = verify_one(file, &cause);
        if (!holds) printf("%s\n", cause.message);
        if (!holds && cause.exit_code != EXIT_CHECKPOINT) { // it may be the good one
            *err = cause;
            break;
        }
    }
    if (holds) {
        int64_t stay = checkpoint_list_prune(folder, newest, keep);
        checkpoint_list_wait_freed();
        if (checkpoint_list_read(&left, folder, err))
            printf("%lld of %lld checkpoints removed, %lld are left\n",
                   (long long)(list.count - left.count), (long long)list.count,
                   (long long)left.count);
        checkpoint_list_free(&left);
        if (stay > 0 && err->exit_code == 0)
            error_set(err, EXIT_IO, "%s: %lld checkpoints that were to be removed stay", folder,
                      (long long)stay);
    } else if (err->exit_code == 0) {
        error_set(err, EXIT_CHECKPOINT, "%s: none of the %lld checkpoints holds; none is removed",
                  folder, (long long)list.count);
    }
    checkpoint_list_free(&list);
    return err->exit_code;
}
