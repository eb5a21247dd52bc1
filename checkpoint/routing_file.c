#include "checkpoint/routing_file.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "checkpoint/child_process.h"
#include "checkpoint/routing_process.h"

struct RoutingFile {
    char *path;
    RoutingShape shape;
    bool records;
    int64_t next;       // step to be written; the first that may be read
    int64_t last;       // that may be read
    ChildProcess child; // has the file open
};

void routing_file_close(RoutingFile *file) {
    if (!file) return;
    child_process_end(&file->child);
    free(file->path);
    free(file);
}

// ---- how a child ends ---------------------------------------------------------------------------

// What the end of the child says about the file.
static bool lost(RoutingFile *file, Error *err) {
    int status = child_process_end(&file->child);
    int by = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    if (by == SIGKILL)
        return error_set(
            err, EXIT_IO,
            "%s: the process that has it open was killed; that is what the system does "
            "where memory is short",
            file->path);
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_IO)
        return error_set(err, EXIT_IO, "%s: no memory for the routing of a layer", file->path);
    char how[64];
    if (by)
        snprintf(how, sizeof how, "signal %d, %s", by, strsignal(by));
    else
        snprintf(how, sizeof how, "exit code %d", WEXITSTATUS(status));
    return error_set(err, EXIT_CHECKPOINT,
                     "%s: is damaged: %s (a process of its own, which ended by %s); %s", file->path,
                     by == SIGXCPU ? "HDF5 does not come to an end with it"
                                   : "HDF5 crashes when it opens or reads it",
                     how,
                     file->records ? "remove it or name another file"
                                   : "record it again or name another file");
}

static bool heard(RoutingFile *file, Error *err) {
    Error answer;
    if (!child_process_receive(file->child.socket, &answer, sizeof answer)) return lost(file, err);
    if (answer.exit_code == 0) return true;
    answer.message[sizeof answer.message - 1] = '\0';
    ExitCode code = answer.exit_code == EXIT_IO ? EXIT_IO : EXIT_CHECKPOINT;
    return error_set(err, code, "%s: %s", file->path, answer.message);
}

// After an error no more is said.
static bool still_there(RoutingFile *file, Error *err) {
    return file->child.pid != 0 ||
           error_set(err, EXIT_CHECKPOINT, "%s: is no longer read after an error", file->path);
}

// ---- opening ------------------------------------------------------------------------------------

static bool send_opening(const RoutingFile *file, const RoutingOpening *opening, const char *run) {
    int to = file->child.socket;
    return child_process_send(to, opening, sizeof *opening) &&
           child_process_send(to, file->shape.of,
                              (size_t)opening->layers * sizeof *file->shape.of) &&
           child_process_send(to, file->path, (size_t)opening->path_bytes) &&
           child_process_send(to, run, (size_t)opening->run_bytes);
}

static bool open_file(RoutingFile **file, const char *path, const char *run, RoutingShape shape,
                      RoutingOpening opening, Error *err) {
    RoutingFile *made = calloc(1, sizeof *made);
    CHECK_MEMORY(made, "no memory for a file of routing");
    *made = (RoutingFile){.path = strdup(path),
                          .shape = shape,
                          .records = opening.records,
                          .next = opening.after + 1,
                          .last = opening.last};
    CHECK_MEMORY(made->path, "no memory for a file of routing");
    opening.layers = shape.layers;
    opening.micro_batches = shape.micro_batches;
    opening.tokens = shape.tokens;
    opening.path_bytes = (int64_t)strlen(path);
    opening.run_bytes = (int64_t)strlen(run);
    bool ok = child_process_start(&made->child, ROUTING_PROCESS_ARGUMENT, err) ||
              error_prefix(err, "%s", path);
    ok = ok && (send_opening(made, &opening, run) || lost(made, err)) && heard(made, err);
    if (ok)
        *file = made;
    else
        routing_file_close(made);
    return ok;
}

bool routing_file_record(RoutingFile **file, const char *path, const char *run, RoutingShape shape,
                         int64_t after, Error *err) {
    return open_file(file, path, run, shape, (RoutingOpening){.records = true, .after = after},
                     err);
}

bool routing_file_replay(RoutingFile **file, const char *path, RoutingShape shape, int64_t after,
                         int64_t last, Error *err) {
    return open_file(file, path, "", shape, (RoutingOpening){.after = after, .last = last}, err);
}

// ---- steps --------------------------------------------------------------------------------------

static bool send_step(const RoutingFile *file, int64_t step, const Tensor *layers) {
    int to = file->child.socket;
    bool ok = child_process_send(to, &step, sizeof step);
    for (int64_t l = 0; ok && l < file->shape.layers; l++)
        if (file->shape.of[l].experts > 0)
            ok = child_process_send(to, layers[l].data, tensor_bytes(layers[l]));
    return ok;
}

bool routing_file_write(RoutingFile *file, int64_t step, const Tensor *layers, Error *err) {
    CHECK(step == file->next, "step %lld, and %lld is the next", (long long)step,
          (long long)file->next);
    if (!still_there(file, err)) return false;
    file->next++;
    return (send_step(file, step, layers) || lost(file, err)) && heard(file, err);
}

// Whether all of them are experts, whoever wrote the file and read it.
static bool check_ids(const RoutingFile *file, int64_t step, int64_t layer, Tensor ids,
                      Error *err) {
    const int32_t *id = tensor_i32(ids);
    int64_t experts = file->shape.of[layer].experts;
    for (int64_t i = 0; i < tensor_elements(ids); i++)
        if (id[i] < 0 || id[i] >= experts)
            return error_set(err, EXIT_CHECKPOINT,
                             "%s: step %" PRId64 ", layer %" PRId64 " names expert %d of %" PRId64,
                             file->path, step, layer, (int)id[i], experts);
    return true;
}

bool routing_file_read(RoutingFile *file, int64_t step, const Tensor *layers, Error *err) {
    CHECK(step >= file->next && step <= file->last, "step %lld of %lld to %lld", (long long)step,
          (long long)file->next, (long long)file->last);
    if (!still_there(file, err)) return false;
    bool ok = child_process_send(file->child.socket, &step, sizeof step) || lost(file, err);
    for (int64_t l = 0; ok && l < file->shape.layers; l++) {
        if (file->shape.of[l].experts == 0) continue;
        ok = heard(file, err) &&
             (child_process_receive(file->child.socket, layers[l].data, tensor_bytes(layers[l])) ||
              lost(file, err)) &&
             check_ids(file, step, l, layers[l], err);
    }
    if (!ok) child_process_end(&file->child); // what may still come would be taken for an answer
    return ok;
}
