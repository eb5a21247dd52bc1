// No hang without a word: a thread that ends this rank with exit code 8 when the main thread makes
// no progress.
//
// MPI notices neither a stopped rank nor a cut network: the others would wait for ever. Each of
// them then says where it waits, and for whom (hang_report.h); mpirun ends the rest. The same
// thread takes the signals and looks for failures of device collectives; a second one keeps the
// files alive by which others see this rank, and may wait for a disk. Neither calls MPI.
#ifndef MOETRAIN_WORKER_WATCH_WATCHDOG_H
#define MOETRAIN_WORKER_WATCH_WATCHDOG_H

#include "kernels/heartbeat.h" // watchdog_beat

// Before MPI starts, which may hang like all else: ten minutes, since run.hang_timeout is not known
// yet. Not collective, as the rest.
void watchdog_begin(void);
// Starts watching, or goes on with other bounds, those of phase_timeouts.h; with timeout_seconds 0
// nothing is a hang, and the threads do the rest of their work.
void watchdog_start(double timeout_seconds, double floor_seconds);
// All is done and told, with this exit code: only the way out of MPI is still to be watched, by the
// bounds as they are. A hang there changes no exit code.
void watchdog_leave(int exit_code);
void watchdog_stop(void); // legal when it was not started

#endif
