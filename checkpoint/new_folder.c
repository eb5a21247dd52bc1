#include "checkpoint/new_folder.h"

#include <dirent.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

// Behind a folder's name while it is made; one that a crash has left is removed.
static const char UNFINISHED[] = ".moetrain-tmp";
enum { FILE_PATH_BYTES = CHECKPOINT_PATH_BYTES + 320 };

bool new_folder_name(NewFolder *folder, const char *path, Error *err) {
    char name[CHECKPOINT_PATH_BYTES];
    int length = (int)strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0 || length >= CHECKPOINT_PATH_BYTES)
        return error_set(err, EXIT_IO, "path too long: %.60s...", path);
    snprintf(name, sizeof name, "%.*s", length, path);
    snprintf(folder->temporary, sizeof folder->temporary, "%s%s", name, UNFINISHED);
    if (access(name, F_OK) == 0)
        return error_set(err, EXIT_IO, "%s exists; remove it or choose another name", name);
    snprintf(folder->parent, sizeof folder->parent, "%s", dirname(name));
    return true;
}

// A folder of files and nothing else, with its files.
static bool remove_files(const char *path, Error *err) {
    DIR *folder = opendir(path);
    bool ok = true;
    if (!folder) return true;
    for (struct dirent *entry; ok && (entry = readdir(folder));) {
        char name[FILE_PATH_BYTES];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        ok = file_remove(name, err);
    }
    closedir(folder);
    return ok && directory_remove(path, err);
}

bool new_folder_make(const NewFolder *folder, int64_t bytes, Error *err) {
    return directory_make(folder->parent, err) && remove_files(folder->temporary, err) &&
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
    char path[CHECKPOINT_PATH_BYTES];
    snprintf(path, sizeof path, "%.*s", (int)strlen(folder->temporary) - (int)strlen(UNFINISHED),
             folder->temporary);
    return directory_sync(folder->temporary, err) && file_rename(folder->temporary, path, err) &&
           directory_sync(folder->parent, err);
}

void new_folder_remove(const NewFolder *folder) {
    Error ignored;
    remove_files(folder->temporary, &ignored);
}
