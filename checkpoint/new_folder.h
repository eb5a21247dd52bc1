// A folder that is made whole or not at all: under a temporary name beside its own, which it gets
// once every file in it is on the disk. Not collective.
#ifndef MOETRAIN_CHECKPOINT_NEW_FOLDER_H
#define MOETRAIN_CHECKPOINT_NEW_FOLDER_H

#include <stdint.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/temporary_name.h"

typedef struct NewFolder {
    char temporary[CHECKPOINT_PATH_BYTES + TEMPORARY_NAME_BYTES]; // where its files are made
    char path[CHECKPOINT_PATH_BYTES], parent[CHECKPOINT_PATH_BYTES];
} NewFolder;

// Decides the names. False with exit 5 when there is something of that name, or another process of
// this host is making it.
bool new_folder_name(NewFolder *folder, const char *path, Error *err);
// Makes it, with its parents, where there is room for so many bytes.
bool new_folder_make(const NewFolder *folder, int64_t bytes, Error *err);
// A file in it of these bytes.
bool new_folder_add(const NewFolder *folder, const char *name, const void *data, size_t bytes,
                    Error *err);
bool new_folder_publish(const NewFolder *folder, Error *err);
void new_folder_remove(const NewFolder *folder); // instead

#endif
