#include "worker/run/run_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/heartbeat.h"
#include "kernels/log.h"
#include "worker/run/signals.h"

enum { PATH_BYTES = 1280, RECORD_BYTES = LOCK_TEXT_BYTES, WORD_BYTES = 128 };

// For ranks that die a second after their mpirun.
static const double WAIT_SECONDS = 5;
// Three beats: whoever is silent for so long does not answer.
static const double SILENT_SECONDS = 3;
// Silent for so long on another host: dead, even if nothing proves it.
static const double LOST_SECONDS = 60;
// Without flock: for a rival that has read the same dead holder.
static const double SETTLE_SECONDS = 0.3;

// The text of RUN/lock. Every word is one without blanks, so that it can be read back and by
// people.
typedef struct Holder {
    char host[WORD_BYTES];
    // Boot and namespace of process ids: where `pid` means the same process.
    char machine[WORD_BYTES];
    long pid;
    // Of the process, in the kernel's ticks: a later one may get the same pid.
    unsigned long long started;
    char job[WORD_BYTES];
    int ranks;
    char since[WORD_BYTES];
} Holder;

static const char *const record_format =
    "host %s machine %s pid %ld started %llu job %s ranks %d since %s\n";

static struct {
    pthread_mutex_t mutex; // the watchdog's thread beats while the main thread confirms
    int fd;                // -1: not held
    char path[PATH_BYTES];
    char record[RECORD_BYTES];
    double confirmed; // when the file was last seen to be ours
} held = {.mutex = PTHREAD_MUTEX_INITIALIZER, .fd = -1};

// Goes on while the machine sleeps, as other hosts do.
static double boot_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- holders ------------------------------------------------------------------------------------

// When process `pid` was started; 0: there is none, or only a zombie of it.
static unsigned long long process_start(long pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = 0;
    char *rest = strrchr(text, ')'), state = 0; // the name before it may hold anything
    unsigned long long start = 0;
    // Field 3 is the state, field 22 the start.
    if (!rest || sscanf(rest + 1,
                        " %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s "
                        "%*s %*s %*s %llu",
                        &state, &start) != 2)
        return 0;
    return state == 'Z' || state == 'X' ? 0 : start;
}

static void read_machine(char machine[WORD_BYTES]) {
    char boot[64] = "?", space[64] = "?";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file) {
        if (fscanf(file, "%63s", boot) != 1) snprintf(boot, sizeof boot, "?");
        fclose(file);
    }
    ssize_t bytes = readlink("/proc/self/ns/pid", space, sizeof space - 1);
    if (bytes > 0) space[bytes] = 0;
    snprintf(machine, WORD_BYTES, "%s/%s", boot, space);
}

static Holder this_process(int ranks) {
    Holder holder = {
        .pid = (long)getpid(), .started = process_start((long)getpid()), .ranks = ranks};
    const char *job = getenv("SLURM_JOB_ID");
    snprintf(holder.job, sizeof holder.job, "%s", job && job[0] ? job : "none");
    for (char *c = holder.job; *c; c++)
        if (*c <= ' ') *c = '_';
    if (gethostname(holder.host, sizeof holder.host - 1) != 0 || !holder.host[0])
        snprintf(holder.host, sizeof holder.host, "?");
    read_machine(holder.machine);
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(holder.since, sizeof holder.since, "%Y-%m-%dT%H:%M:%SZ", &utc);
    return holder;
}

// False: the text names nobody (released, or written by something else).
static bool parse_holder(const char *text, Holder *holder) {
    *holder = (Holder){0};
    return sscanf(text,
                  "host %127s machine %127s pid %ld started %llu job %127s ranks %d since %127s",
                  holder->host, holder->machine, &holder->pid, &holder->started, holder->job,
                  &holder->ranks, holder->since) == 7;
}

// "job 17, process 4242 on h7 (4 ranks, since …)"
static void describe(const Holder *holder, char text[RECORD_BYTES]) {
    bool has_job = strcmp(holder->job, "none") != 0;
    snprintf(text, RECORD_BYTES, "%s%s%sprocess %ld on %s (%d rank%s, since %s)",
             has_job ? "job " : "", has_job ? holder->job : "", has_job ? ", " : "", holder->pid,
             holder->host, holder->ranks, holder->ranks == 1 ? "" : "s", holder->since);
}

bool run_lock_names(const char *record, char text[LOCK_TEXT_BYTES]) {
    Holder holder;
    if (!parse_holder(record, &holder)) return false;
    describe(&holder, text);
    return true;
}

// ---- the file -----------------------------------------------------------------------------------

// What the lock file says, and when its holder has touched it last. False when there is no such
// file.
static bool read_record(const char *path, char text[RECORD_BYTES], struct timespec *touched) {
    text[0] = 0;
    Error ignored;
    int fd = file_open(path, O_RDONLY | O_NONBLOCK, &ignored);
    if (fd < 0) return false;
    struct stat status = {0};
    int64_t bytes =
        fstat(fd, &status) == 0 ? file_read_some(fd, text, RECORD_BYTES - 1, 0, &ignored) : -1;
    close(fd);
    text[bytes > 0 ? bytes : 0] = 0;
    *touched = status.st_mtim;
    return true;
}

// Seconds since the file at `path` was touched, by the clock of its file system: -1 when that
// cannot be asked.
static double age_seconds(const char *path, struct timespec touched) {
    char probe[PATH_BYTES + 32];
    snprintf(probe, sizeof probe, "%s.%ld.tmp", path, (long)getpid());
    Error ignored;
    struct stat now;
    bool ok = file_make(probe, "\n", 1, &ignored) && stat(probe, &now) == 0;
    file_remove(probe, &ignored);
    if (!ok) return -1;
    return (double)(now.st_mtim.tv_sec - touched.tv_sec) +
           1e-9 * (double)(now.st_mtim.tv_nsec - touched.tv_nsec);
}

static bool cannot(const Error *cause, Error *err) {
    return error_set(err, EXIT_IO, "%s; choose a run.dir that can be written", cause->message);
}

// Puts our name into the file that flock has given us. At no moment is it empty, which would mean
// that nobody holds it.
static bool name_in_place(int fd, const char *path, const char *record, Error *err) {
    size_t bytes = strlen(record);
    Error cause;
    if (file_write_at(fd, record, bytes, 0, &cause) && file_set_length(fd, (int64_t)bytes, &cause))
        return true;
    close(fd);
    error_prefix(&cause, "%s", path);
    return cannot(&cause, err);
}

// Without flock: a file with our name takes the place of the old one; of two that try, the second
// wins and the first sees it. False without an error: somebody else was faster.
static bool name_by_rename(const char *path, const char *record, int *fd, Error *err) {
    char ours[PATH_BYTES + 32], now[RECORD_BYTES];
    struct timespec touched;
    snprintf(ours, sizeof ours, "%s.%ld.tmp", path, (long)getpid());
    Error cause;
    if (!file_replace(path, ours, record, strlen(record), &cause)) return cannot(&cause, err);
    int file = file_open(path, O_RDWR, &cause);
    if (file < 0) return cannot(&cause, err);
    nanosleep(&(struct timespec){.tv_nsec = (long)(SETTLE_SECONDS * 1e9)}, NULL);
    if (read_record(path, now, &touched) && strcmp(now, record) == 0) {
        *fd = file;
        return true;
    }
    close(file);
    return false;
}

// ---- taking -------------------------------------------------------------------------------------

typedef enum Grip {
    GRIP_LOCKED,  // flock is ours
    GRIP_DENIED,  // flock is another's, who lives
    GRIP_UNKNOWN, // this file system has no flock
} Grip;

static Grip try_flock(int fd) {
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return GRIP_LOCKED;
    return errno == EWOULDBLOCK || errno == EINTR ? GRIP_DENIED : GRIP_UNKNOWN;
}

// Whether the path still leads to the open file: a holder without flock replaces it.
static bool same_file(int fd, const char *path) {
    struct stat open_one, named;
    return fstat(fd, &open_one) == 0 && lstat(path, &named) == 0 &&
           open_one.st_ino == named.st_ino && open_one.st_dev == named.st_dev;
}

// What is known of the holder that stands in the file.
typedef struct Watch {
    Holder holder;
    bool named; // by the file
    struct timespec touched;
    double still_since; // boot_seconds of the last beat that we saw, or of the first look
} Watch;

static void look(Watch *watch, const char *path) {
    char text[RECORD_BYTES];
    struct timespec touched = {0};
    Holder holder;
    bool named = read_record(path, text, &touched) && parse_holder(text, &holder);
    bool same = named == watch->named && touched.tv_sec == watch->touched.tv_sec &&
                touched.tv_nsec == watch->touched.tv_nsec;
    if (!same || watch->still_since == 0) watch->still_since = boot_seconds();
    watch->named = named;
    watch->touched = touched;
    if (named) watch->holder = holder;
}

// Whether the holder's process lives; true when that cannot be asked from here.
static bool may_live(const Holder *holder, const Holder *self) {
    return strcmp(holder->machine, self->machine) != 0 ||
           process_start(holder->pid) == holder->started;
}

// Whether nobody who is named in the file can be training here.
static bool is_free(const Watch *watch, const Holder *self, const char *path, Grip grip) {
    if (grip == GRIP_DENIED) return false;
    if (!watch->named || !may_live(&watch->holder, self)) return true;
    bool same_machine = strcmp(watch->holder.machine, self->machine) == 0;
    // It lives and has not locked this file: this is a copy of the folder that it trains in.
    if (same_machine && grip == GRIP_LOCKED) return true;
    if (boot_seconds() - watch->still_since <= SILENT_SECONDS) return false;
    return grip == GRIP_LOCKED || age_seconds(path, watch->touched) > LOST_SECONDS;
}

static bool refuse(const char *run_dir, const Watch *watch, Error *err) {
    char who[RECORD_BYTES] = "another job, which its lock does not name";
    if (watch->named) describe(&watch->holder, who);
    double silent = boot_seconds() - watch->still_since;
    if (signals_received())
        return error_set(err, EXIT_REQUEUE,
                         "stopped by %s while waiting for run.dir %s, held by %s; run the same "
                         "command again to go on",
                         signal_name(signals_received()), run_dir, who);
    if (watch->named && silent > SILENT_SECONDS)
        return error_set(
            err, EXIT_REQUEUE,
            "run.dir %s is held by %s, which has not answered for %.0f s; run the same "
            "command again later, or end that process",
            run_dir, who, silent);
    return error_set(err, EXIT_LOCKED,
                     "run.dir %s: another job is training here: %s; wait for it or choose another "
                     "run.dir",
                     run_dir, who);
}

static void warn_of_takeover(const char *run_dir, const Watch *watch, const Holder *self) {
    char who[RECORD_BYTES];
    if (!watch->named) return;
    bool elsewhere = strcmp(watch->holder.machine, self->machine) != 0;
    if (!elsewhere && may_live(&watch->holder, self)) return; // a copied folder
    describe(&watch->holder, who);
    log_warn("run.dir %s was held by %s, which %s: taken over", run_dir, who,
             elsewhere ? "does not answer any more" : "ended without a word");
}

// The file becomes ours. False without an error: try again.
static bool grab(int fd, Grip grip, const char *path, const char *record, Error *err) {
    if (grip == GRIP_LOCKED) {
        if (!name_in_place(fd, path, record, err)) return false;
    } else {
        close(fd);
        if (!name_by_rename(path, record, &fd, err)) return false;
    }
    pthread_mutex_lock(&held.mutex);
    snprintf(held.path, sizeof held.path, "%s", path);
    snprintf(held.record, sizeof held.record, "%s", record);
    held.confirmed = boot_seconds();
    held.fd = fd; // stays open on purpose: flock ends with the process
    pthread_mutex_unlock(&held.mutex);
    return true;
}

bool run_lock_take(const char *run_dir, const char *name, int ranks, Error *err) {
    char path[PATH_BYTES], record[RECORD_BYTES];
    Holder self = this_process(ranks);
    Watch watch = {0};
    double begin = boot_seconds();
    snprintf(path, sizeof path, "%s/%s", run_dir, name);
    snprintf(record, sizeof record, record_format, self.host, self.machine, self.pid, self.started,
             self.job, self.ranks, self.since);
    for (;;) {
        watchdog_beat("waiting for the lock of run.dir");
        Error cause;
        int fd = file_open_or_make(path, O_RDWR, &cause);
        if (fd < 0) return cannot(&cause, err);
        look(&watch, path);
        Grip grip = try_flock(fd);
        if (!same_file(fd, path) || !is_free(&watch, &self, path, grip)) {
            close(fd);
        } else if (grab(fd, grip, path, record, err)) {
            warn_of_takeover(run_dir, &watch, &self);
            return true;
        } else if (err->message[0]) {
            return false;
        }
        if (boot_seconds() - begin > WAIT_SECONDS || signals_received())
            return refuse(run_dir, &watch, err);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
}

// ---- holding ------------------------------------------------------------------------------------

// Whether the file still names this process. A file that has vanished names nobody else. Called
// with the mutex held.
static bool still_ours(void) {
    char text[RECORD_BYTES];
    struct timespec touched;
    if (read_record(held.path, text, &touched) && text[0] && strcmp(text, held.record) != 0)
        return false;
    held.confirmed = boot_seconds();
    return true;
}

static _Noreturn void end_replaced(void) {
    die(EXIT_LOCKED, __FILE__, __LINE__,
        "%s names another job, which has replaced this one while it did not answer; nothing more "
        "is written here",
        held.path);
}

void run_lock_beat(void) {
    pthread_mutex_lock(&held.mutex);
    bool ours = held.fd < 0 || still_ours();
    if (held.fd >= 0 && ours) futimens(held.fd, NULL);
    pthread_mutex_unlock(&held.mutex);
    if (!ours) end_replaced();
}

void run_lock_confirm(void) {
    pthread_mutex_lock(&held.mutex);
    bool ours = held.fd < 0 || boot_seconds() - held.confirmed < SILENT_SECONDS || still_ours();
    pthread_mutex_unlock(&held.mutex);
    if (!ours) end_replaced();
}

void run_lock_release(void) {
    pthread_mutex_lock(&held.mutex);
    if (held.fd >= 0) {
        Error cause;
        if (still_ours() && !file_set_length(held.fd, 0, &cause))
            log_warn("%s: %s", held.path, cause.message);
        close(held.fd);
        held.fd = -1;
    }
    pthread_mutex_unlock(&held.mutex);
}
