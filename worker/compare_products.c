#include "worker/compare_products.h"

#include <stdlib.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

// The lowest rank whose text is not rank 0's; -1: there is none. `theirs` becomes its text.
// Collective over all ranks.
static int first_that_differs(Group *world, char *own, char *theirs, int64_t bytes) {
    int ranks = group_size(world), found = -1;
    char *texts = calloc((size_t)ranks, (size_t)bytes);
    CHECK_MEMORY(texts, "no memory for the texts of %d ranks", ranks);
    all_gather(world, tensor_1d(texts, U8, ranks * bytes), tensor_1d(own, U8, bytes),
               TRAFFIC_OTHER);
    for (int r = 1; r < ranks && found < 0; r++)
        if (strncmp(texts, texts + r * bytes, (size_t)bytes) != 0) found = r;
    if (found >= 0) memcpy(theirs, texts + found * bytes, (size_t)bytes);
    memcpy(own, texts, (size_t)bytes); // rank 0's
    free(texts);
    return found;
}

enum { TABLE_BYTES = 32 << 10 };

static void append(void *context, const char *line) {
    char *table = context;
    size_t used = strlen(table), length = strlen(line);
    if (used + length + 2 > TABLE_BYTES) return; // the same on all ranks
    memcpy(table + used, line, length);
    memcpy(table + used + length, "\n", 2);
}

static void log_line(void *context, const char *line) {
    (void)context;
    log_info("product of %s", line);
}

bool compare_products(Device *dev, Error *err) {
    device_products(dev, log_line, NULL);
    if (dev->place == ON_HOST || !dev->fixed_order) return true;
    char *own = calloc(2, TABLE_BYTES);
    CHECK_MEMORY(own, "no memory for the table of products");
    char *theirs = own + TABLE_BYTES;
    device_products(dev, append, own);
    int rank = first_that_differs(comm_world(), own, theirs, TABLE_BYTES);
    if (rank >= 0) {
        size_t at = 0; // the first line that differs
        for (size_t i = 0; own[i] && own[i] == theirs[i]; i++)
            if (own[i] == '\n') at = i + 1;
        error_set(
            err, EXIT_COMMUNICATION,
            "rank 0 and rank %d do not multiply alike, so their bits would differ: %.*s, and %.*s; "
            "use one kind of GPU and the same libraries on all hosts, or "
            "train.reproducible: run",
            rank, (int)strcspn(own + at, "\n"), own + at, (int)strcspn(theirs + at, "\n"),
            theirs + at);
    }
    free(own);
    return rank < 0;
}
