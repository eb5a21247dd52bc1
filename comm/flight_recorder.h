// The flight recorder: what this rank's last collectives were, for the report of a hang (the idea
// of PyTorch's NCCL flight recorder).
//
// All ranks call the same collectives in the same order, and a rank has as many ranks in each of
// its groups as any other: the number of a collective means the same on every rank, and the rank
// whose last number is the smallest is the one that the others wait for. Groups of one rank
// exchange nothing and are left out.
//
// The main thread writes, any thread reads, nobody waits: some 60 ns a collective. Not collective.
#ifndef MOETRAIN_COMM_FLIGHT_RECORDER_H
#define MOETRAIN_COMM_FLIGHT_RECORDER_H

#include "comm/process_groups.h"

enum { FLIGHT_RECORDS = 256 };

typedef struct FlightRecord {
    int64_t number;      // of this rank's collectives, from 1; 0: none
    const char *name;    // "all_reduce_sum"; like the next three a string constant
    const char *kind;    // of the traffic; NULL where there is none
    const char *group;   // "world"
    const char *phase;   // of the main thread, by then
    int64_t bytes;       // of the tensor that this rank gave
    bool on_device;      // ended means that the device has been told: it may still be at it
    double begun, ended; // clock_seconds; ended 0: it is under way
} FlightRecord;

// A collective begins, in a host's or the device's place. Returns its number; 0 in a group of one.
int64_t flight_recorder_begin(const Group *group, const char *name, const char *kind, int64_t bytes,
                              Place place);
// The caller does something else while it is on its way, and comes back to wait for its end.
void flight_recorder_leave(int64_t number);
void flight_recorder_return(int64_t number);
void flight_recorder_end(int64_t number); // legal on 0, as the two before it

// Seconds that the main thread has spent within collectives of a kind on the host since start: its
// waiting for other ranks, and the transfers. NULL: those of no kind.
double flight_recorder_seconds(const char *kind);

// The last ones, oldest first; returns how many. One that is overwritten meanwhile is left out.
int flight_recorder_read(FlightRecord records[FLIGHT_RECORDS]);
// The one with that number; false when it is not, or no more, among them.
bool flight_recorder_find(int64_t number, FlightRecord *record);
int64_t flight_recorder_last(void); // the number of the last one; 0: none

#endif
