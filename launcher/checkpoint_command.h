// `moetrain checkpoint verify|diff|export-npz|prune …`: the second word of the line and the rest.
#ifndef MOETRAIN_LAUNCHER_CHECKPOINT_COMMAND_H
#define MOETRAIN_LAUNCHER_CHECKPOINT_COMMAND_H

#include "launcher/cli.h"

// Whether the line has what its second word needs; exit 2 with the fix. Not collective.
bool checkpoint_command_check(const CommandLine *line, Error *err);
// Does it. Returns the exit code. Not collective.
int checkpoint_command_run(const CommandLine *line, Error *err);

#endif
