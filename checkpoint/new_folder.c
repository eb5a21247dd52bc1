#include "checkpoint/new_folder.h"

#include <libgen.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/file_io.h"

enum { FILE_PATH_BYTES = CHECKPOINT_PATH_BYTES + TEMPORARY_NAME_BYTES + 320 };

bool new_folder_name(NewFolder *folder, const char *path, Error *err) {
    int length = (int)strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0 || length >= CHECKPOINT_PATH_BYTES)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    snprintf(folder->path, sizeof folder->path, "%.*s", length, path);
    char name[CHECKPOINT_PATH_BYTES];
    snprintf(name, sizeof name, "%s", folder->path);
    snprintf(folder->parent, sizeof folder->parent, "%s", dirname(name));
    return temporary_name_take(folder->temporary, sizeof folder->temporary, folder->path, err);
}

bool new_folder_make(const NewFolder *folder, int64_t bytes, Error *err) {
    return directory_make(folder->parent, err) && file_check_place(folder->path, err) &&
           directory_check_room(folder->parent, bytes, err) &&
           directory_make_new(folder->temporary, err);
}

bool new_folder_add(const NewFolder *folder, const char *name, const void *data, size_t bytes,
                    Error *err) {
    char path[FILE_PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s", folder->temporary, name);
    return file_make(path, data, bytes, err);
}

bool new_folder_publish(const NewFolder *folder, Error *err) {
    return directory_sync(folder->temporary, err) &&
           temporary_name_publish(folder->temporary, folder->path, err) &&
           directory_sync(folder->parent, err);
}

void new_folder_remove(const NewFolder *folder) {
    Error ignored;
    temporary_name_remove(folder->temporary, &ignored);
}
