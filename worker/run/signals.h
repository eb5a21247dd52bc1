// Requests to stop: SIGUSR1, SIGTERM, SIGHUP and SIGINT are noted from the first instruction of
// main on and obeyed at the next safe point: before the first step, after every step, and within a
// long evaluation. SIGUSR2 does nothing. The end of the job's time (time_limit.h) asks in the same
// way.
#ifndef MOETRAIN_WORKER_RUN_SIGNALS_H
#define MOETRAIN_WORKER_RUN_SIGNALS_H

#include "comm/process_groups.h"

// The first thing that main does, before any other thread starts: they inherit what is blocked
// here. A second signal is not special: the safe point comes soon enough. Under nohup SIGHUP stays
// ignored.
void signals_install(void);
// For work that has nothing to save: the signals end the process again, one that has come meanwhile
// at once.
void signals_release(void);
// Waits up to `seconds` for a request, notes it and returns at once when it comes. For a thread
// that computes nothing.
void signals_wait(double seconds);
// Requests that are no signals: the job's time is nearly over, run.stop_at is reached.
enum { STOP_TIME_LIMIT = 1000, STOP_AT };
// Notes a request as if it had come from outside. From any thread.
void signals_request(int number);
// The last request that this process received, or 0.
int signals_received(void);
// The same for all ranks: a signal seen by any rank is obeyed by all. Collective over `world`.
int signals_agreed(Group *world);
// The same; *request becomes true on every rank where it is true on any.
int signals_agreed_with(Group *world, bool *request);
// The last request as long as signals_agreed has not returned any, or 0.
int signals_unobeyed(void);
// "SIGUSR1", "the time limit", "run.stop_at"
const char *signal_name(int number);

#endif
