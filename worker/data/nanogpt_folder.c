// A folder as nanoGPT prepares it: train.bin and val.bin, uint16 without a header, perhaps with a
// meta.pkl. That is a pickle, which runs what code it likes when it is read, and is never read: the
// vocabulary is given as data.vocab_size. Source: karpathy/nanoGPT, data/*/prepare.py.
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "worker/data/data_content.h"

static bool path_of(const DataPlace *place, const char *name, char path[CONFIG_PATH_BYTES]) {
    return snprintf(path, CONFIG_PATH_BYTES, "%s/%s", place->path, name) < CONFIG_PATH_BYTES;
}

static bool has(const DataPlace *place, const char *name) {
    char path[CONFIG_PATH_BYTES];
    struct stat status;
    return path_of(place, name, path) && stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

static bool recognise(const DataPlace *place) {
    struct stat status;
    return stat(place->path, &status) == 0 && S_ISDIR(status.st_mode) &&
           (has(place, "train.bin") || has(place, "val.bin"));
}

static bool open_folder(DataContent *content, const DataPlace *place, Error *err) {
    char path[CONFIG_PATH_BYTES];
    const char *name = place->rules->part == PART_VALIDATION ? "val.bin" : "train.bin";
    if (!path_of(place, name, path))
        return error_set(err, EXIT_DATA, "%.400s: the path is too long", place->path);
    ContentRules rules = *place->rules;
    rules.bytes_without_header = 2;
    return data_content_open(content, path, &rules, err);
}

const FileFormat NANOGPT_FOLDER = {
    .name = "a folder of nanoGPT",
    .kind = CONTENT_NUMBERS,
    .recognise = recognise,
    .open = open_folder,
    .by_path = true,
    .fix = "set data.vocab_size, which a meta.pkl in it may have: that is never read, since "
           "unpickling runs code, but where you trust it python3 -c \"import pickle; "
           "print(pickle.load(open('FOLDER/meta.pkl', 'rb'))['vocab_size'])\" prints it",
};
