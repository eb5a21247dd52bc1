// The processes that descend from this one, mpirun's ranks among them: those whose parents have
// ended, too, since this process takes them over (process_tree_adopt).
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_PROCESS_TREE_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_PROCESS_TREE_H

#include <sys/types.h>

// From now on orphans become children of this process instead of init's.
void process_tree_adopt(void);
// Sends `number` to every descendant; 0 sends nothing. Returns how many there are, those that have
// ended and are not waited for left out.
int process_tree_signal(int number);
// Sends it to those of `pids` that are descendants; returns to how many.
int process_tree_signal_these(const pid_t *pids, int count, int number);

#endif
