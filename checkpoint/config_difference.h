// How two configurations differ, and what a difference means for a run that goes on from a
// checkpoint.
//
// Both texts are of the form that --print-config gives: one "key: value" a line. Nothing here is
// collective.
#ifndef MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H
#define MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H

#include "kernels/option.h"

// "free", "course", or "function" for both of the last, which are refused alike on resume.
const char *key_kind_name(KeyKind kind);

// Whether the words name the key: "attention.d_head" is not in "model.d_model / attention.heads".
bool words_name_key(const char *words, const char *key);

// What a comparison needs to know of one key.
typedef struct KeyRule {
    const char *key; // NULL ends an array of rules
    KeyKind kind;
    const char *initial; // the default; NULL: must be given, or is derived
    // how the present value was derived, naming the keys it follows from; NULL: it was not
    const char *derived;
} KeyRule;

// One key whose value differs.
typedef struct KeyChange {
    const KeyRule *rule;
    char *saved, *current; // as they stand in the texts
    int cause;             // the change that this one follows from; -1: somebody wrote it
} KeyChange;

typedef struct ConfigChanges {
    KeyChange *list; // in the order of the rules
    int count;
} ConfigChanges;

// Every key of the rules whose value differs. A key that the saved text lacks, because its program
// did not know it, counts as its default there, and not at all when it is derived. Free the result;
// it borrows the rules.
void config_changes_find(ConfigChanges *changes, const char *saved, const char *current,
                         const KeyRule *rules);
void config_changes_free(ConfigChanges *changes); // legal on a zeroed one
// Whether `allow`, names joined by commas, names the changed key or the function key that it
// follows from.
bool config_change_allowed(const ConfigChanges *changes, int index, const char *allow);

// Writes "moe.top_k 2 -> 4, model.layers 6 -> 8" to out, empty when nothing differs; what does not
// fit is left out.
void config_difference(const char *saved, const char *current, char *out, size_t out_bytes);

#endif
