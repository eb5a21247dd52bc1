// The weights of a mix by ranges of steps: those of data.train, and what data.curriculum changes
// from a step on. Not collective.
#ifndef MOETRAIN_WORKER_DATA_CURRICULUM_H
#define MOETRAIN_WORKER_DATA_CURRICULUM_H

#include "worker/train_config.h"

// The shares of the sources from a step on.
typedef struct CurriculumRange {
    int64_t from;                    // so many steps come before it
    int64_t share[DATA_SOURCES_MAX]; // whole numbers without a common divisor; 0: not read
} CurriculumRange;

typedef struct Curriculum {
    int count; // of ranges, which begin one after another, the first at step 0
    CurriculumRange ranges[CURRICULUM_ROWS_MAX + 1];
} Curriculum;

// False with exit 2 when a row names no source or repeats another, when no source has a weight in a
// range, or when weights have no common measure (mix_schedule.h).
bool curriculum_make(Curriculum *curriculum, const DataConfig *data, Error *err);

// The range that holds `step`.
const CurriculumRange *curriculum_at(const Curriculum *curriculum, int64_t step);

// "70% a.txt, 30% b.txt" of shares, for people.
enum { SHARES_TEXT_BYTES = 512 };
void curriculum_describe(const int64_t share[DATA_SOURCES_MAX], const DataSources *sources,
                         char text[SHARES_TEXT_BYTES]);

#endif
