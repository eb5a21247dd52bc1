#include "worker/watchdog.h"

#include <math.h>
#include <pthread.h>
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
#include "worker/outcome.h"
#include "worker/run_lock.h"
#include "worker/run_requests.h"
#include "worker/run_status.h"
#include "worker/signals.h"

static const double POLL_SECONDS = 0.1;
static const double PATIENCE_SECONDS = 0.3; // of somebody who has sent a signal and sees nothing
enum { POLLS_A_CHECK = 10, LAUNCHER_SECONDS = 25 };

static pthread_t thread;
static atomic_bool watching;
static double timeout;

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

static _Noreturn void end_hang(double quiet_seconds) {
    char host[256] = "?", when[LOG_TIME_BYTES], message[256];
    gethostname(host, sizeof host - 1);
    snprintf(message, sizeof message, "no progress for %.0f s in: %s", quiet_seconds,
             heartbeat_phase());
    outcome_write_soon(EXIT_HANG, message);
    fprintf(stderr,
            "moetrain: fatal: rank %d on %s: no progress for %.0f s in: %s; a rank that does "
            "not say this is the one that stopped (run.hang_timeout sets the limit)%s\n",
            log_rank(), host, quiet_seconds, heartbeat_phase(), log_time(when));
    fflush(stderr);
    end_mpirun_later();
    _exit(EXIT_HANG);
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
    double quiet_seconds = 0, unobeyed_seconds = 0, begin = clock_seconds();
    bool confirmed = false;
    int polls = 0;
    while (atomic_load(&watching)) {
        signals_wait(POLL_SECONDS);
        // The clock counts polls that really ran: a whole machine that was suspended is not a hang.
        double slept = clock_seconds() - begin, elapsed = fmin(slept, POLL_SECONDS);
        begin += slept;
        bool stopped = slept > POLLS_A_CHECK *
                                   POLL_SECONDS; // and another job may have taken the run meanwhile
        if (++polls % POLLS_A_CHECK == 0 || stopped) {
            collectives_check(); // what failed behind our back
            run_lock_beat();
            run_status_beat();
            run_requests_beat();
        }
        int number = signals_unobeyed();
        unobeyed_seconds = number ? unobeyed_seconds + elapsed : 0;
        if (unobeyed_seconds > PATIENCE_SECONDS && !confirmed) {
            confirm_signal(number);
            confirmed = true;
        }
        unsigned long now = heartbeat_count();
        quiet_seconds = now == seen ? quiet_seconds + elapsed : 0;
        seen = now;
        if (timeout > 0 && quiet_seconds > timeout) end_hang(quiet_seconds);
    }
    return unused;
}

void watchdog_start(double timeout_seconds) {
    timeout = timeout_seconds;
    atomic_store(&watching, true);
    CHECK(pthread_create(&thread, NULL, watch, NULL) == 0, "cannot start the watchdog thread");
}

void watchdog_stop(void) {
    if (!atomic_exchange(&watching, false)) return;
    pthread_join(thread, NULL);
}
