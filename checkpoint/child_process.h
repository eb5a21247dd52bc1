// A process of this same program for work that a library may crash at: where it ends, the program
// that asked goes on with a message. The two speak over a socket. Nothing here is collective.
#ifndef MOETRAIN_CHECKPOINT_CHILD_PROCESS_H
#define MOETRAIN_CHECKPOINT_CHILD_PROCESS_H

#include <stddef.h>
#include <sys/types.h>

#include "kernels/check.h"

typedef struct ChildProcess {
    pid_t pid;  // 0: none
    int socket; // to the child, whose own end is its standard input
} ChildProcess;

// Starts the program with one argument. It has no other open files than its standard streams, which
// lead nowhere, and what asks the program to stop does not reach it: it ends with its socket.
// EXIT_IO when it cannot be started.
bool child_process_start(ChildProcess *child, const char *argument, Error *err);
// Closes the socket, waits for the end, and returns the status as of waitpid(2). Legal on a zeroed
// struct: 0.
int child_process_end(ChildProcess *child);

// All bytes, or false: the other one is gone.
bool child_process_send(int socket, const void *data, size_t bytes);
bool child_process_receive(int socket, void *data, size_t bytes);

// In the child: it leaves no core file, and has no more than `bytes` of memory beyond what it has
// now.
void child_process_limit_memory(size_t bytes);
// In the child: ends it by SIGXCPU when it computes longer than this from now on.
void child_process_limit_time(double seconds);

#endif
