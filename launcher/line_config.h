// The configuration that a command line names, with the line's overrides.
#ifndef MOETRAIN_LAUNCHER_LINE_CONFIG_H
#define MOETRAIN_LAUNCHER_LINE_CONFIG_H

#include "launcher/cli.h"
#include "launcher/config.h"

// What line->path is.
typedef enum ConfigSource { CONFIG_OF_FILE, CONFIG_OF_CHECKPOINT } ConfigSource;

// Calls `body` with the configuration. Returns what it returns, or the exit code of *err. Not
// collective.
int with_line_config(const CommandLine *line, ConfigSource source,
                     int (*body)(const CommandLine *line, Config *config, Error *err), Error *err);

// The same on all ranks: rank 0 reads, since others may not see the file, and whether this many
// ranks can run it is asked before `train` is given out. Collective over all ranks, as is `body`.
int with_shared_config(const CommandLine *line, ConfigSource source,
                       int (*body)(const CommandLine *line, const Config *config,
                                   const TrainConfig *train, Error *err),
                       Error *err);

#endif
