// When a fault strikes.
#include "fault.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/log.h"

int (*fault_call_decides)(const char *call) = NULL;

static Fault faults[FAULTS_MAX];
static int fault_count;
static atomic_llong step_now;
static _Thread_local FaultPhase phase_now; // the last that this thread has passed

ssize_t __real_write(int fd, const void *data, size_t bytes);

// Before main, and before anything can strike.
__attribute__((constructor)) static void read_environment(void) {
    char message[512];
    const char *text = getenv("MOETRAIN_FAULT");
    if (!text) return;
    if (strcmp(text, "help") == 0) {
        fault_print_help();
        _exit(0);
    }
    int count = fault_parse(text, faults, message, sizeof message);
    if (count < 0) {
        fprintf(stderr, "moetrain: error: MOETRAIN_FAULT: %s\n", message);
        _exit(2);
    }
    fault_count = count;
}

void fault_say(const Fault *fault, const char *format, ...) {
    static const char *const words[] = {"kill",  "stop", "slow", "io",    "short",
                                        "alloc", "nan",  "flip", "scale", "spike"};
    char what[PATH_MAX + 128], line[sizeof what + 256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    int bytes = snprintf(line, sizeof line, "moetrain: fault: rank %d: %s in step %lld: %s\n",
                         log_rank(), words[fault->kind], (long long)atomic_load(&step_now), what);
    (void)!__real_write(STDERR_FILENO, line, (size_t)bytes);
}

static bool is_over(const Fault *fault) {
    return fault->until[0] && access(fault->until, F_OK) == 0;
}

// Whether rank, step, phase and until hold.
static bool holds(const Fault *fault) {
    return (fault->rank < 0 || fault->rank == log_rank()) &&
           (fault->step < 0 || fault->step == atomic_load(&step_now)) &&
           (fault->phase == PHASE_ANY || fault->phase == phase_now) && !is_over(fault);
}

// One more occasion, all of whose other keys hold.
static bool strikes(Fault *fault) {
    long long occasion = atomic_fetch_add(&fault->occasion, 1) + 1;
    return occasion >= fault->nth && occasion < fault->nth + fault->times;
}

// In pieces, because what ends it may come meanwhile.
static void sleep_for(const Fault *fault) {
    enum { PIECE = 10 };
    for (int64_t left = fault->milliseconds; left > 0 && !is_over(fault); left -= PIECE)
        nanosleep(&(struct timespec){.tv_nsec = (left < PIECE ? left : PIECE) * 1000000}, NULL);
}

static void strike(const Fault *fault, const char *where) {
    fault_say(fault, "%s", where);
    if (fault->kind == FAULT_KILL) kill(getpid(), SIGKILL);
    if (fault->kind == FAULT_STOP) kill(getpid(), SIGSTOP);
    if (fault->kind == FAULT_SLOW) sleep_for(fault);
}

static bool is_of_process(const Fault *fault) {
    return fault->kind == FAULT_KILL || fault->kind == FAULT_STOP || fault->kind == FAULT_SLOW;
}

static bool is_of_call(const Fault *fault) {
    return fault->call[0] || fault->file[0] || fault->kind == FAULT_IO ||
           fault->kind == FAULT_SHORT;
}

void fault_pass(FaultPhase phase) {
    phase_now = phase;
    for (int i = 0; i < fault_count; i++) {
        Fault *fault = &faults[i];
        if (is_of_process(fault) && !is_of_call(fault) && holds(fault) && strikes(fault))
            strike(fault, fault_phase_word(phase));
    }
}

bool fault_is_planned(FaultPhase phase) {
    for (int i = 0; i < fault_count; i++)
        if (faults[i].phase == phase) return true;
    return false;
}

void fault_begin_step(int64_t step) {
    atomic_store(&step_now, step);
    fault_pass(PHASE_STEP);
}

// ---- system calls -------------------------------------------------------------------------------

static void path_of(int fd, char path[PATH_MAX]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(link, path, PATH_MAX - 1);
    path[bytes > 0 ? bytes : 0] = 0;
}

static bool transfers(const char *call) {
    return strstr(call, "read") || strstr(call, "write");
}

CallFault fault_call(const char *call, const char *path, int fd) {
    char known[PATH_MAX] = "", where[PATH_MAX + 32];
    int cause = fault_call_decides ? fault_call_decides(call) : 0;
    if (cause) {
        errno = cause;
        return CALL_FAILS;
    }
    for (int i = 0; i < fault_count; i++) {
        Fault *fault = &faults[i];
        if (!is_of_call(fault) || !holds(fault)) continue;
        if (fault->call[0] && strcmp(fault->call, call) != 0) continue;
        if (fault->kind == FAULT_SHORT && !transfers(call)) continue;
        if (path && !known[0]) snprintf(known, sizeof known, "%s", path);
        if (!known[0]) path_of(fd, known);
        if (fault->file[0] && !strstr(known, fault->file)) continue;
        if (!strikes(fault)) continue;
        snprintf(where, sizeof where, "%s of %s", call, known);
        strike(fault, where);
        if (fault->kind == FAULT_SHORT) return CALL_IS_SHORT;
        if (fault->kind != FAULT_IO) continue;
        errno = fault->cause;
        return CALL_FAILS;
    }
    return CALL_GOES_ON;
}

bool fault_allocation(size_t bytes) {
    for (int i = 0; i < fault_count; i++) {
        if (faults[i].kind != FAULT_ALLOC || !holds(&faults[i]) || !strikes(&faults[i])) continue;
        fault_say(&faults[i], "allocation of %zu bytes", bytes);
        errno = ENOMEM;
        return true;
    }
    return false;
}

// ---- numbers ------------------------------------------------------------------------------------

const Fault *fault_due(FaultKind kind, FaultTarget target) {
    for (int i = 0; i < fault_count; i++) {
        Fault *fault = &faults[i];
        bool asked = fault->kind == kind && (kind == FAULT_SPIKE || fault->target == target);
        if (asked && holds(fault) && strikes(fault)) return fault;
    }
    return NULL;
}

const Fault *fault_due_in_result(FaultKind kind, const char *op) {
    for (int i = 0; i < fault_count; i++) {
        Fault *fault = &faults[i];
        bool asked = fault->kind == kind && fault->target == IN_RESULT &&
                     (!fault->tensor[0] || strcmp(fault->tensor, op) == 0);
        if (asked && holds(fault) && strikes(fault)) return fault;
    }
    return NULL;
}
