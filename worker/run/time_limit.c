#include "worker/run/time_limit.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/signals.h"

// A slow disk, or a file system shared with others.
static const double ASSUMED_BYTES_A_SECOND = 100e6;
// Room, hashes, agreement, rename: what a save of few bytes takes; and leaving.
static const double LEAST_SAVE_SECONDS = 1, LEAVE_SECONDS = 2;
// The next save may take longer than those before; of one in flight the rest must be waited for.
enum { SAVES_KEPT = 2, SAVES_KEPT_ASYNC = 3 };

// Between questions to the scheduler, which has others to answer; shortly before the run is stopped
// for an answer it is asked more often.
static const double ASK_SECONDS = 300, NEAR_SECONDS = 15, ASK_NEAR_SECONDS = 5;
static const double CHANGE_SECONDS = 30; // less is the rounding of an answer

// The thread of files sets it anew, others read.
static JobEnd end = {.at = INFINITY, .own = INFINITY};
static pthread_mutex_t end_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int saves_kept = SAVES_KEPT;
// The main thread tells, the watchdog's thread asks.
static _Atomic double longest_step, longest_save, assumed_save;
static atomic_bool begun, requested;

JobEnd time_limit_end(void) {
    pthread_mutex_lock(&end_lock);
    JobEnd known = end;
    pthread_mutex_unlock(&end_lock);
    return known;
}

static void set_end(const JobEnd *known) {
    pthread_mutex_lock(&end_lock);
    end = *known;
    pthread_mutex_unlock(&end_lock);
}

double save_seconds_assumed(int64_t bytes) {
    return LEAST_SAVE_SECONDS + (double)bytes / ASSUMED_BYTES_A_SECOND;
}

void time_limit_begin(double max_minutes, bool asynchronous_saves) {
    if (log_rank() != 0) return;
    JobEnd found = job_end_find(max_minutes);
    set_end(&found);
    atomic_store(&saves_kept, asynchronous_saves ? SAVES_KEPT_ASYNC : SAVES_KEPT);
    atomic_store(&begun, true);
}

void time_limit_log(void) {
    char left[CLOCK_DURATION_BYTES];
    JobEnd known = time_limit_end();
    if (!isfinite(known.at)) return;
    log_info("time limit: %s left, says %s; saved %d times the longest save and one step before "
             "(the first save is taken for %.1f s)",
             clock_duration(known.at - clock_seconds(), left), known.source,
             atomic_load(&saves_kept), atomic_load(&assumed_save));
}

void time_limit_expect_save(int64_t bytes) {
    atomic_store(&assumed_save, save_seconds_assumed(bytes));
}

void time_limit_step(double seconds) {
    if (seconds > atomic_load(&longest_step)) atomic_store(&longest_step, seconds);
}

void time_limit_save(double seconds) {
    if (seconds > atomic_load(&longest_save)) atomic_store(&longest_save, seconds);
}

// What must fit before the end: a save by measure, or else by its bytes, and a step.
typedef struct Need {
    double save, step, seconds;
    bool measured;
} Need;

static Need need(void) {
    Need most = {.save = atomic_load(&longest_save), .step = atomic_load(&longest_step)};
    most.measured = most.save > 0;
    if (!most.measured) most.save = atomic_load(&assumed_save);
    most.seconds = atomic_load(&saves_kept) * most.save + most.step + LEAVE_SECONDS;
    return most;
}

void time_limit_beat(void) {
    JobEnd known = time_limit_end();
    if (atomic_load(&requested) || !isfinite(known.at)) return;
    Need most = need();
    double left = known.at - clock_seconds();
    if (most.step == 0 || left > most.seconds) return;
    atomic_store(&requested, true);
    log_info("time limit: %.1f s left, says %s; the longest save %s %.1f s, the longest step %.1f: "
             "stopping after the step that runs",
             left, known.source, most.measured ? "took" : "may take", most.save, most.step);
    signals_request(STOP_TIME_LIMIT);
}

// `before` and `now` in words, where they differ.
static void tell_change(const JobEnd *before, const JobEnd *now) {
    char left[CLOCK_DURATION_BYTES];
    if (before->at == now->at || fabs(before->at - now->at) < CHANGE_SECONDS) return;
    if (isfinite(now->at))
        log_info("time limit changed: %s left, says %s",
                 clock_duration(now->at - clock_seconds(), left), now->source);
    else
        log_info("time limit changed: there is none any more");
}

void time_limit_ask(void) {
    static double asked;
    double now = clock_seconds();
    JobEnd known = time_limit_end(), before = known;
    if (asked == 0) asked = now;
    if (!atomic_load(&begun) || atomic_load(&requested)) return;
    bool near = known.at - now < need().seconds + NEAR_SECONDS;
    if (now - asked < (near ? ASK_NEAR_SECONDS : ASK_SECONDS)) return;
    if (job_end_ask(&known)) set_end(&known);
    asked = clock_seconds();
    tell_change(&before, &known);
}
