// Any bytes as a file of recorded routing: refused with a message, or every choice that is read
// names an expert. HDF5 reads it in a process of its own, which may crash: this one does not.
//
// Here that process is a fork of this one, which reads many files, one after the other, since to
// start it takes thirty times as long as to read one; and behind each it says which branches it has
// seen. Of HDF5, whose code does not count them, the answers tell. A new one is made when the old
// one has ended or keeps an object open, which would lead into the next file, and from time to
// time.
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <sanitizer/common_interface_defs.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "checkpoint/child_process.h"
#include "checkpoint/routing_file.h"
#include "checkpoint/routing_process.h"
#include "seeds.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
const char *__asan_default_options(void);

enum { TOKENS = 4, TOP_K = 2, EXPERTS = 3, STEPS = 2, FILES_A_READER = 1000 };
static const RoutingLayer layers[] = {{EXPERTS, TOP_K}, {0}, {EXPERTS, TOP_K}};
static const RoutingShape shape = {3, layers, 1, TOKENS};

// HDF5 opens what has a name in the file system: no memory file, whose link leads nowhere.
static char path[] = "/dev/shm/fuzz_routing_file.XXXXXX";

// HDF5 asks for the sizes that a damaged file names, and is refused them, as on any machine. What
// is freed is kept for a few files.
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1:max_allocation_size_mb=1024:quarantine_size_mb=4";
}

// libFuzzer counts these as if they were branches.
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t answers[4096];

static void require(bool condition) {
    if (!condition) abort();
}

// ---- the process that has the files -------------------------------------------------------------

// The compiler's counters of branches, of all code that is not HDF5's. Their own names, which the
// compiler keeps for itself, are __start___sancov_cntrs and so on; the linker gives them these.
extern uint8_t branches[], branches_end[];

// Memory of both processes.
static struct {
    bool mistake;   // undefined behaviour, which HDF5's code does not report
    bool answered;  // the file is done with; otherwise the reader has ended at it
    bool ends;      // and so does the reader
    int exit_code;  // of what it does for one file
    uint8_t seen[]; // branches
} * shared;
static pid_t reader;
static bool reads; // this process is the reader
static int door;   // where the reader takes its files

void __ubsan_on_report(void);
void __asan_on_error(void);
bool __wrap_child_process_start(ChildProcess *child, const char *argument, Error *err);
int __wrap_child_process_end(ChildProcess *child);

void __ubsan_on_report(void) {
    if (shared) shared->mistake = true;
}

// Before the report, which nobody reads and which takes as long as hundreds of files.
void __asan_on_error(void) {
    if (reads) abort();
}

static void read_file(int number) {
    size_t count = (size_t)(branches_end - branches);
    int socket = accept(door, NULL, NULL);
    require(socket >= 0 && dup2(socket, STDIN_FILENO) == STDIN_FILENO && close(socket) == 0);
    memset(branches, 0, count);
    shared->exit_code = routing_process_run();
    memcpy(shared->seen, branches, count);
    shared->ends =
        number == FILES_A_READER || H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL) != 0;
    shared->answered = true;
    if (shared->ends) _exit(EXIT_DONE);
    dup2(STDERR_FILENO, STDIN_FILENO); // the file is closed: whoever asked hears of it
}

_Noreturn static void be_the_reader(void) {
    static const int ends[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
    reads = true;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) signal(ends[i], SIG_DFL);
    __sanitizer_set_death_callback(NULL); // libFuzzer's, for which this were a finding
    int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    for (int number = 1;; number++) read_file(number);
}

// In the place of the one of the product (--wrap).
bool __wrap_child_process_start(ChildProcess *child, const char *argument, Error *err) {
    (void)argument, (void)err;
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    socklen_t bytes = sizeof name;
    shared->answered = shared->ends = false;
    if (reader == 0) reader = fork();
    require(reader >= 0);
    if (reader == 0) be_the_reader();
    require(getsockname(door, (struct sockaddr *)&name, &bytes) == 0);
    *child = (ChildProcess){reader, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    require(child->socket >= 0 && connect(child->socket, (struct sockaddr *)&name, bytes) == 0);
    return true;
}

// In the place of the one of the product: the reader is done with the file, or has ended at it.
int __wrap_child_process_end(ChildProcess *child) {
    int status = 0;
    char rest[256];
    if (child->pid == 0) return status;
    shutdown(child->socket, SHUT_WR);
    ssize_t got; // libFuzzer's clock interrupts
    do got = recv(child->socket, rest, sizeof rest, 0);
    while (got > 0 || (got < 0 && errno == EINTR));
    close(child->socket);
    *child = (ChildProcess){0};
    bool answered = shared->answered;
    if (!answered || shared->ends) {
        pid_t ended;
        do ended = waitpid(reader, &status, 0);
        while (ended < 0 && errno == EINTR);
        require(ended == reader);
        reader = 0;
    }
    return answered ? W_EXITCODE(shared->exit_code, 0) : status;
}

static void open_door(void) {
    static const struct sockaddr_un any = {.sun_family = AF_UNIX}; // of the system's choice
    size_t bytes = sizeof *shared + (size_t)(branches_end - branches);
    shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    require(shared != MAP_FAILED);
    door = socket(AF_UNIX, SOCK_STREAM, 0);
    require(door >= 0 && bind(door, (const struct sockaddr *)&any, sizeof any.sun_family) == 0);
    require(listen(door, 1) == 0);
}

static void take_branches(void) {
    size_t count = (size_t)(branches_end - branches);
    for (size_t i = 0; i < count; i++)
        if (shared->seen[i]) branches[i] = shared->seen[i];
    memset(shared->seen, 0, count);
    require(!shared->mistake);
}

// ---- inputs -------------------------------------------------------------------------------------

static void remove_file(void) {
    unlink(path);
}

// What is written is read: so that the inputs near it are looked at, and not refused unread.
static void read_what_was_written(void) {
    int32_t ids[TOKENS * TOP_K] = {0, 1, 2, 0, 1, 2, 0, 2}, again[TOKENS * TOP_K];
    const Tensor to[] = {
        tensor_2d(ids, I32, TOKENS, TOP_K), {0}, tensor_2d(ids, I32, TOKENS, TOP_K)};
    const Tensor from[] = {
        tensor_2d(again, I32, TOKENS, TOP_K), {0}, tensor_2d(again, I32, TOKENS, TOP_K)};
    RoutingFile *file = NULL;
    Error err = {0};
    unlink(path);
    require(routing_file_record(&file, path, "/run", shape, 0, &err));
    for (int64_t step = 1; step <= STEPS; step++) require(routing_file_write(file, step, to, &err));
    routing_file_close(file);
    require(routing_file_replay(&file, path, shape, 0, STEPS, &err));
    require(routing_file_read(file, STEPS, from, &err));
    require(memcmp(ids, again, sizeof ids) == 0);
    routing_file_close(file);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    H5open();                                       // once instead of in each reader
    H5set_free_list_limits(-1, -1, -1, -1, -1, -1); // keeps the 500 KB that it wants for each file
    open_door();
    int made = mkstemp(path);
    require(made >= 0 && close(made) == 0);
    atexit(remove_file);
    read_what_was_written();
    return seeds_must_reach((const char *const[]){"both steps", NULL});
}

// Answers that differ in more than their numbers are of different branches.
static void note(const char *message) {
    uint32_t hash = 2166136261u; // FNV-1a
    for (const char *c = message; *c; c++)
        if (*c < '0' || *c > '9') hash = (hash ^ (uint8_t)*c) * 16777619u;
    answers[hash % sizeof answers] = 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    unlink(path); // HDF5 knows again what it has not closed
    write_input(path, input, size);

    RoutingFile *file = NULL;
    Error err = {0};
    bool ok = routing_file_replay(&file, path, shape, 0, STEPS, &err);
    for (int64_t step = 1; ok && step <= STEPS; step++) {
        int32_t first[TOKENS * TOP_K], third[TOKENS * TOP_K];
        const Tensor ids[] = {
            tensor_2d(first, I32, TOKENS, TOP_K), {0}, tensor_2d(third, I32, TOKENS, TOP_K)};
        ok = routing_file_read(file, step, ids, &err);
        for (int i = 0; ok && i < TOKENS * TOP_K; i++) {
            require(first[i] >= 0 && first[i] < EXPERTS);
            require(third[i] >= 0 && third[i] < EXPERTS);
        }
    }
    require(ok || (err.exit_code == EXIT_CHECKPOINT && strstr(err.message, path)));
    if (ok) reached("both steps");
    note(ok ? "read" : err.message);
    routing_file_close(file);
    take_branches();
    return 0;
}
