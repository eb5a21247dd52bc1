// No hang without a word: a thread that ends this rank with exit code 8 when the main thread makes no progress.
//
// MPI notices neither a stopped rank nor a cut network: the others would wait for ever. Each of them then says where
// it waits; the rank that says nothing is the one to look at. mpirun ends the rest.
#ifndef MOETRAIN_WORKER_WATCHDOG_H
#define MOETRAIN_WORKER_WATCHDOG_H

// Starts watching; timeout_seconds 0 switches it off. Not collective.
void watchdog_start(double timeout_seconds);
// The main thread is alive and begins `phase`, a string constant ("training step"). Cheap. Not collective.
void watchdog_beat(const char *phase);
void watchdog_stop(void);

#endif
