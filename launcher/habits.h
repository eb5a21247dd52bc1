// What people write out of habit from other programs, and what to write here instead. Only for
// messages: nothing of it is accepted. Not collective.
#ifndef MOETRAIN_LAUNCHER_HABITS_H
#define MOETRAIN_LAUNCHER_HABITS_H

#include "kernels/option.h"

// The key that a word of other programs means ("learning_rate", "n-head"), or NULL.
const char *habit_key(const char *word);

// For a word where the command stands ("eval", "run", "train"): the verb it means, "" for training,
// which has no verb of its own, or NULL.
const char *habit_verb(const char *word);

// Explains an option that no verb has: a key with dashes, -np and the like. `next` is the word
// after it, or NULL; `path` the configuration or checkpoint of the line, or NULL. True when it
// wrote the error (exit 2), false when it knows nothing.
bool habit_option(const char *word, const char *next, const char *path, Error *err);

// Explains a plain word that is not key=value: a key alone, "key: value", "key = value". True when
// it wrote the error (exit 2).
bool habit_word(const char *word, const char *next, Error *err);

// Whether a path is YAML's null, or begins with the home folder that only a shell knows.
bool path_is_habit(const char *text);
// What to write for a value that the key refuses: "; write 1000", or "" when nothing better is
// known.
void habit_value(const Option *key, const char *text, char advice[160]);

#endif
