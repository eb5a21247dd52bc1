// "did you mean": the nearest of some known words.
#ifndef MOETRAIN_KERNELS_SUGGEST_H
#define MOETRAIN_KERNELS_SUGGEST_H

// Insertions, deletions and replacements that turn one word into the other (Levenshtein); words
// longer than 63 bytes are compared by their first 63.
int edit_distance(const char *a, const char *b);

// The candidate nearest to the word, or NULL when none is near enough to be meant. A word that
// equals the last part of a dotted candidate ("top_k" of "moe.top_k") is near. `candidates` ends
// with NULL. Not collective.
const char *suggest_word(const char *word, const char *const *candidates);

// The value in quotes for a message: one line, at most 60 bytes, other bytes than printable ASCII
// and UTF-8 as '?'.
void value_quote(const char *value, char quoted[80]);

#endif
