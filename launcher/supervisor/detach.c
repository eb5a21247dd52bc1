#include "launcher/supervisor/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/file_io.h"

static int ready = -1; // a byte here lets the old process go

void detach(void) {
    int ends[2];
    CHECK(pipe2(ends, O_CLOEXEC) == 0, "no pipe: %s", strerror(errno));
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0, "no second process: %s", strerror(errno));
    if (child == 0) {
        close(ends[0]);
        ready = ends[1];
        setsid();
        return;
    }
    char byte;
    int status = 0;
    close(ends[1]);
    if (read(ends[0], &byte, 1) == 1) {
        printf("supervise: process %d\n", (int)child);
        exit(EXIT_DONE);
    }
    waitpid(child, &status, 0); // it has said why
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

bool detach_ready(const char *log_path, Error *err) {
    if (ready < 0) return true;
    int log = file_open_or_make(log_path, O_WRONLY | O_APPEND, err);
    int nothing = log >= 0 ? file_open_to_read("/dev/null", err) : -1;
    if (nothing < 0) return false;
    fflush(NULL);
    dup2(nothing, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(log);
    close(nothing);
    (void)!write(ready, "", 1);
    close(ready);
    ready = -1;
    return true;
}
