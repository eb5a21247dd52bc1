// Which keys differ between two configurations, for an error message.
#ifndef MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H
#define MOETRAIN_CHECKPOINT_CONFIG_DIFFERENCE_H

#include <stddef.h>

// Writes "moe.top_k 2 -> 4, model.layers 6 -> 8" to out, empty when nothing differs; what does not
// fit is left out. Both texts are of the form that --print-config gives: one "key: value" a line.
// Not collective.
void config_difference(const char *saved, const char *current, char *out, size_t out_bytes);

#endif
