// Private to comm/: whether all ranks of a group call the same collective with the same arguments.
// Without the check a difference is a hang or wrong numbers somewhere else.
//
// Only in builds with MOETRAIN_DEBUG (CMake); in others the calls are nothing.
#ifndef MOETRAIN_COMM_COLLECTIVE_COMPARE_H
#define MOETRAIN_COMM_COLLECTIVE_COMPARE_H

#include "comm/collectives.h"

// What must be equal. A field that a call does not have is left zero.
typedef struct CollectiveCall {
    const char *name;
    int64_t elements;
    int64_t root;     // of a broadcast
    const char *type; // of the elements
    const char *how;  // order of a sum, or padded rows
    const char *kind; // of the traffic
    Place place;
} CollectiveCall;

// The two below, where the build has them. A difference is fatal, with the arguments of two ranks
// and their hosts.
void collective_compare_calls(Group *group, CollectiveCall call);
void collective_compare_rows(Group *group, const int64_t *send, const int64_t *receive);

// Collective over the group, at the head of every collective.
static inline void collective_compare(Group *group, CollectiveCall call) {
    if (MOETRAIN_DEBUG) collective_compare_calls(group, call);
}
// Whether every rank expects from every other as many rows as that one sends. Collective over the
// group.
static inline void row_counts_compare(Group *group, const int64_t *send, const int64_t *receive) {
    if (MOETRAIN_DEBUG) collective_compare_rows(group, send, receive);
}

#endif
