// The checkpoint that a command line names, and the configuration in it. Not collective.
#ifndef MOETRAIN_LAUNCHER_CHECKPOINT_CONFIG_H
#define MOETRAIN_LAUNCHER_CHECKPOINT_CONFIG_H

#include "launcher/config.h"

// The checkpoint's file: the path itself or, where it is a run's folder or its checkpoints/, the
// newest in it. False with exit 4 when there is none, or when the path is a configuration.
bool checkpoint_path_resolve(const char *path, char resolved[CONFIG_PATH_BYTES], Error *err);

// The newest in a run's folder or its checkpoints/; empty where there is none. False with exit 4 or
// 5.
bool checkpoint_find_newest(const char *folder, char found[CONFIG_PATH_BYTES], Error *err);

// Reads the configuration of a checkpoint, with changes from the command line. They may not
// contradict what its tokens are, nor change what its weights compute (function keys) unless
// resume.allow names the key. config->source is then the checkpoint's file
// (checkpoint_path_resolve). False with exit 2 or 4.
bool checkpoint_config_read(Config *config, const char *path, const char *const *overrides,
                            int override_count, Error *err);

// Makes the key's line of a checkpoint's configuration a comment, so that the key is derived anew.
void config_text_forget(char *text, const char *key);

// False with exit 2 when the text that was read from `path` as a configuration is a checkpoint's.
bool checkpoint_is_no_config(const char *path, const char *text, size_t bytes, Error *err);

#endif
