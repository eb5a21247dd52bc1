#include "worker/run/ask_program.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/clock.h"

extern char **environ;

// Without fork(), which copies the page tables of a process of any size. -1: it cannot be started.
static pid_t start(const char *const words[], int out) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid = -1;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none); // ours has what asks us to stop
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&files, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (posix_spawnp(&pid, words[0], &files, &attributes, (char *const *)words, environ) != 0)
        pid = -1;
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return pid;
}

// Until its end, or until there is no more room. False when the time is over before.
static bool read_all(int in, double deadline, char *answer, size_t room) {
    size_t used = 0;
    struct pollfd stream = {.fd = in, .events = POLLIN};
    for (;;) {
        double left = deadline - clock_seconds();
        if (left <= 0) return false;
        if (poll(&stream, 1, (int)(left * 1e3) + 1) <= 0) continue;
        ssize_t got = read(in, answer + used, room - 1 - used);
        if (got < 0 && errno == EINTR) continue;
        used += got > 0 ? (size_t)got : 0;
        answer[used] = 0;
        if (got <= 0 || used == room - 1) return true;
    }
}

bool ask_program(const char *const words[], double seconds, char *answer, size_t room) {
    int ends[2], status = -1;
    answer[0] = 0;
    if (pipe2(ends, O_CLOEXEC) != 0) return false;
    pid_t pid = start(words, ends[1]);
    close(ends[1]);
    bool ok = pid > 0 && read_all(ends[0], clock_seconds() + seconds, answer, room);
    close(ends[0]);
    if (pid <= 0) return false;
    if (!ok) kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    answer[strcspn(answer, "\n")] = 0;
    return ok && WIFEXITED(status) && WEXITSTATUS(status) == 0 && answer[0];
}
