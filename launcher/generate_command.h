// The options of `moetrain generate`.
#ifndef MOETRAIN_LAUNCHER_GENERATE_COMMAND_H
#define MOETRAIN_LAUNCHER_GENERATE_COMMAND_H

#include "worker/generation/generate.h"

// What they are without a word of the user's.
extern const GenerateOptions GENERATE_DEFAULTS;

// Takes one of them; `value` NULL where it has none. False when the value is not legal.
bool generate_take_option(GenerateOptions *options, const char *name, const char *value);
// Whether they make sense together. False with exit 2 and the fix. Not collective.
bool generate_options_check(const GenerateOptions *options, Error *err);

#endif
