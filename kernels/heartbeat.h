// The sign of life of a rank's main thread. Whatever may take long beats, in every layer;
// worker/watch/watchdog.c listens.
#ifndef MOETRAIN_KERNELS_HEARTBEAT_H
#define MOETRAIN_KERNELS_HEARTBEAT_H

// The main thread is alive and begins `phase`, a string constant ("training step"). NULL: it goes
// on with the phase that it is in; loops over data of any size call this once a piece. Cheap, from
// any thread. Not collective.
void watchdog_beat(const char *phase);
// The same for a phase that comes in each step: how long it may take is learned. Main thread.
void watchdog_beat_each_step(const char *phase);
// From now on beats of the calling thread, which works behind the main one, are no sign of that
// one's life: they count apart, and their phases are not named.
void heartbeat_behind(void);
// How often watchdog_beat was called so far, by the threads behind and by all others.
unsigned long heartbeat_count_behind(void);
unsigned long heartbeat_count(void);
// The last phase that was named; "start" before the first.
const char *heartbeat_phase(void);
// How often that one has begun, if it is one that comes in each step; otherwise 0.
int heartbeat_repeats(void);

#endif
