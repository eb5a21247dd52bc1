// Which keys differ between two configurations, for an error message.
#ifndef MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H
#define MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H

#include <stddef.h>

// Writes "moe.top_k 2 -> 4, model.layers 6 -> 8" to out, empty when nothing differs; the end is
// dropped when it does not fit. Both texts are of the form that --print-config gives: "section:"
// lines and indented "key: value" lines. Not collective.
void config_difference(const char *saved, const char *current, char *out, size_t out_bytes);

#endif
