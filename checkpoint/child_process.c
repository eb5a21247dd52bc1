#include "checkpoint/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

// Not by fork(), whose child would share, and so double, the memory of a training process.
static int spawn(ChildProcess *child, const char *argument, int socket) {
    const char *const words[] = {"moetrain", argument, NULL};
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    static const int ends[] = {SIGXCPU, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    sigset_t blocked; // a terminal and a scheduler send the others to all processes
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) sigdelset(&blocked, ends[i]);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, socket, STDIN_FILENO);
    posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
    // This file even if another one has its name by now.
    int failed = posix_spawn(&child->pid, "/proc/self/exe", &files, &attributes,
                             (char *const *)words, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return failed;
}

bool child_process_start(ChildProcess *child, const char *argument, Error *err) {
    int ends[2];
    *child = (ChildProcess){0};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return error_set(err, EXIT_IO, "no socket to another process: %s", strerror(errno));
    int failed = spawn(child, argument, ends[1]);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        child->pid = 0;
        return error_set(err, EXIT_IO, "this program cannot be started again: %s",
                         strerror(failed));
    }
    child->socket = ends[0];
    return true;
}

int child_process_end(ChildProcess *child) {
    int status = 0;
    if (child->pid == 0) return status;
    close(child->socket);
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
    }
    *child = (ChildProcess){0};
    return status;
}

bool child_process_send(int socket, const void *data, size_t bytes) {
    for (const char *next = data; bytes > 0;) {
        ssize_t sent = send(socket, next, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) continue;
        if (sent <= 0) return false;
        next += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

bool child_process_receive(int socket, void *data, size_t bytes) {
    for (char *next = data; bytes > 0;) {
        ssize_t got = recv(socket, next, bytes, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return false;
        next += got;
        bytes -= (size_t)got;
    }
    return true;
}

// ---- in the child -------------------------------------------------------------------------------

// Below the hard limit, which cannot be raised again.
static void limit(unsigned resource, rlim_t most) {
    struct rlimit now;
    if (getrlimit(resource, &now) != 0) return;
    now.rlim_cur = most < now.rlim_max ? most : now.rlim_max;
    setrlimit(resource, &now);
}

void child_process_limit_memory(size_t bytes) {
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%lu", &pages) != 1) pages = 0;
    if (file) fclose(file);
    limit(RLIMIT_CORE, 0);
    if (pages > 0) limit(RLIMIT_AS, (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + bytes);
}

void child_process_limit_time(double seconds) {
    struct rusage used = {0};
    getrusage(RUSAGE_SELF, &used);
    double all = (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) + seconds;
    limit(RLIMIT_CPU, (rlim_t)all + 2); // of whole seconds, of which two have begun
}
