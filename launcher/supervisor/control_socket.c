#include "launcher/supervisor/control_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernels/log.h"

enum { ASKER_MILLISECONDS = 1000, ANSWER_MILLISECONDS = 60000 };
static const char NAME[] = "control.sock";

// The address by the folder's descriptor: a socket's own address has room for 107 bytes only, and
// paths of runs are longer.
static struct sockaddr_un address_in(int folder) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", folder, NAME);
    return address;
}

bool control_socket_open(ControlSocket *control, const char *run_dir, Error *err) {
    control->folder = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    control->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = address_in(control->folder);
    bool ok = control->folder >= 0 && control->listener >= 0;
    if (ok) unlinkat(control->folder, NAME, 0);
    mode_t before = umask(0177);
    ok = ok && bind(control->listener, (struct sockaddr *)&address, sizeof address) == 0;
    int cause = errno;
    umask(before);
    ok = ok && listen(control->listener, 8) == 0;
    if (ok) return true;
    control_socket_close(control);
    return error_set(err, EXIT_IO, "%s/%s: cannot listen: %s", run_dir, NAME, strerror(cause));
}

void control_socket_close(ControlSocket *control) {
    if (control->listener >= 0) {
        unlinkat(control->folder, NAME, 0);
        close(control->listener);
    }
    if (control->folder >= 0) close(control->folder);
    *control = (ControlSocket){-1, -1};
}

// Up to a newline, which is cut off, or the end; -1 when it does not come in time or is too long.
static ssize_t read_line(int fd, char *line, size_t room, int milliseconds) {
    size_t used = 0;
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (used == room || poll(&ready, 1, milliseconds) <= 0) return -1;
        ssize_t got = recv(fd, line + used, room - used, 0);
        if (got < 0) return -1;
        char *end = memchr(line + used, '\n', (size_t)got);
        used += (size_t)got;
        if (end) return end - line;
        if (got == 0) return (ssize_t)used;
    }
}

static void write_all(int fd, const char *text) {
    for (size_t left = strlen(text); left > 0;) {
        struct pollfd ready = {.fd = fd, .events = POLLOUT};
        if (poll(&ready, 1, ASKER_MILLISECONDS) <= 0) return;
        ssize_t sent = send(fd, text, left, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent <= 0) return;
        text += sent;
        left -= (size_t)sent;
    }
}

static void serve_one(int fd, ControlAnswer *answer, void *context) {
    char line[CONTROL_LINE_BYTES + 1];
    ControlRequest request;
    Error err = {0};
    char *text = calloc(1, CONTROL_ANSWER_BYTES);
    CHECK_MEMORY(text, "no memory for an answer");
    ssize_t bytes = read_line(fd, line, sizeof line, ASKER_MILLISECONDS);
    bool ok =
        bytes >= 0 || error_set(&err, EXIT_CONFIG, "no line of at most %d bytes within a second",
                                CONTROL_LINE_BYTES);
    ok = ok && control_request_parse(line, (size_t)bytes, &request, &err) &&
         answer(context, &request, text, CONTROL_ANSWER_BYTES, &err);
    write_all(fd, ok ? "ok " : "error ");
    write_all(fd, ok ? text : err.message);
    write_all(fd, "\n");
    free(text);
}

void control_socket_serve(ControlSocket *control, ControlAnswer *answer, void *context) {
    if (control->listener < 0) return;
    for (int fd; (fd = accept4(control->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
        serve_one(fd, answer, context);
        close(fd);
    }
}

// ---- asking -------------------------------------------------------------------------------------

static bool take_answer(char *answer, ssize_t bytes, const char *run_dir, Error *err) {
    if (bytes < 0)
        return error_set(err, EXIT_CONFIG, "%s: the supervisor does not answer", run_dir);
    answer[bytes] = 0;
    if (strncmp(answer, "ok ", 3) == 0) {
        printf("%s\n", answer + 3);
        return true;
    }
    bool error = strncmp(answer, "error ", 6) == 0;
    return error_set(err, EXIT_CONFIG, "%s: %s", run_dir, error ? answer + 6 : "no answer");
}

bool control_socket_ask(const char *run_dir, const char *line, Error *err) {
    int folder = open(run_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = address_in(folder);
    bool ok =
        folder >= 0 && fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (!ok)
        error_set(
            err, EXIT_CONFIG,
            "%s: no supervisor answers here (%s); `moetrain supervise` is one, and it listens "
            "on its own host only",
            run_dir, strerror(errno));
    char *answer = ok ? calloc(1, CONTROL_ANSWER_BYTES + 16) : NULL;
    if (ok) {
        CHECK_MEMORY(answer, "no memory for an answer");
        write_all(fd, line);
        write_all(fd, "\n");
        ok = take_answer(answer,
                         read_line(fd, answer, CONTROL_ANSWER_BYTES + 8, ANSWER_MILLISECONDS),
                         run_dir, err);
    }
    free(answer);
    if (fd >= 0) close(fd);
    if (folder >= 0) close(folder);
    return ok;
}
