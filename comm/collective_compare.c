#include "comm/collective_compare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/group.h"
#include "comm/mpi_check.h"
#include "kernels/log.h"

enum { NAME_BYTES = 24, HOST_BYTES = 64 };

// One rank's call as it travels. Zeroed before it is filled, so that equal calls are equal bytes.
typedef struct Call {
    char name[NAME_BYTES], type[NAME_BYTES], how[NAME_BYTES], kind[NAME_BYTES];
    int64_t elements, root, place, group;
} Call;

typedef struct Caller {
    Call call;
    char host[HOST_BYTES];
    int32_t rank; // among all
} Caller;

static void put(char field[NAME_BYTES], const char *text) {
    if (text) snprintf(field, NAME_BYTES, "%s", text);
}

static void describe(const Caller *caller, char *text, size_t bytes) {
    const Call *call = &caller->call;
    char root[32] = "", elements[96] = "";
    if (call->root >= 0) snprintf(root, sizeof root, " from %lld", (long long)call->root);
    if (call->type[0])
        snprintf(elements, sizeof elements, ", %lld x %s on the %s", (long long)call->elements,
                 call->type, call->place == ON_HOST ? "host" : "device");
    snprintf(text, bytes, "rank %d on %s calls %s%s in group %lld%s%s%s%s%s", (int)caller->rank,
             caller->host, call->name, root, (long long)call->group, elements,
             call->how[0] ? ", " : "", call->how, call->kind[0] ? ", " : "", call->kind);
}

void collective_compare_calls(Group *group, CollectiveCall call) {
    if (group->size == 1) return;
    Caller own;
    memset(&own, 0, sizeof own);
    own.call.elements = call.elements;
    own.call.root = call.root;
    own.call.place = call.place;
    own.call.group = group->number;
    put(own.call.name, call.name);
    put(own.call.type, call.type);
    put(own.call.how, call.how);
    put(own.call.kind, call.kind);
    own.rank = log_rank();
    gethostname(own.host, sizeof own.host - 1);

    Caller *callers = calloc((size_t)group->size, sizeof own);
    CHECK_MEMORY(callers, "no memory for the calls of %d ranks", group->size);
    MPI_CHECK(MPI_Allgather(&own, (int)sizeof own, MPI_BYTE, callers, (int)sizeof own, MPI_BYTE,
                            group->compared));
    int other = 1;
    while (other < group->size && !memcmp(&callers[0].call, &callers[other].call, sizeof(Call)))
        other++;
    if (other < group->size) {
        while (group->rank != 0) pause(); // the first rank says it, and ends all
        char first[320], second[320];
        describe(&callers[0], first, sizeof first);
        describe(&callers[other], second, sizeof second);
        CHECK(false, "ranks differ in what they do together: %s; %s", first, second);
    }
    free(callers);
}

void collective_compare_rows(Group *group, const int64_t *send, const int64_t *receive) {
    if (group->size == 1) return;
    int64_t *sent = calloc((size_t)group->size, sizeof *sent);
    CHECK_MEMORY(sent, "no memory for the counts of %d ranks", group->size);
    MPI_CHECK(MPI_Alltoall(send, 1, MPI_INT64_T, sent, 1, MPI_INT64_T, group->compared));
    for (int p = 0; p < group->size; p++)
        CHECK(
            sent[p] == receive[p],
            "ranks differ in what they exchange: rank %d of group %lld sends %lld rows to rank %d, "
            "which expects %lld",
            p, (long long)group->number, (long long)sent[p], group->rank, (long long)receive[p]);
    free(sent);
}
