// `moetrain status`: how a run is going, or how it ended, from the files that its ranks write
// (worker/run/run_status.h, worker/run/outcome.h). It asks no process, so that it works on any host
// that sees the folder, also when the run hangs.
#ifndef MOETRAIN_LAUNCHER_STATUS_H
#define MOETRAIN_LAUNCHER_STATUS_H

#include <jansson.h>

#include "kernels/check.h"

// Everything that is known, to be given back with json_decref:
//   state        running, done, saved, failed, killed or silent
//   age_seconds  of what rank 0 has said last
//   status       RUN/status.json
//   outcome      RUN/outcome.json, or null
//   attempts     RUN/attempts.jsonl: those of a supervisor that have ended
// NULL with exit 2 when there is no status.json.
json_t *status_read(const char *run_dir, Error *err);

// For people, or as one JSON object. False with exit 2.
bool status_print(const char *run_dir, bool json, Error *err);

#endif
