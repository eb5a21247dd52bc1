#include "worker/watch/rank_health.h"

#include <dirent.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/heartbeat.h"
#include "kernels/log.h"
#include "kernels/option.h"
#include "worker/run/json_file.h"

enum { PATH_BYTES = CONFIG_PATH_BYTES + 64 };

// Written once, before `begun`.
static char folder[CONFIG_PATH_BYTES + 16];
static int ranks;
static atomic_bool begun;
static _Atomic double quiet_now;

static void path_of(int rank, char path[PATH_BYTES]) {
    snprintf(path, PATH_BYTES, "%s/rank-%d.json", folder, rank);
}

// Of an earlier start, which may have had more ranks; other people's files stay.
static void remove_old_files(void) {
    char path[PATH_BYTES + NAME_MAX];
    Error ignored;
    DIR *files = opendir(folder);
    for (struct dirent *file; files && (file = readdir(files));)
        if (strncmp(file->d_name, "rank-", 5) == 0 ||
            strncmp(file->d_name, "flight-rank-", 12) == 0) {
            snprintf(path, sizeof path, "%s/%s", folder, file->d_name);
            file_remove(path, &ignored);
        }
    if (files) closedir(files);
}

const char *rank_health_folder(void) {
    return atomic_load(&begun) ? folder : "";
}

// ---- writing ------------------------------------------------------------------------------------

static RankHealth present(void) {
    FlightRecord last = {0};
    RankHealth own = {.place = rank_places()[log_rank()], .known = true};
    clock_utc(own.time);
    snprintf(own.phase, sizeof own.phase, "%s", heartbeat_phase());
    own.quiet_seconds = atomic_load(&quiet_now);
    own.number = flight_recorder_last();
    own.ended = flight_recorder_find(own.number, &last) && last.ended > 0;
    return own;
}

static bool write_own(void) {
    char path[PATH_BYTES];
    RankHealth own = present();
    path_of(log_rank(), path);
    return json_file_replace(path,
                             json_pack("{s:s, s:s, s:f, s:I, s:b}", "time", own.time, "phase",
                                       own.phase, "quiet_seconds", own.quiet_seconds, "collective",
                                       (json_int_t)own.number, "ended", own.ended));
}

void rank_health_note_quiet(double seconds) {
    atomic_store(&quiet_now, seconds);
}

void rank_health_beat(void) {
    if (!atomic_load(&begun)) return;
    // Somebody may have removed the folder, with or without that of the run.
    Error ignored;
    if (!write_own() && directory_make_new(folder, &ignored)) write_own();
}

void rank_health_begin(const char *run_dir) {
    snprintf(folder, sizeof folder, "%s/health", run_dir);
    ranks = comm_size();
    if (comm_rank() == 0) {
        remove_old_files();
        Error ignored;
        directory_make_new(folder, &ignored);
    }
    rank_places();
    barrier(comm_world()); // nothing new is removed
    write_own();
    atomic_store(&begun, true);
}

// ---- reading ------------------------------------------------------------------------------------

static double written_seconds(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) return 0;
    return (double)info.st_mtim.tv_sec + 1e-9 * (double)info.st_mtim.tv_nsec;
}

static void copy_text(char *to, size_t bytes, json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(to, bytes, "%s", text ? text : "?");
}

static void reach(RankHealth *all) {
    bool *cut_off = calloc((size_t)ranks, sizeof *cut_off);
    if (!cut_off) return;
    rank_places_reach(rank_places(), ranks, log_rank(), cut_off);
    for (int rank = 0; rank < ranks; rank++) all[rank].cut_off = cut_off[rank];
    free(cut_off);
}

RankHealth *rank_health_look(void) {
    char path[PATH_BYTES];
    if (!atomic_load(&begun)) return NULL;
    RankHealth *all = calloc((size_t)ranks, sizeof *all);
    if (!all) return NULL;
    for (int rank = 0; rank < ranks; rank++) {
        RankHealth *one = &all[rank];
        one->place = rank_places()[rank];
        path_of(rank, path);
        one->written_seconds = written_seconds(path);
        json_t *object = json_file_read(path);
        if (!object) continue;
        one->known = true;
        copy_text(one->time, sizeof one->time, object, "time");
        copy_text(one->phase, sizeof one->phase, object, "phase");
        one->quiet_seconds = json_number_value(json_object_get(object, "quiet_seconds"));
        one->number = (int64_t)json_integer_value(json_object_get(object, "collective"));
        one->ended = json_is_true(json_object_get(object, "ended"));
        json_decref(object);
    }
    return all;
}

RankHealth *rank_health_read(void) {
    rank_health_beat();
    RankHealth *all = rank_health_look();
    if (!all) return NULL;
    double now = all[log_rank()].written_seconds;
    for (int rank = 0; rank < ranks; rank++)
        all[rank].silent_seconds = now - all[rank].written_seconds;
    all[log_rank()] = present();
    reach(all);
    return all;
}

void rank_health_end(void) {
    char path[PATH_BYTES];
    if (!atomic_exchange(&begun, false)) return;
    path_of(log_rank(), path);
    Error ignored;
    file_remove(path, &ignored);
    directory_remove(folder, &ignored);
}
