// A checkpoint that a thread writes behind training: neither its hang nor, while it works, the main
// thread's goes unseen, and one that is only slow is no hang. Each case is a process of its own,
// since a hang ends it with exit code 8. On one rank, without arguments.
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/process_groups.h"
#include "kernels/clock.h"
#include "tests/faults/inject/fault.h"
#include "tests/parallel/checkpoint_sample.h"
#include "worker/save_behind.h"
#include "worker/watch/watchdog.h"

static const double HANG_SECONDS = 2;

static double slow_until;
static volatile bool for_ever = true;

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
}

// No other thread here writes in this way.
static bool is_of_writer(const char *call) {
    return strcmp(call, "pwrite") == 0;
}

// Called by the thread before each of its system calls.
static int never_returns(const char *call) {
    while (for_ever && is_of_writer(call)) nap();
    return 0;
}

static int works_for_ever(const char *call) {
    while (for_ever && is_of_writer(call)) {
        watchdog_beat(NULL);
        nap();
    }
    return 0;
}

static int works_longer_than_a_hang(const char *call) {
    while (clock_seconds() < slow_until && is_of_writer(call)) {
        watchdog_beat(NULL);
        nap();
    }
    return 0;
}

typedef struct Case {
    const char *name;
    int (*thread_does)(const char *call);
    bool main_waits; // for the thread, or it stops somewhere else
    int exit_code;
    const char *says;
} Case;

static const Case CASES[] = {
    {"a thread that hangs", never_returns, true, EXIT_HANG,
     "no progress for 2 s in: waiting for the checkpoint that is being written"},
    {"main hangs beside a thread that works", works_for_ever, false, EXIT_HANG,
     "no progress for 2 s in: forward and backward"},
    {"a thread that is slow", works_longer_than_a_hang, true, 0, ""},
};
enum { CASE_COUNT = sizeof CASES / sizeof *CASES };

static void run_case(const Case *one) {
    char run_dir[] = "/dev/shm/check_save_behind.XXXXXX", command[64];
    Sample sample;
    Error err = {0};
    SaveBehind behind = {0};
    CheckpointSave *save = NULL;
    comm_init(NULL, NULL);
    ProcessGroups groups = process_groups_open(1, NULL);
    CHECK(mkdtemp(run_dir), "no temporary directory");
    snprintf(command, sizeof command, "rm -r '%s'", run_dir);
    sample_init(&sample, 1, 0, 1, false);
    for (int i = 0; i < SAMPLE_TENSORS; i++) sample.tensors[i].stays = STAYS_UNTIL_UPDATE;
    CHECK(checkpoint_save_begin(&save, run_dir, &sample.checkpoint, &err), "%s", err.message);
    watchdog_start(HANG_SECONDS, HANG_SECONDS);
    slow_until = clock_seconds() + 2 * HANG_SECONDS;
    fault_call_decides = one->thread_does;
    watchdog_beat("forward and backward");
    save_behind_start(&behind, save, 1, 0);
    if (one->exit_code != 0 && fork() == 0) { // who cleans up behind a process that is ended
        pid_t parent = getppid();
        while (getppid() == parent) nap();
        _exit(system(command));
    }
    while (!one->main_waits) nap();
    save_behind_before_update(&behind); // helps itself when the thread does not come to it
    watchdog_beat("waiting for the checkpoint that is being written");
    CHECK(save_behind_written(&behind, true), "not written");
    CHECK(save_behind_finish(&behind, (CheckpointKeep){0}, &err), "%s", err.message);
    watchdog_stop();
    save_behind_close(&behind);
    CHECK(system(command) == 0, "cannot remove %s", run_dir);
    process_groups_close(&groups);
    comm_finalize();
}

int main(void) {
    pid_t pids[CASE_COUNT];
    int outputs[CASE_COUNT];
    for (int i = 0; i < CASE_COUNT; i++) { // all at once: they wait
        int ends[2];
        CHECK(pipe(ends) == 0, "no pipe");
        outputs[i] = ends[0];
        pids[i] = fork();
        if (pids[i] == 0) {
            dup2(ends[1], STDERR_FILENO);
            close(ends[0]);
            close(ends[1]);
            run_case(&CASES[i]);
            _exit(0);
        }
        close(ends[1]);
    }
    for (int i = 0; i < CASE_COUNT; i++) {
        char text[4096] = "";
        size_t used = 0;
        int status;
        CHECK(waitpid(pids[i], &status, 0) == pids[i], "no process");
        ssize_t got;
        fcntl(outputs[i], F_SETFL, O_NONBLOCK);
        while ((got = read(outputs[i], text + used, sizeof text - 1 - used)) > 0)
            used += (size_t)got;
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == CASES[i].exit_code &&
                  strstr(text, CASES[i].says),
              "%s: status %d, not exit code %d and '%s': %s", CASES[i].name, status,
              CASES[i].exit_code, CASES[i].says, text);
    }
    return 0;
}
