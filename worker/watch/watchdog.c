#include "worker/watch/watchdog.h"

#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/deadline.h"
#include "worker/run/outcome.h"
#include "worker/run/run_lock.h"
#include "worker/run/run_requests.h"
#include "worker/run/run_status.h"
#include "worker/run/signals.h"
#include "worker/run/time_limit.h"
#include "worker/watch/hang_report.h"
#include "worker/watch/job_quiet.h"
#include "worker/watch/phase_timeouts.h"

static const double POLL_SECONDS = 0.1;
static const double PATIENCE_SECONDS = 0.3; // of somebody who has sent a signal and sees nothing
static const double START_SECONDS = 600;
enum { POLLS_A_CHECK = 10, LAUNCHER_SECONDS = 25, SAY_SECONDS = 2, OTHERS_SECONDS = 1 };

static pthread_t thread, thread_of_files;
static sem_t files_due;
static atomic_bool watching;
static _Atomic double most_seconds, least_seconds;
static _Atomic(const char *) limit; // who has set them
static atomic_int hang_code = EXIT_HANG;

// What may wait for a disk, and must not keep anybody from watching.
static void *beat_files(void *unused) {
    while (atomic_load(&watching)) {
        while (sem_wait(&files_due) != 0) {
        }
        while (sem_trywait(&files_due) == 0) {
        } // those that a slow disk has missed
        run_lock_beat();
        run_status_beat();
        run_requests_beat();
        rank_health_beat();
        time_limit_ask();
    }
    return unused;
}

static bool is_mpirun(pid_t process) {
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)process);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    if (!fgets(name, sizeof name, file)) name[0] = 0;
    fclose(file);
    return strcmp(name, "mpirun\n") == 0 || strcmp(name, "orterun\n") == 0;
}

// Ends this job's mpirun when it does not end by itself. Without its keepalive it waits for ever
// for a host that is cut off, although its rank here has left with an exit code. A process of its
// own session, because mpirun kills its ranks' groups.
static void end_mpirun_later(void) {
    static const char *const said =
        "moetrain: fatal: mpirun waits for a host that does not answer; it is ended\n";
    pid_t launcher = getppid();
    if (!is_mpirun(launcher) || fork() != 0) return;
    setsid();
    close_range(STDERR_FILENO + 1, ~0U, 0); // the run's lock among them
    // of several threads only this one is left: nothing but system calls from here on
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < LAUNCHER_SECONDS && kill(launcher, 0) == 0; i++)
        nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    if (kill(launcher, SIGKILL) == 0) (void)!write(STDERR_FILENO, said, strlen(said));
    _exit(EXIT_HANG);
}

// The reader of our output may be what hangs.
static void *say(void *line) {
    fputs(line, stderr);
    fflush(stderr);
    return NULL;
}

static _Noreturn void end_hang(double quiet_seconds, bool learned) {
    char host[256] = "?", when[LOG_TIME_BYTES], message[HANG_REPORT_BYTES], flight[1280] = "";
    static char line[4096]; // whoever says it may outlive this function
    gethostname(host, sizeof host - 1);
    hang_report_make(quiet_seconds, message);
    outcome_write_soon(EXIT_HANG, message);
    if (rank_health_folder()[0])
        snprintf(flight, sizeof flight, "; its last collectives are in %s/flight-rank-%d.txt",
                 rank_health_folder(), log_rank());
    snprintf(line, sizeof line, "moetrain: fatal: rank %d on %s, process %d: %s%s (%s)%s\n",
             log_rank(), host, (int)getpid(), message, flight,
             learned ? "five times the longest that this phase was quiet before; run.hang_floor "
                       "and run.hang_timeout set the bounds"
                     : atomic_load(&limit),
             log_time(when));
    deadline_run(say, line, SAY_SECONDS);
    // The others are at this too, and the launcher ends them with the first that leaves.
    nanosleep(&(struct timespec){.tv_sec = OTHERS_SECONDS}, NULL);
    end_mpirun_later();
    _exit(atomic_load(&hang_code));
}

// A signal that is not obeyed at once is at least confirmed: a step may take long, and mpirun does
// not wait for it.
static void confirm_signal(int number) {
    bool from_mpirun = number == SIGTERM && getenv("OMPI_COMM_WORLD_RANK");
    log_info("%s received in: %s; stopping as soon as it ends%s", signal_name(number),
             heartbeat_phase(),
             from_mpirun
                 ? ". mpirun kills its ranks one second after Ctrl-C or SIGTERM, which may be too "
                   "soon to save: launcher/mpirun gives them the time"
                 : "");
}

static void *watch(void *unused) {
    unsigned long seen = heartbeat_count();
    double unobeyed_seconds = 0, begin = clock_seconds();
    JobQuiet quiet = {0};
    PhaseTimeouts timeouts = {0};
    bool confirmed = false;
    int polls = 0, repeats = 0;
    const char *phase = NULL; // of the last look, as `repeats`
    while (atomic_load(&watching)) {
        signals_wait(POLL_SECONDS);
        // The clock counts polls that really ran: a whole machine that was suspended is not a hang.
        double slept = clock_seconds() - begin, elapsed = fmin(slept, POLL_SECONDS);
        begin += slept;
        bool stopped = slept > POLLS_A_CHECK *
                                   POLL_SECONDS; // and another job may have taken the run meanwhile
        if (++polls % POLLS_A_CHECK == 0 || stopped) {
            collectives_check(); // what failed behind our back
            sem_post(&files_due);
            time_limit_beat();
        }
        int number = signals_unobeyed();
        unobeyed_seconds = number ? unobeyed_seconds + elapsed : 0;
        if (unobeyed_seconds > PATIENCE_SECONDS && !confirmed && number != STOP_TIME_LIMIT) {
            confirm_signal(number);
            confirmed = true;
        }
        unsigned long now = heartbeat_count();
        if (now != seen && repeats > 0) phase_timeouts_learn(&timeouts, phase, quiet.own);
        job_quiet_pass(&quiet, elapsed, now != seen);
        rank_health_note_quiet(quiet.own);
        seen = now;
        phase = heartbeat_phase();
        repeats = heartbeat_repeats();
        timeouts.most = atomic_load(&most_seconds);
        timeouts.least = atomic_load(&least_seconds);
        bool learned;
        double timeout = phase_timeouts_of(&timeouts, phase, repeats, &learned);
        if (job_quiet_expired(&quiet, timeout)) end_hang(job_quiet_seconds(&quiet), learned);
    }
    return unused;
}

static void start(pthread_t *started, void *(*work)(void *), const char *name) {
    CHECK(pthread_create(started, NULL, work, NULL) == 0, "cannot start the thread %s", name);
    pthread_setname_np(*started, name);
}

static void start_threads(void) {
    if (atomic_exchange(&watching, true)) return;
    CHECK(sem_init(&files_due, 0, 0) == 0, "cannot make a semaphore");
    start(&thread_of_files, beat_files, "files");
    start(&thread, watch, "watchdog");
}

static void set_bounds(double most, double least, const char *who) {
    atomic_store(&most_seconds, most);
    atomic_store(&least_seconds, least);
    atomic_store(&limit, who);
}

void watchdog_begin(void) {
    set_bounds(START_SECONDS, START_SECONDS,
               "a start waits no longer before it knows run.hang_timeout: a rank has not started, "
               "or hosts do not reach each other");
    start_threads();
}

void watchdog_start(double timeout_seconds, double floor_seconds) {
    set_bounds(timeout_seconds, floor_seconds, "run.hang_timeout sets the limit");
    start_threads();
}

void watchdog_leave(int exit_code) {
    atomic_store(&hang_code, exit_code);
    atomic_store(&limit, "what was to be done had been done, and that exit code stands");
    watchdog_beat("leaving MPI");
    start_threads();
}

void watchdog_stop(void) {
    if (!atomic_exchange(&watching, false)) return;
    pthread_join(thread, NULL);
    sem_post(&files_due);
    pthread_join(thread_of_files, NULL);
    sem_destroy(&files_due);
}
