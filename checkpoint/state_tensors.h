// The small contents of a checkpoint seen as tensors, so that they are written, hashed, read and
// shown by h5py exactly like parameters. Not collective.
#ifndef MOETRAIN_CHECKPOINT_STATE_TENSORS_H
#define MOETRAIN_CHECKPOINT_STATE_TENSORS_H

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_file.h"

enum { COMPUTED_TENSORS = 8, RUN_TENSORS = 6, STATE_TENSORS = COMPUTED_TENSORS + RUN_TENSORS };
enum { UTILIZATION_TENSORS_MAX = 3 + 3 * UTILIZATION_SERIES_MAX };

// "state/…", then what "about/…" tells of the run, and "utilization/…", of which there are as many
// as returned: whole tensors over the fields of the structs.
void state_tensors(TrainState *state, SavedTensor out[STATE_TENSORS]);
int utilization_tensors(UtilizationHistory *history, SavedTensor out[UTILIZATION_TENSORS_MAX]);
SavedTensor text_tensor(const char *name, const char *text); // u8, without the NUL

// What is held of a tensor, in runs of neighbouring elements: how many runs, and the i-th one.
typedef struct SavedRun {
    int64_t first, elements; // of the whole tensor
    int64_t at;              // its first among those that are held
} SavedRun;
int64_t saved_runs(const SavedTensor *tensor);
SavedRun saved_run(const SavedTensor *tensor, int64_t i);

// Reading them back; the results are set on success only. Numbers that cannot be (negative counts,
// rows out of order) are exit 4 like damage. The history is a new one, of the shape
// found in the file, and the text is NUL-terminated; the caller frees both.
bool state_read(CheckpointFile *file, TrainState *state, Error *err);
bool utilization_read(CheckpointFile *file, UtilizationHistory *history, Error *err);
bool text_read(CheckpointFile *file, const char *name, char **text, Error *err);

// The dataset that a tensor is saved as; NULL and EXIT_CHECKPOINT when there is none of its name,
// type and shape, which the message gives.
const Dataset *dataset_of_tensor(const Manifest *manifest, const SavedTensor *tensor, Error *err);

#endif
