#include "checkpoint/routing_process.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/child_process.h"
#include "checkpoint/routing_hdf5.h"

static const int asker = STDIN_FILENO;

// HDF5's own buffers: of a chunk before and behind its filters, of its index, of what is converted.
static const size_t LIBRARY_BYTES = (size_t)1 << 30;
// A request that takes longer does not end: HDF5 goes round in circles.
static const double REQUEST_SECONDS = 20, BYTES_A_SECOND = 10e6;

typedef struct Opened {
    RoutingHdf5 *file;
    RoutingShape shape;
    bool records;
    int32_t *ids; // of the layer with the most choices
} Opened;

bool routing_process_asked(int argc, char **argv) {
    return argc == 2 && strcmp(argv[1], ROUTING_PROCESS_ARGUMENT) == 0;
}

static bool receive(void *data, size_t bytes) {
    return child_process_receive(asker, data, bytes);
}

static bool answer(const Error *err) {
    return child_process_send(asker, err, sizeof *err);
}

// ---- opening ------------------------------------------------------------------------------------

static char *receive_text(int64_t bytes) {
    char *text = calloc((size_t)bytes + 1, 1);
    CHECK_MEMORY(text, "no memory for a path");
    if (receive(text, (size_t)bytes)) return text;
    free(text);
    return NULL;
}

static size_t layer_bytes(const RoutingShape *shape, int64_t layer) {
    return (size_t)(shape->micro_batches * shape->tokens * shape->of[layer].top_k) *
           sizeof(int32_t);
}

static void limit_time(size_t bytes) {
    child_process_limit_time(REQUEST_SECONDS + (double)bytes / BYTES_A_SECOND);
}

static void allocate(Opened *opened) {
    size_t most = 0;
    for (int64_t l = 0; l < opened->shape.layers; l++)
        if (layer_bytes(&opened->shape, l) > most) most = layer_bytes(&opened->shape, l);
    opened->ids = malloc(most + 1);
    CHECK_MEMORY(opened->ids, "no memory for the routing of a layer");
    child_process_limit_memory(LIBRARY_BYTES + 4 * most);
}

static bool open_file(Opened *opened, const RoutingOpening *opening, RoutingLayer *of) {
    char *path = receive_text(opening->path_bytes), *run = receive_text(opening->run_bytes);
    Error err = {0};
    bool ok = false;
    if (path && run) {
        opened->records = opening->records;
        opened->shape =
            (RoutingShape){opening->layers, of, opening->micro_batches, opening->tokens};
        allocate(opened);
        limit_time(0);
        ok = opening->records ? routing_hdf5_record(&opened->file, path, run, opened->shape,
                                                    opening->after, &err)
                              : routing_hdf5_replay(&opened->file, path, opened->shape,
                                                    opening->after, opening->last, &err);
        ok = answer(&err) && ok;
    }
    free(path);
    free(run);
    return ok;
}

// ---- steps --------------------------------------------------------------------------------------

// After an error what comes is taken all the same, so that the answer is read.
static bool record(Opened *opened, int64_t step) {
    Error err = {0};
    bool ok = routing_hdf5_begin_step(opened->file, step, &err);
    for (int64_t l = 0; l < opened->shape.layers; l++) {
        size_t bytes = layer_bytes(&opened->shape, l);
        if (bytes == 0) continue;
        if (!receive(opened->ids, bytes)) return false;
        limit_time(bytes);
        ok = ok && routing_hdf5_write(opened->file, step, l, opened->ids, &err);
    }
    ok = ok && routing_hdf5_end_step(opened->file, step, &err);
    return answer(&err) && ok;
}

static bool replay(Opened *opened, int64_t step) {
    Error err = {0};
    bool ok = true;
    for (int64_t l = 0; ok && l < opened->shape.layers; l++) {
        size_t bytes = layer_bytes(&opened->shape, l);
        if (bytes == 0) continue;
        limit_time(bytes);
        ok = routing_hdf5_read(opened->file, step, l, opened->ids, &err);
        ok = answer(&err) && ok && child_process_send(asker, opened->ids, bytes);
    }
    return ok;
}

int routing_process_run(void) {
    RoutingOpening opening;
    Opened opened = {0};
    int64_t step;
    if (!receive(&opening, sizeof opening)) return EXIT_CONFIG; // somebody has typed the argument
    RoutingLayer *of = calloc((size_t)opening.layers, sizeof *of);
    CHECK_MEMORY(of, "no memory for a list of layers");
    bool ok = receive(of, (size_t)opening.layers * sizeof *of) && open_file(&opened, &opening, of);
    while (ok && receive(&step, sizeof step))
        ok = opened.records ? record(&opened, step) : replay(&opened, step);
    routing_hdf5_close(opened.file);
    free(opened.ids);
    free(of);
    return ok ? EXIT_DONE : EXIT_CHECKPOINT;
}
