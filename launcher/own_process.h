// This program once more, as a process whose output goes to files of a run's folder: how `compare`
// and `scale` train. Not collective.
#ifndef MOETRAIN_LAUNCHER_OWN_PROCESS_H
#define MOETRAIN_LAUNCHER_OWN_PROCESS_H

#include "launcher/config_origin.h"

// Runs it with the words behind its name, which words[0] becomes unless it names another program;
// NULL ends them. stderr is appended to the file `log` in `dir`, stdout likewise, or to `output`
// anew where that is not NULL. `who` starts it, for MOETRAIN_ATTEMPT. A request to stop is passed
// on. Returns its exit code; or, with *err, why there was none (exit 5).
int own_process_run(const char *dir, const char *log, const char *output, const char *who,
                    char **words, Error *err);

// The last error in the file `log` of `dir`: of a process that failed before it had a place of its
// own to say why. "it has not said why" where there is none.
void own_process_last_error(const char *dir, const char *log, char *message, size_t bytes);

// Whether dir has no configuration NAME yet, or its run was begun with this one: what differs may
// change no result. `also` is a key that a run may change as it goes on, but this one may not;
// NULL: none. False with exit 2, what differs, and the fix.
bool own_process_check_config(const char *dir, const char *name, const Config *config,
                              const char *also, Error *err);
// Makes the folder and writes a configuration into it, whose paths hold wherever it is read. False
// with exit 5.
bool own_process_write_config(const char *dir, const char *name, const Config *config, Error *err);
// Trains the configuration in dir/NAME under `moetrain supervise` on `ranks` ranks, with its
// launcher unless one is named, and `word` as a change of it, NULL: none; by another program where
// one is named. As above.
int own_process_train(const char *program, const char *dir, const char *name, const char *log,
                      const char *who, int ranks, const char *launcher, const char *word,
                      Error *err);

#endif
