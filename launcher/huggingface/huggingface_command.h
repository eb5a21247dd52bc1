// `moetrain export hf CHECKPOINT FOLDER` and `moetrain import hf FOLDER CHECKPOINT`.
#ifndef MOETRAIN_LAUNCHER_HUGGINGFACE_HUGGINGFACE_COMMAND_H
#define MOETRAIN_LAUNCHER_HUGGINGFACE_HUGGINGFACE_COMMAND_H

#include "launcher/cli.h"
#include "launcher/config.h"

// Whether the line has what these commands need; exit 2 with the fix. Not collective.
bool huggingface_command_check(const CommandLine *line, Error *err);

// Both return the exit code. An export reads the checkpoint's configuration, with the line's
// changes; it runs the model, for which MPI is there. Collective over all ranks.
int huggingface_export(const CommandLine *line, Error *err);
// Beside the checkpoint it writes NAME.yaml, with which training goes on from the weights. Not
// collective.
int huggingface_import(const CommandLine *line, Error *err);

#endif
