// What a configuration may change of a run that is in a checkpoint: free keys anything, course keys
// openly, function keys nothing unless resume.allow names them.
#ifndef MOETRAIN_WORKER_RUN_RUN_CHANGES_H
#define MOETRAIN_WORKER_RUN_RUN_CHANGES_H

#include "checkpoint/config_difference.h"
#include "kernels/check.h"

typedef struct RunChanges {
    const char *checkpoint;   // its path, for messages
    const char *saved_yaml;   // its configuration
    const char *current_yaml; // the present one
    const KeyRule *rules;
    const char *allow;   // resume.allow
    const char *way_out; // beside setting a key back: "choose another run.dir"; NULL: none
    bool fits; // the checkpoint's tensors are those of the present one, so that it can be loaded
    bool finished;     // nothing is left to train, so that no course is changed: worth a warning
    bool weights_only; // only what the weights compute must stay: a new run begins from them
} RunChanges;

// Refuses the function keys that differ, all in one message with both values and the fix: false
// with exit 2. Otherwise logs every difference by its kind; with weights_only just those that
// resume.allow let pass. Rank 0 only; not collective.
bool run_changes_check(const RunChanges *run, Error *err);

#endif
