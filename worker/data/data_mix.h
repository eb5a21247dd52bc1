// The training data: one source, or several mixed by weights (mix_schedule.h) that may change with
// the steps (curriculum.h).
//
// Of one source the cursor is its epoch and the window in it. Of several it is the number of the
// next window, in `index`, and the place of the mix says since which window its shares hold and how
// many windows each source has had before: what these say of a window is the same on any number of
// ranks. Where the weights change, between two steps, a schedule of the new ones begins, so that
// counts are within one window of the weights in every range; each source goes on in its own
// epochs, in orders of its own. So weights may also change at a resume: what was read stays read.
#ifndef MOETRAIN_WORKER_DATA_DATA_MIX_H
#define MOETRAIN_WORKER_DATA_DATA_MIX_H

#include "checkpoint/checkpoint.h"
#include "worker/data/curriculum.h"
#include "worker/data/data_loader.h"
#include "worker/data/mix_schedule.h"

// Where a mix of several is, beside the cursor: saved.
typedef struct MixPlace {
    int64_t begin;                    // the first window of these shares
    int64_t share[DATA_SOURCES_MAX];  // of each source
    int64_t before[DATA_SOURCES_MAX]; // windows of each before `begin`
} MixPlace;

typedef struct DataMix {
    int count;
    const DataSources *sources; // borrowed of the configuration
    DataFile *files[DATA_SOURCES_MAX];
    int64_t windows[DATA_SOURCES_MAX]; // of an epoch of each
    int64_t T;
    PackingRule packing;
    uint64_t seed;
    int64_t cursor_windows; // what the cursor's index wraps at: of one source its windows
    Curriculum curriculum;
    MixPlace place;
    MixSchedule schedule; // of the place's shares
} DataMix;

// Opens data.train for windows of train.context tokens, as open_data does; `identity` is that of
// all sources. The mix borrows the configuration. What was opened is to be closed by the caller
// also where it fails. Collective over all ranks.
bool data_mix_open(DataMix *mix, const TrainConfig *config, const Vocabulary *vocabulary,
                   char identity[40], Error *err);
// The same for one process, without the scan of all tokens.
bool data_mix_measure(DataMix *mix, const TrainConfig *config, const Vocabulary *vocabulary,
                      Error *err);
void data_mix_close(DataMix *mix); // legal on a zeroed struct

// The place as a checkpoint has it, of several sources; returns how many tensors.
enum { MIX_PLACE_TENSORS = 3 };
int data_mix_tensors(DataMix *mix, SavedTensor out[MIX_PLACE_TENSORS]);
// After they were read: goes on from there. False with exit 4 for a place that no run has.
bool data_mix_resume(DataMix *mix, DataCursor cursor, Error *err);
// Before step `step` (from 0), whose first window is at the cursor: where other weights hold than
// before, they begin here, and a line says so. Not collective.
void data_mix_begin_step(DataMix *mix, DataCursor cursor, int64_t step);

// Windows of a source in a whole run whose next step, `step`, begins at the cursor: those that were
// read, and those that will be. Not collective.
double data_mix_count(const DataMix *mix, int source, const TrainConfig *config, DataCursor cursor,
                      int64_t step);
double data_mix_epochs(const DataMix *mix, int source, const TrainConfig *config, DataCursor cursor,
                       int64_t step);
// False with exit 2 where that is more than epochs_max. Not collective.
bool data_mix_check_epochs(const DataMix *mix, const TrainConfig *config, DataCursor cursor,
                           int64_t step, Error *err);

DataCursor data_mix_advance(const DataMix *mix, DataCursor cursor, int64_t n);
// The source of the `n`-th window after the cursor; *number: of this window among all of it. Of
// several sources.
int data_mix_source(const DataMix *mix, DataCursor cursor, int64_t n, int64_t *number);
// The `n`-th window after the cursor, as data_file_training_window has it. Not collective.
bool data_mix_window(const DataMix *mix, DataCursor cursor, int64_t n, int32_t *inputs,
                     int32_t *targets, int32_t *positions, Error *err);

#endif
