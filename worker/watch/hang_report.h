// What a rank says before it ends because nothing goes on: where it waits, who holds everybody up,
// and its last collectives. No MPI, and no disk is waited for longer than a few seconds.
#ifndef MOETRAIN_WORKER_WATCH_HANG_REPORT_H
#define MOETRAIN_WORKER_WATCH_HANG_REPORT_H

#include "worker/watch/rank_health.h"

enum { HANG_REPORT_BYTES = 1280 };

// Whom the others wait for: ranks that have stopped writing or whose hosts do not answer, or else
// those that have called the fewest collectives, with where they are and what they have not
// reached; `all` (ranks), of which `own` tells. quiet_seconds: how long nothing has gone on here.
// missed: the record of a collective that this rank has called, or NULL. Returns `text`.
const char *hang_report_laggards(const RankHealth *all, int ranks, int own, double quiet_seconds,
                                 bool (*missed)(int64_t number, FlightRecord *record),
                                 char text[HANG_REPORT_BYTES]);

// The whole in a line: the phase, the collective and the laggards. Writes
// RUN/health/flight-rank-R.txt, this rank's last collectives. Returns `text`.
const char *hang_report_make(double quiet_seconds, char text[HANG_REPORT_BYTES]);

#endif
