#include "seeds.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACES = 32, INPUT_BYTES = 1 << 16 };

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static const char *seen[PLACES];
static bool looked; // it costs the inputs that follow nothing

static int find(const char *place) {
    int i = 0;
    while (i < PLACES && seen[i] && strcmp(seen[i], place) != 0) i++;
    return i;
}

void reached(const char *place) {
    if (looked) return;
    int i = find(place);
    if (i < PLACES) seen[i] = place;
}

static void run(const char *name) {
    static uint8_t input[INPUT_BYTES];
    char path[512];
    snprintf(path, sizeof path, "%s/%s", SEEDS, name);
    FILE *file = fopen(path, "rb");
    size_t bytes = file ? fread(input, 1, sizeof input, file) : 0;
    if (file) fclose(file);
    uint8_t *copy = malloc(bytes ? bytes : 1); // so that one byte too far is seen
    if (!copy) abort();
    memcpy(copy, input, bytes);
    LLVMFuzzerTestOneInput(copy, bytes);
    free(copy);
}

void write_input(const char *path, const void *bytes, size_t count) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (file < 0 || write(file, bytes, count) != (ssize_t)count || close(file) != 0) {
        perror(path);
        abort();
    }
}

int seeds_must_reach(const char *const places[]) {
    DIR *folder = opendir(SEEDS);
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        if (entry->d_name[0] != '.') run(entry->d_name);
    if (folder) closedir(folder);
    looked = true;
    for (int i = 0; places[i]; i++) {
        int at = find(places[i]);
        if (at < PLACES && seen[at]) continue;
        fprintf(stderr, "no seed in %s reaches this: %s\n", SEEDS, places[i]);
        abort();
    }
    return 0;
}
