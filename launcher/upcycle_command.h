// `moetrain upcycle CHECKPOINT NEW.h5 moe.experts=N …`. Not collective.
#ifndef MOETRAIN_LAUNCHER_UPCYCLE_COMMAND_H
#define MOETRAIN_LAUNCHER_UPCYCLE_COMMAND_H

#include "launcher/cli.h"

// Whether the words of the line are a command. False with exit 2.
bool upcycle_command_check(const CommandLine *line, Error *err);
// Returns the exit code.
int upcycle_command_run(const CommandLine *line, Error *err);

#endif
