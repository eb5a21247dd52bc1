// RUN/control.sock: where a supervisor is asked (control_request.h). A UNIX socket that only its
// owner may open (0600), on the supervisor's host; one line of request, one line of answer: "ok …"
// or "error …".
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_CONTROL_SOCKET_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_CONTROL_SOCKET_H

#include "launcher/supervisor/control_request.h"

typedef struct ControlSocket {
    int listener; // -1: closed
    int folder;
} ControlSocket;

enum { CONTROL_ANSWER_BYTES = 1 << 20 };
// Answers one request: true and what follows "ok ", or false and the error.
typedef bool ControlAnswer(void *context, const ControlRequest *request, char *answer, size_t room,
                           Error *err);

// A socket that a dead supervisor has left is replaced: only who holds the supervisor's lock may
// call this. False with exit 5.
bool control_socket_open(ControlSocket *control, const char *run_dir, Error *err);
// Answers who has asked meanwhile; waits for nobody longer than a second.
void control_socket_serve(ControlSocket *control, ControlAnswer *answer, void *context);
void control_socket_close(ControlSocket *control);

// Asks the supervisor of a run, and prints what it answers. False with exit 2 when none answers or
// it refuses.
bool control_socket_ask(const char *run_dir, const char *line, Error *err);

#endif
