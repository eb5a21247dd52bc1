// `moetrain data info FILE`. Not collective.
#ifndef MOETRAIN_LAUNCHER_DATA_COMMAND_H
#define MOETRAIN_LAUNCHER_DATA_COMMAND_H

#include "launcher/cli.h"

// Whether the words of the line are a command. False with exit 2.
bool data_command_check(const CommandLine *line, Error *err);
// Returns the exit code.
int data_command_run(const CommandLine *line, Error *err);

#endif
