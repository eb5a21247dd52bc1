#include "comm/rank_facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

// One rank's findings as they travel.
typedef struct Findings {
    char host[64];
    struct {
        char value[FACT_BYTES], note[FACT_BYTES];
    } facts[];
} Findings;

static const char *opening(const char *note) {
    return note[0] ? " (" : "";
}
static const char *closing(const char *note) {
    return note[0] ? ")" : "";
}

// What this rank has to say about a fact that it found otherwise than rank 0.
static void write_difference(const RankFact *fact, const Findings *first, int i, int64_t others,
                             Error *err) {
    char more[48] = "";
    if (others > 1) snprintf(more, sizeof more, ", the first of %lld others,", (long long)others);
    const char *note = first->facts[i].note;
    error_set(
        err, fact->exit_code,
        "%s differs between ranks: rank 0 on %s has %s%s%s%s, rank %d on %s%s has %s%s%s%s; %s",
        fact->what, first->host, first->facts[i].value, opening(note), note, closing(note),
        comm_rank(), comm_host(), more, fact->value, opening(fact->note), fact->note,
        closing(fact->note), fact->fix);
}

bool rank_facts_compare(const RankFact *facts, int count, Error *err) {
    if (comm_size() == 1) return true;
    size_t bytes = sizeof(Findings) + (size_t)count * sizeof((Findings *)NULL)->facts[0];
    Findings *first = calloc(1, bytes);
    int64_t *differ = calloc((size_t)count, sizeof *differ); // ranks that found otherwise
    CHECK_MEMORY(first && differ, "no memory to compare %d facts", count);
    if (comm_rank() == 0) {
        snprintf(first->host, sizeof first->host, "%.63s", comm_host());
        for (int i = 0; i < count; i++) {
            memcpy(first->facts[i].value, facts[i].value, FACT_BYTES);
            memcpy(first->facts[i].note, facts[i].note, FACT_BYTES);
        }
    }
    broadcast(comm_world(), first, bytes, 0);
    for (int i = 0; i < count; i++) differ[i] = strcmp(facts[i].value, first->facts[i].value) != 0;
    bool *mine = calloc((size_t)count, sizeof *mine);
    CHECK_MEMORY(mine, "no memory to compare %d facts", count);
    for (int i = 0; i < count; i++) mine[i] = differ[i] != 0;
    all_reduce_sum(comm_world(), tensor_1d(differ, I64, count), REDUCE_ANY_ORDER, (Tensor){0},
                   TRAFFIC_OTHER);
    bool ok = true;
    for (int pass = 0; pass < 2 && ok; pass++) // errors, then warnings
        for (int i = 0; i < count && ok; i++) {
            bool warning = facts[i].exit_code == EXIT_DONE;
            if (differ[i] == 0 || warning != (pass == 1)) continue;
            Error difference = {0};
            if (mine[i]) write_difference(&facts[i], first, i, differ[i], &difference);
            comm_agree_named(!mine[i], &difference);
            if (warning) {
                log_warn("%s", difference.message);
            } else {
                *err = difference;
                ok = false;
            }
        }
    free(mine);
    free(differ);
    free(first);
    return ok;
}
