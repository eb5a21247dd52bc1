#include "worker/watch/hang_report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "comm/comm.h"
#include "kernels/heartbeat.h"
#include "kernels/log.h"
#include "kernels/option.h"
#include "worker/run/deadline.h"

// A rank has stopped writing when it has done so for nearly as long as nothing goes on, or for so
// long that no slow disk explains it.
static const double SILENT_SHARE = 0.8, SURELY_SILENT_SECONDS = 30;
enum { MOST_NAMED = 4, LOOK_SECONDS = 5 };

// Appends to a text that is cut off at its end.
static void add(char text[HANG_REPORT_BYTES], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void add(char text[HANG_REPORT_BYTES], const char *format, ...) {
    size_t used = strlen(text);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, HANG_REPORT_BYTES - used, format, args);
    va_end(args);
}

static void add_collective(char text[HANG_REPORT_BYTES], const FlightRecord *record) {
    add(text, "collective %lld (%s of %lld bytes%s%s, %s)", (long long)record->number, record->name,
        (long long)record->bytes, record->kind ? ", " : "", record->kind ? record->kind : "",
        record->group);
}

// ---- who ----------------------------------------------------------------------------------------

static bool is_silent(const RankHealth *rank, double quiet_seconds) {
    double most = fmin(SILENT_SHARE * quiet_seconds, SURELY_SILENT_SECONDS);
    return !rank->known || rank->silent_seconds > most;
}

// How likely it is the one that all wait for; the least is.
typedef struct Lag {
    int live;       // it does not write or answer: 0
    int64_t number; // of its last collective
    int waits;      // in that, for others: 1
} Lag;

static Lag lag_of(const RankHealth *rank, double quiet_seconds) {
    return (Lag){!is_silent(rank, quiet_seconds) && !rank->cut_off, rank->number,
                 !rank->ended && rank->number > 0};
}

static int compare(Lag a, Lag b) {
    if (a.live != b.live) return a.live - b.live;
    if (a.number != b.number) return a.number < b.number ? -1 : 1;
    return a.waits - b.waits;
}

static void add_rank(char text[HANG_REPORT_BYTES], const RankHealth *rank, int number, int own) {
    add(text, "rank %d on %s%s", number, rank->place.host, number == own ? " (this one)" : "");
}

static void add_silent(char text[HANG_REPORT_BYTES], const RankHealth *rank, double quiet_seconds) {
    bool silent = is_silent(rank, quiet_seconds);
    if (!rank->known)
        add(text, " has written no health file");
    else if (silent)
        add(text, " stopped beating at %s in: %s", rank->time, rank->phase);
    else
        add(text, " is in: %s", rank->phase);
    if (rank->cut_off)
        add(text, "; its host does not answer at %s: it is gone or cut off", rank->place.address);
    else
        add(text, "; its host answers: the process was stopped");
}

static void add_behind(char text[HANG_REPORT_BYTES], const RankHealth *rank,
                       bool (*missed)(int64_t number, FlightRecord *record)) {
    FlightRecord record;
    add(text, " is in: %s, and has not reached ", rank->phase);
    if (missed(rank->number + 1, &record))
        add_collective(text, &record);
    else
        add(text, "collective %lld", (long long)rank->number + 1);
}

// Whether no other host answers, of several: then it is this one that is cut off.
static bool reaches_nobody(const RankHealth *all, int ranks, int own) {
    const char *here = all[own].place.host, *other = NULL;
    bool several = false;
    for (int rank = 0; rank < ranks; rank++) {
        const char *host = all[rank].place.host;
        if (strcmp(host, here) == 0) continue;
        if (!all[rank].cut_off) return false;
        several = several || (other && strcmp(host, other) != 0);
        other = host;
    }
    return several;
}

const char *hang_report_laggards(const RankHealth *all, int ranks, int own, double quiet_seconds,
                                 bool (*missed)(int64_t number, FlightRecord *record),
                                 char text[HANG_REPORT_BYTES]) {
    int64_t furthest = 0;
    int first = 0, named = 0, more = 0;
    text[0] = 0;
    for (int rank = 0; rank < ranks; rank++) {
        if (all[rank].number > furthest) furthest = all[rank].number;
        if (compare(lag_of(&all[rank], quiet_seconds), lag_of(&all[first], quiet_seconds)) < 0)
            first = rank;
    }
    Lag worst = lag_of(&all[first], quiet_seconds);
    if (reaches_nobody(all, ranks, own)) {
        add(text, "this host, %s, reaches none of the others: it is cut off", all[own].place.host);
        return text;
    }
    if (worst.live && worst.number == furthest) {
        if (ranks > 1)
            add(text,
                "all ranks write, and wait in collective %lld: look at the network between them",
                (long long)furthest);
        return text;
    }
    for (int rank = first; rank < ranks; rank++) {
        if (compare(lag_of(&all[rank], quiet_seconds), worst) != 0) continue;
        if (++named > MOST_NAMED) {
            more++;
            continue;
        }
        if (named > 1) add(text, "; ");
        add_rank(text, &all[rank], rank, own);
        if (worst.live)
            add_behind(text, &all[rank], missed);
        else
            add_silent(text, &all[rank], quiet_seconds);
    }
    if (more > 0) add(text, "; and %d more", more);
    return text;
}

// ---- the recorder's file ------------------------------------------------------------------------

static void write_record(FILE *file, const FlightRecord *record, double now) {
    char took[32];
    if (record->ended == 0)
        snprintf(took, sizeof took, "not ended");
    else
        snprintf(took, sizeof took, "%.3f", 1e3 * (record->ended - record->begun));
    fprintf(file, "%10lld  %12.3f  %12s  %12lld  %-20s %-10s %-15s %-6s  %s\n",
            (long long)record->number, now - record->begun, took, (long long)record->bytes,
            record->name, record->kind ? record->kind : "", record->group,
            record->on_device ? "device" : "host", record->phase);
}

static void write_flight(double quiet_seconds) {
    static FlightRecord records[FLIGHT_RECORDS];
    char path[CONFIG_PATH_BYTES + 64], utc[CLOCK_UTC_BYTES];
    if (!rank_health_folder()[0]) return;
    snprintf(path, sizeof path, "%s/flight-rank-%d.txt", rank_health_folder(), log_rank());
    char *text = NULL;
    size_t bytes = 0;
    Error ignored;
    FILE *file = open_memstream(&text, &bytes);
    if (!file) return;
    double now = clock_seconds();
    int count = flight_recorder_read(records);
    const RankPlace *place = &rank_places()[log_rank()];
    fprintf(file,
            "rank %d on %s, process %lld, at %s: no progress for %.1f s in: %s\n"
            "Its last %d collectives. The same number is the same collective on all ranks; one on "
            "the device has ended\nhere when the device has been told of it.\n\n"
            "%10s  %12s  %12s  %12s  %-20s %-10s %-15s %-6s  %s\n",
            log_rank(), place->host, (long long)place->pid, clock_utc(utc), quiet_seconds,
            heartbeat_phase(), count, "number", "s ago", "took ms", "bytes", "collective", "kind",
            "group", "place", "phase");
    for (int i = 0; i < count; i++) write_record(file, &records[i], now);
    if (fclose(file) == 0) file_make(path, text, bytes, &ignored);
    free(text);
}

// ---- the whole ----------------------------------------------------------------------------------

static struct {
    double quiet_seconds;
    char laggards[HANG_REPORT_BYTES];
} wanted; // stays, whatever the disk does

static void *look_around(void *unused) {
    char text[HANG_REPORT_BYTES];
    RankHealth *all = rank_health_read();
    if (all)
        hang_report_laggards(all, comm_size(), log_rank(), wanted.quiet_seconds,
                             flight_recorder_find, text);
    if (all) memcpy(wanted.laggards, text, sizeof text);
    free(all);
    write_flight(wanted.quiet_seconds);
    return unused;
}

const char *hang_report_make(double quiet_seconds, char text[HANG_REPORT_BYTES]) {
    FlightRecord last;
    bool known = flight_recorder_find(flight_recorder_last(), &last);
    wanted.quiet_seconds = quiet_seconds;
    text[0] = 0;
    add(text, "no progress for %.0f s in: %s", quiet_seconds, heartbeat_phase());
    if (known) add(text, ", %s ", last.ended > 0 ? "after" : "in");
    if (known) add_collective(text, &last);
    if (!deadline_run(look_around, NULL, LOOK_SECONDS))
        add(text, "; %s does not answer", rank_health_folder());
    else if (wanted.laggards[0])
        add(text, "; %s", wanted.laggards);
    return text;
}
