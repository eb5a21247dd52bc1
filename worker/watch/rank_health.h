// RUN/health/rank-R.json: where each rank is, for the other ranks. When one hangs, they find out
// here who is behind, without MPI (as the rank monitors of NVIDIA's resiliency extension do by
// heartbeats).
//
// Each rank writes its own about once a second, whole or not at all, from the thread of files; a
// disk that is full or gone costs its freshness and nothing else. The files go when a run ends in
// an orderly way, and stay where it did not, until the next start.
#ifndef MOETRAIN_WORKER_WATCH_RANK_HEALTH_H
#define MOETRAIN_WORKER_WATCH_RANK_HEALTH_H

#include "comm/flight_recorder.h"
#include "kernels/clock.h"
#include "worker/run/rank_places.h"

enum { HEALTH_TEXT_BYTES = 64 };

typedef struct RankHealth {
    RankPlace place;
    bool known;                    // it has written
    bool cut_off;                  // its host does not answer
    char time[CLOCK_UTC_BYTES];    // when it did so last, by the clock of its host
    double written_seconds;        // the same by the clock of the file system
    double silent_seconds;         // since then, of a report
    char phase[HEALTH_TEXT_BYTES]; // of its main thread
    double quiet_seconds;          // since that has given a sign of life
    int64_t number;                // of its last collective; 0: none
    bool ended;                    // that one has
} RankHealth;

// The lock of the run directory is ours: makes RUN/health, without the files of an earlier start.
// Collective over all ranks.
void rank_health_begin(const char *run_dir);
// How long this rank's main thread has been quiet, for the file. From any thread.
void rank_health_note_quiet(double seconds);
// Writes this rank's file. About once a second, from the thread of files; nothing here but the two
// functions around it is collective.
void rank_health_beat(void);
// RUN/health; empty where there is none, before rank_health_begin and after _end.
const char *rank_health_folder(void);
// What the files say of all ranks, in their order, but cut_off and silent_seconds. To be freed by
// the caller; NULL where there is no folder. May take long on a disk that does not answer.
RankHealth *rank_health_look(void);
// The same for a report, with all; of this rank what is so now.
RankHealth *rank_health_read(void);
// The run ends in an orderly way: removes this rank's file, and the folder with the last one. Once
// no other thread beats.
void rank_health_end(void);

#endif
