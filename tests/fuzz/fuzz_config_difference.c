// Any bytes as the two configurations that a resume compares: the one in a checkpoint, which a file
// brings along, and the present one. A NUL divides them. Whatever differs is named, in the room
// there is; a text does not differ from itself.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/config_difference.h"
#include "seeds.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach(
        (const char *const[]){"function", "course", "free", "a cause", "an allowed change", NULL});
}

static void require(bool condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    static const KeyRule rules[] = {
        {.key = "moe.top_k", .kind = KIND_FUNCTION, .initial = "2"},
        {.key = "train.lr", .kind = KIND_COURSE, .initial = "0.001"},
        {.key = "train.min_lr", .kind = KIND_COURSE, .derived = "a tenth of train.lr"},
        {.key = "run.dir", .kind = KIND_FREE, .initial = ""},
        {.key = NULL},
    };
    char *saved = calloc(size + 2, 1);
    require(saved != NULL);
    memcpy(saved, input, size);
    const char *current = saved + strlen(saved) + 1;
    size_t room = 1 + size % 300;
    char *out = malloc(room);
    require(out != NULL);
    config_difference(saved, current, out, room);
    require(strlen(out) < room);
    config_difference(saved, saved, out, room);

    ConfigChanges changes;
    config_changes_find(&changes, saved, current, rules);
    require(changes.count >= 0 && changes.count <= 4);
    for (int i = 0; i < changes.count; i++) {
        require(changes.list[i].saved && changes.list[i].current && changes.list[i].rule->key);
        require(changes.list[i].cause >= -1 && changes.list[i].cause < changes.count);
        reached(key_kind_name(changes.list[i].rule->kind));
        if (changes.list[i].cause >= 0) reached("a cause");
        if (config_change_allowed(&changes, i, saved)) reached("an allowed change");
    }
    config_changes_free(&changes);
    config_changes_find(&changes, saved, saved, rules);
    require(changes.count == 0);
    config_changes_free(&changes);
    free(out);
    free(saved);
    return 0;
}
