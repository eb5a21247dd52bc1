// Faults on request, for tests: what MOETRAIN_FAULT asks of the program moetrain_faults.
//
//   MOETRAIN_FAULT="kind:key=value,…[;kind:key=value,…]…"
//
// That program is the product's own object code. The linker puts functions of this folder in the
// place of the few that a fault can strike at (-Wl,--wrap), so the product has neither hooks nor
// this variable. Each fault that strikes says so in a line on stderr, "moetrain: fault: rank 1: …".
// An environment that asks for something unknown ends the program with exit code 2.
//
// Keys of every kind
//   rank=R    that rank alone (otherwise every rank)
//   step=S    while step S is made, evaluated and saved; 0: before the first
//   phase=P   where, see PHASES in fault_spec.c
//   nth=N     the N-th time, by each rank, that all other keys hold (otherwise the first)
//   times=T   so often in a row, or `all` (otherwise once)
//   until=F   as long as there is no file F
// `moetrain_faults` with MOETRAIN_FAULT=help prints the kinds, their own keys and the phases.
#ifndef MOETRAIN_TESTS_FAULTS_INJECT_FAULT_H
#define MOETRAIN_TESTS_FAULTS_INJECT_FAULT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum FaultKind {
    FAULT_KILL,  // SIGKILL
    FAULT_STOP,  // SIGSTOP
    FAULT_SLOW,  // sleeps
    FAULT_IO,    // a system call fails with an errno
    FAULT_SHORT, // a transfer ends half way
    FAULT_ALLOC, // no memory
    FAULT_NAN,   // an element becomes NaN
    FAULT_FLIP,  // a bit of an element
    FAULT_SCALE, // a tensor is multiplied
    FAULT_SPIKE, // a batch has wrong targets
    FAULT_KINDS,
} FaultKind;

// Where a rank is. The points of a step come in this order.
typedef enum FaultPhase {
    PHASE_ANY,
    PHASE_START,      // MPI is started
    PHASE_INIT,       // the device is opened
    PHASE_LOAD,       // a checkpoint is loaded
    PHASE_STEP,       // a step begins
    PHASE_DATA,       // a micro-batch is read
    PHASE_FORWARD,    // of a layer; nth counts layers
    PHASE_ALL_TO_ALL, // rows are sent to other ranks
    PHASE_BACKWARD,   // of a layer, from the last
    PHASE_OPTIMIZER,  // gradients are summed up and finite
    PHASE_EVALUATION, // of the validation file
    PHASE_WRITE,      // a piece of a checkpoint is written; nth counts pieces
    PHASE_COMMIT,     // all ranks have written; the checkpoint has not got its name
    PHASE_LEAVE,      // MPI is left, after all else
    PHASES_COUNT,
} FaultPhase;

// What nan, flip and scale change, on one rank.
typedef enum FaultTarget {
    IN_WEIGHT,     // a parameter, when a step begins
    IN_GRADIENT,   // of a parameter, after the sum over ranks: this rank's copy
    IN_ACTIVATION, // the gradient of the residual stream, before a layer's backward pass
    IN_MESSAGE,    // rows on their way to another rank
    IN_RESULT,     // of the op or collective that tensor= names, one of those in wrap_training.c
    TARGETS_COUNT,
} FaultTarget;

typedef struct Fault {
    FaultKind kind;
    int rank;         // -1: every rank
    int64_t step;     // -1: any
    FaultPhase phase; // PHASE_ANY: any
    int64_t nth, times;
    char call[16];   // kill, stop, slow, io, short: before this system call; empty: any, or none
    char file[128];  // of those: with this in the path; empty: any
    char until[128]; // as long as there is no such file; empty: always
    int cause;       // io: errno
    int64_t milliseconds;
    FaultTarget target;
    char tensor[96];       // name of a parameter or op; empty: the first, or any
    int64_t element;       // modulo the tensor's
    int bit;               // modulo an element's
    double factor;         // scale
    atomic_llong occasion; // so often have its keys held
} Fault;

enum { FAULTS_MAX = 16 };

// Reads the text into faults[]; returns how many, or -1 with the reason in `message`.
int fault_parse(const char *text, Fault faults[FAULTS_MAX], char *message, size_t message_bytes);
void fault_print_help(void);
const char *fault_phase_word(FaultPhase phase);

// ---- striking (fault_points.c) ------------------------------------------------------------------

// A rank passes `phase`: kills, stops and sleeps if it is time.
void fault_pass(FaultPhase phase);
// Whether a fault is for that phase, on whatever rank.
bool fault_is_planned(FaultPhase phase);
// A step begins; 0 before the first.
void fault_begin_step(int64_t step);

// Before a system call: what is to happen to it. path NULL: that of the descriptor.
typedef enum CallFault { CALL_GOES_ON, CALL_FAILS, CALL_IS_SHORT } CallFault;
CallFault fault_call(const char *call, const char *path, int fd); // sets errno when it fails
// For tests that decide themselves: asked before anything else; an errno, or 0. NULL: nobody.
extern int (*fault_call_decides)(const char *call);

bool fault_allocation(size_t bytes); // true: there is no memory

// The fault of this kind that strikes here, or NULL. The caller does it, and says so.
const Fault *fault_due(FaultKind kind, FaultTarget target);
const Fault *fault_due_in_result(FaultKind kind, const char *op);
void fault_say(const Fault *fault, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
