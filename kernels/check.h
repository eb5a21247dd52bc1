// Failing: exit codes, recoverable errors, and the end of the process.
//
// Two kinds of failure and no third. Where the caller can act (configuration, files) a function
// returns `bool` and fills an Error. Where a rank can do nothing, the whole job ends through die(),
// which aborts every rank; the exit code tells a bug (CHECK) from missing memory (CHECK_MEMORY) and
// from a lost peer or a failing device (MPI_CHECK, CUDA_CHECK, …). Checks stay in release builds.
#ifndef MOETRAIN_KERNELS_CHECK_H
#define MOETRAIN_KERNELS_CHECK_H

#include <stdbool.h>

#ifdef __cplusplus // .cu files
extern "C" {
#define MOETRAIN_NORETURN [[noreturn]]
#else
#define MOETRAIN_NORETURN _Noreturn
#endif

// Exit codes of the program; README documents them for users.
typedef enum ExitCode {
    EXIT_DONE = 0,
    EXIT_DIFFERENT = 1,     // `checkpoint diff`: what was computed differs
    EXIT_CONFIG = 2,        // configuration or arguments
    EXIT_DATA = 3,          // training or validation data
    EXIT_CHECKPOINT = 4,    // checkpoint damaged, missing or of another shape
    EXIT_IO = 5,            // input/output, memory
    EXIT_NUMERIC = 6,       // loss or gradients not finite for too long; results that differ
    EXIT_COMMUNICATION = 7, // MPI, NCCL or a device; a lost peer
    EXIT_HANG = 8,          // a rank or a collective made no progress
    EXIT_LOCKED = 9,        // another job trains in the run directory
    // the program contradicts itself: nothing a user can mend; please report it
    EXIT_BUG = 70,
    // stopped by a signal or before the time limit, state saved: run the same command again
    EXIT_REQUEUE = 75,
} ExitCode;

// What went wrong, for people: place, value and fix, in lower case, one line. Zero-initialise
// before use.
typedef struct Error {
    int exit_code;      // an ExitCode; 0 while nothing is wrong
    char message[1536]; // NUL-terminated
} Error;

// Writes the error and returns false, so that `return error_set(...)` reads well. The first
// function to know the cause writes the message; an Error already set is overwritten.
bool error_set(Error *err, ExitCode exit_code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "text: " before the message; callers add the path or the key they know. Returns false.
bool error_prefix(Error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Prints host, rank, place and message, then ends every rank with exit_code. Never returns.
MOETRAIN_NORETURN void die(ExitCode exit_code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// The same with EXIT_IO, what this process could still have, and the fix.
MOETRAIN_NORETURN void die_without_memory(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Told by die() what it has printed, before all else; NULL: nobody.
extern void (*die_witness)(int exit_code, const char *message);
// Called by die() after printing; comm_init sets it to MPI_Abort. Without it die() calls _exit.
extern void (*die_hook)(int exit_code);

// What must hold unless the program has a bug (exit 70). What a user, a file or the machine can
// cause is no matter for CHECK.
#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) die(EXIT_BUG, __FILE__, __LINE__, __VA_ARGS__);                          \
    } while (0)

// After every allocation: exit 5, with the memory that is still to be had.
#define CHECK_MEMORY(memory, ...)                                                                  \
    do {                                                                                           \
        if (!(memory)) die_without_memory(__FILE__, __LINE__, __VA_ARGS__);                        \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
