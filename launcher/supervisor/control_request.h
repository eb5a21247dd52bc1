// What may be asked of a supervisor, one line each:
//   status                how the run is going, as JSON
//   checkpoint-now        save a checkpoint after the step that runs
//   stop                  save and end
//   set KEY VALUE         from the next step on, and after every restart
#ifndef MOETRAIN_LAUNCHER_SUPERVISOR_CONTROL_REQUEST_H
#define MOETRAIN_LAUNCHER_SUPERVISOR_CONTROL_REQUEST_H

#include <stddef.h>

#include "kernels/check.h"

typedef enum ControlVerb {
    CONTROL_STATUS,
    CONTROL_CHECKPOINT,
    CONTROL_STOP,
    CONTROL_SET,
} ControlVerb;

enum { CONTROL_LINE_BYTES = 256, CONTROL_WORD_BYTES = 64 };
typedef struct ControlRequest {
    ControlVerb verb;
    char key[CONTROL_WORD_BYTES], value[CONTROL_WORD_BYTES]; // of set
} ControlRequest;

// Reads `bytes` of a line, without its newline. False with exit 2 and what is legal.
bool control_request_parse(const char *line, size_t bytes, ControlRequest *request, Error *err);

#endif
