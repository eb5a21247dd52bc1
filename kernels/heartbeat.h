// The sign of life of a rank's main thread. Whatever may take long beats, in every layer;
// worker/watchdog.c listens.
#ifndef MOETRAIN_KERNELS_HEARTBEAT_H
#define MOETRAIN_KERNELS_HEARTBEAT_H

// The main thread is alive and begins `phase`, a string constant ("training step"). NULL: it goes
// on with the phase that it is in; loops over data of any size call this once a piece. Cheap, from
// any thread. Not collective.
void watchdog_beat(const char *phase);
// How often watchdog_beat was called so far.
unsigned long heartbeat_count(void);
// The last phase that was named; "start" before the first.
const char *heartbeat_phase(void);

#endif
