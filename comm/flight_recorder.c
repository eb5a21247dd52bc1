#include "comm/flight_recorder.h"

#include <stdatomic.h>

#include "comm/group.h"
#include "comm/kind_seconds.h"
#include "kernels/clock.h"
#include "kernels/heartbeat.h"

// One record as it lies in the ring. A reader that finds `version` odd, or another one after it has
// read the rest, has read a mixture.
typedef struct Slot {
    atomic_uint version;
    atomic_bool on_device;
    atomic_llong number, bytes;
    _Atomic(const char *) name, kind, group, phase;
    _Atomic double begun, ended;
} Slot;

static Slot ring[FLIGHT_RECORDS];
static atomic_llong last;

// Of the main thread alone.
static double entered;
static KindSeconds seconds;

static Slot *slot_of(int64_t number) {
    return &ring[number % FLIGHT_RECORDS];
}

// ---- writing ------------------------------------------------------------------------------------

#define PUT(field, value) atomic_store_explicit(&slot->field, value, memory_order_relaxed)
#define GET(field)        atomic_load_explicit(&slot->field, memory_order_relaxed)

int64_t flight_recorder_begin(const Group *group, const char *name, const char *kind, int64_t bytes,
                              Place place) {
    if (group->size == 1) return 0;
    int64_t number = atomic_load_explicit(&last, memory_order_relaxed) + 1;
    Slot *slot = slot_of(number);
    unsigned version = GET(version);
    entered = clock_seconds();
    PUT(version, version + 1);
    atomic_thread_fence(memory_order_release);
    PUT(number, number);
    PUT(name, name);
    PUT(kind, kind);
    PUT(group, group->name);
    PUT(phase, heartbeat_phase());
    PUT(bytes, bytes);
    PUT(on_device, place == ON_DEVICE);
    PUT(begun, entered);
    PUT(ended, 0);
    atomic_store_explicit(&slot->version, version + 2, memory_order_release);
    atomic_store_explicit(&last, number, memory_order_release);
    return number;
}

// The device's collectives go on behind the host's back: the time to start one tells nothing.
static double count_seconds(const Slot *slot) {
    double now = clock_seconds();
    if (!GET(on_device)) kind_seconds_add(&seconds, GET(kind), now - entered);
    return now;
}

void flight_recorder_leave(int64_t number) {
    if (number > 0) count_seconds(slot_of(number));
}

void flight_recorder_return(int64_t number) {
    if (number > 0) entered = clock_seconds();
}

void flight_recorder_end(int64_t number) {
    Slot *slot = slot_of(number);
    if (number == 0) return;
    double now = count_seconds(slot);
    if (GET(number) == number) PUT(ended, now); // unless many others were begun meanwhile
}

double flight_recorder_seconds(const char *kind) {
    return kind_seconds_of(&seconds, kind);
}

// ---- reading ------------------------------------------------------------------------------------

int64_t flight_recorder_last(void) {
    return atomic_load_explicit(&last, memory_order_acquire);
}

bool flight_recorder_find(int64_t number, FlightRecord *record) {
    if (number <= 0) return false;
    const Slot *slot = slot_of(number);
    unsigned version = atomic_load_explicit(&slot->version, memory_order_acquire);
    *record = (FlightRecord){.number = GET(number),
                             .name = GET(name),
                             .kind = GET(kind),
                             .group = GET(group),
                             .phase = GET(phase),
                             .bytes = GET(bytes),
                             .on_device = GET(on_device),
                             .begun = GET(begun),
                             .ended = GET(ended)};
    atomic_thread_fence(memory_order_acquire);
    return version % 2 == 0 && GET(version) == version && record->number == number;
}

int flight_recorder_read(FlightRecord records[FLIGHT_RECORDS]) {
    int64_t newest = flight_recorder_last();
    int64_t oldest = newest > FLIGHT_RECORDS ? newest - FLIGHT_RECORDS + 1 : 1;
    int count = 0;
    for (int64_t number = oldest; number <= newest; number++)
        count += flight_recorder_find(number, &records[count]);
    return count;
}
