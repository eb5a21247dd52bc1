// No hang without a word: a thread that ends this rank with exit code 8 when the main thread makes
// no progress.
//
// MPI notices neither a stopped rank nor a cut network: the others would wait for ever. Each of
// them then says where it waits; the rank that says nothing is the one to look at. mpirun ends the
// rest. The same thread takes the signals, looks for failures of device collectives, and keeps the
// lock of the run directory alive. It calls no MPI.
#ifndef MOETRAIN_WORKER_WATCHDOG_H
#define MOETRAIN_WORKER_WATCHDOG_H

#include "kernels/heartbeat.h" // watchdog_beat

// Starts watching; with timeout_seconds 0 nothing is a hang, and the thread does the rest of its
// work. Not collective.
void watchdog_start(double timeout_seconds);
void watchdog_stop(void); // legal when it was not started

#endif
