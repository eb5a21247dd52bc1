// RUN/lock: one job at a time trains in a run directory. RUN/supervisor: one starts it.
//
// The file names its holder, and the holder touches it every second. Where the file system has
// flock(), the kernel says whether a holder lives; elsewhere, and across hosts, the standing still
// of the file's time does. A holder that was thought dead and wakes up finds another name in the
// file and ends before it writes.
#ifndef MOETRAIN_WORKER_RUN_RUN_LOCK_H
#define MOETRAIN_WORKER_RUN_RUN_LOCK_H

#include "kernels/check.h"

enum { LOCK_TEXT_BYTES = 768 };
// Whom the text of a lock file names, for people: "job 17, process 4242 on h7 (4 ranks, since …)".
// False when that is nobody: it was released, or something else has written it.
bool run_lock_names(const char *record, char text[LOCK_TEXT_BYTES]);

// Takes the lock `name` of the folder ("lock"; one for a process) until run_lock_release or the end
// of the process, however it ends. A holder that is gone is replaced, with a warning that names it;
// one that may be about to die is waited for, some seconds. False with exit 9 when the holder
// lives, with exit 75 when it does not answer or a signal asks to stop: the same command may go on
// later. Rank 0 only; not collective.
bool run_lock_take(const char *run_dir, const char *name, int ranks, Error *err);
// Shows that this holder lives; ends the job with exit 9 when another has replaced it. About once a
// second, from the watchdog's thread. Does nothing where no lock is held.
void run_lock_beat(void);
// Before this process writes into the run directory: ends the job with exit 9 when it has been out
// of sight for so long that another job may have replaced it, and one has. Does nothing where no
// lock is held. Not collective.
void run_lock_confirm(void);
void run_lock_release(void); // legal when none is held

#endif
