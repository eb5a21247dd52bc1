// The language of MOETRAIN_FAULT.
#include "fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/suggest.h"

typedef enum Key {
    KEY_RANK,
    KEY_STEP,
    KEY_PHASE,
    KEY_NTH,
    KEY_TIMES,
    KEY_UNTIL,
    KEY_CALL,
    KEY_FILE,
    KEY_ERRNO,
    KEY_MILLISECONDS,
    KEY_IN,
    KEY_TENSOR,
    KEY_ELEMENT,
    KEY_BIT,
    KEY_FACTOR,
    KEYS_COUNT,
} Key;

enum {
    COMMON = 1 << KEY_RANK | 1 << KEY_STEP | 1 << KEY_PHASE | 1 << KEY_NTH | 1 << KEY_TIMES |
             1 << KEY_UNTIL,
    CALLS = 1 << KEY_CALL | 1 << KEY_FILE,
    PLACE = 1 << KEY_IN | 1 << KEY_TENSOR | 1 << KEY_ELEMENT,
};

// The last word is NULL (suggest_word).
static const char *const KEYS[KEYS_COUNT + 1] = {"rank",  "step",   "phase",   "nth",   "times",
                                                 "until", "call",   "file",    "errno", "ms",
                                                 "in",    "tensor", "element", "bit",   "factor"};

typedef struct KindRow {
    unsigned keys;
    const char *meaning;
} KindRow;

static const char *const KINDS[FAULT_KINDS + 1] = {"kill",  "stop", "slow", "io",    "short",
                                                   "alloc", "nan",  "flip", "scale", "spike"};

static const KindRow KIND_ROWS[FAULT_KINDS] = {
    {COMMON | CALLS, "SIGKILL in a phase, or before a system call"},
    {COMMON | CALLS, "SIGSTOP likewise"},
    {COMMON | CALLS | 1 << KEY_MILLISECONDS, "sleeps likewise, ms=50 unless given"},
    {COMMON | CALLS | 1 << KEY_ERRNO, "a system call fails; errno=EIO unless given"},
    {COMMON | CALLS, "read, pread, write, pwrite transfer only half"},
    {COMMON, "malloc and its like return NULL"},
    {COMMON | PLACE, "an element becomes NaN; in=activation unless given"},
    {COMMON | PLACE | 1 << KEY_BIT, "a bit is flipped; in=weight, bit=20 unless given"},
    {COMMON | PLACE | 1 << KEY_FACTOR, "a tensor times factor=1000; in=activation unless given"},
    {COMMON, "the targets of a micro-batch are its inputs"},
};

static const char *const PHASES[PHASES_COUNT + 1] = {
    "any",        "start",    "init",      "load", "step",  "data",   "forward",
    "all-to-all", "backward", "optimizer", "eval", "write", "commit", "leave"};

static const char *const TARGETS[TARGETS_COUNT + 1] = {"weight", "gradient", "activation",
                                                       "message", "result"};

// The system calls that calls.c stands before.
static const char *const CALL_WORDS[] = {"open",      "read",    "pread",  "write", "pwrite",
                                         "ftruncate", "fsync",   "rename", "link",  "unlink",
                                         "mkdir",     "statvfs", NULL};

typedef struct Cause {
    const char *word;
    int number;
} Cause;

#define CAUSE(name)                                                                                \
    { #name, name }
static const Cause CAUSES[] = {CAUSE(EIO),    CAUSE(ENOSPC), CAUSE(EDQUOT), CAUSE(EROFS),
                               CAUSE(EACCES), CAUSE(EFBIG),  CAUSE(ENOENT), CAUSE(EMFILE),
                               CAUSE(EINTR),  CAUSE(ESTALE), CAUSE(ENOMEM)};
enum { CAUSES_COUNT = sizeof CAUSES / sizeof *CAUSES };

const char *fault_phase_word(FaultPhase phase) {
    return PHASES[phase];
}

void fault_print_help(void) {
    fprintf(stderr, "MOETRAIN_FAULT=kind:key=value,...;kind:...\n");
    for (int kind = 0; kind < FAULT_KINDS; kind++) {
        fprintf(stderr, "  %-6s %s\n         ", KINDS[kind], KIND_ROWS[kind].meaning);
        for (int key = 0; key < KEYS_COUNT; key++)
            if (KIND_ROWS[kind].keys >> key & 1) fprintf(stderr, " %s=", KEYS[key]);
        fprintf(stderr, "\n");
    }
    fprintf(stderr, "  phase=");
    for (int i = 0; i < PHASES_COUNT; i++) fprintf(stderr, " %s", PHASES[i]);
    fprintf(stderr, "\n  in=");
    for (int i = 0; i < TARGETS_COUNT; i++) fprintf(stderr, " %s", TARGETS[i]);
    fprintf(stderr, "\n  call=");
    for (int i = 0; CALL_WORDS[i]; i++) fprintf(stderr, " %s", CALL_WORDS[i]);
    fprintf(stderr, "\n  errno=");
    for (int i = 0; i < CAUSES_COUNT; i++) fprintf(stderr, " %s", CAUSES[i].word);
    fprintf(stderr, "\n");
}

// ---- reading ------------------------------------------------------------------------------------

typedef struct Complaint {
    char *text;
    size_t bytes;
} Complaint;

static bool unknown(Complaint to, const char *what, const char *word, const char *const *words) {
    const char *near = suggest_word(word, words);
    snprintf(to.text, to.bytes, "unknown %s '%s'%s%s%s; MOETRAIN_FAULT=help lists them", what, word,
             near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
    return false;
}

static bool find_word(Complaint to, const char *what, const char *word, const char *const *words,
                      int *found) {
    for (int i = 0; words[i]; i++) {
        if (strcmp(words[i], word) != 0) continue;
        *found = i;
        return true;
    }
    return unknown(to, what, word, words);
}

static bool read_whole(Complaint to, const char *key, const char *text, int64_t least,
                       int64_t *value) {
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (text[0] && !*end && errno == 0 && *value >= least) return true;
    snprintf(to.text, to.bytes, "%s=%s is no whole number of at least %lld", key, text,
             (long long)least);
    return false;
}

static bool read_text(Complaint to, const char *key, const char *text, char *value, size_t bytes) {
    if (text[0] && strlen(text) < bytes) {
        memcpy(value, text, strlen(text) + 1);
        return true;
    }
    snprintf(to.text, to.bytes, "%s=%s is empty or longer than %zu bytes", key, text, bytes - 1);
    return false;
}

static bool read_cause(Complaint to, const char *word, int *cause) {
    const char *words[CAUSES_COUNT + 1] = {NULL};
    int found = 0;
    for (int i = 0; i < CAUSES_COUNT; i++) words[i] = CAUSES[i].word;
    if (!find_word(to, "errno", word, words, &found)) return false;
    *cause = CAUSES[found].number;
    return true;
}

static bool read_factor(Complaint to, const char *text, double *factor) {
    char *end;
    *factor = strtod(text, &end);
    if (text[0] && !*end) return true;
    snprintf(to.text, to.bytes, "factor=%s is no number", text);
    return false;
}

static bool read_value(Complaint to, Key key, const char *text, Fault *fault) {
    int64_t whole = 0;
    int word = 0;
    bool ok = true;
    switch (key) {
    case KEY_RANK:
        ok = read_whole(to, KEYS[key], text, 0, &whole);
        fault->rank = (int)whole;
        break;
    case KEY_STEP:
        ok = read_whole(to, KEYS[key], text, 0, &fault->step);
        break;
    case KEY_PHASE:
        ok = find_word(to, KEYS[key], text, PHASES, &word);
        fault->phase = (FaultPhase)word;
        break;
    case KEY_NTH:
        ok = read_whole(to, KEYS[key], text, 1, &fault->nth);
        break;
    case KEY_TIMES:
        fault->times = INT64_MAX / 2;
        ok = strcmp(text, "all") == 0 || read_whole(to, KEYS[key], text, 1, &fault->times);
        break;
    case KEY_UNTIL:
        ok = read_text(to, KEYS[key], text, fault->until, sizeof fault->until);
        break;
    case KEY_CALL:
        ok = find_word(to, KEYS[key], text, CALL_WORDS, &word) &&
             read_text(to, KEYS[key], text, fault->call, sizeof fault->call);
        break;
    case KEY_FILE:
        ok = read_text(to, KEYS[key], text, fault->file, sizeof fault->file);
        break;
    case KEY_ERRNO:
        ok = read_cause(to, text, &fault->cause);
        break;
    case KEY_MILLISECONDS:
        ok = read_whole(to, KEYS[key], text, 1, &fault->milliseconds);
        break;
    case KEY_IN:
        ok = find_word(to, KEYS[key], text, TARGETS, &word);
        fault->target = (FaultTarget)word;
        break;
    case KEY_TENSOR:
        ok = read_text(to, KEYS[key], text, fault->tensor, sizeof fault->tensor);
        break;
    case KEY_ELEMENT:
        ok = read_whole(to, KEYS[key], text, 0, &fault->element);
        break;
    case KEY_BIT:
        ok = read_whole(to, KEYS[key], text, 0, &whole);
        fault->bit = (int)whole;
        break;
    case KEY_FACTOR:
        ok = read_factor(to, text, &fault->factor);
        break;
    case KEYS_COUNT:
        break;
    }
    return ok;
}

// "kind:key=value,key=value". Changes the text.
static bool read_fault(Complaint to, char *text, Fault *fault) {
    char *rest = strchr(text, ':'), *next = NULL;
    int kind = 0, key = 0;
    if (rest) *rest++ = 0;
    if (!find_word(to, "kind", text, KINDS, &kind)) return false;
    *fault = (Fault){.kind = (FaultKind)kind,
                     .rank = -1,
                     .step = -1,
                     .nth = 1,
                     .times = 1,
                     .cause = EIO,
                     .milliseconds = 50,
                     .target = kind == FAULT_FLIP ? IN_WEIGHT : IN_ACTIVATION,
                     .bit = 20,
                     .factor = 1000};
    for (char *word = rest ? strtok_r(rest, ",", &next) : NULL; word;
         word = strtok_r(NULL, ",", &next)) {
        char *value = strchr(word, '=');
        if (value) *value++ = 0;
        if (!find_word(to, "key", word, KEYS, &key)) return false;
        if (!(KIND_ROWS[kind].keys >> key & 1)) {
            snprintf(to.text, to.bytes, "%s has no %s=; MOETRAIN_FAULT=help lists its keys",
                     KINDS[kind], word);
            return false;
        }
        if (!read_value(to, (Key)key, value ? value : "", fault)) return false;
    }
    return true;
}

int fault_parse(const char *text, Fault faults[FAULTS_MAX], char *message, size_t message_bytes) {
    Complaint to = {message, message_bytes};
    char *copy = strdup(text), *next = NULL;
    int count = 0;
    for (char *word = copy ? strtok_r(copy, ";", &next) : NULL; word && count >= 0;
         word = strtok_r(NULL, ";", &next)) {
        if (count == FAULTS_MAX) {
            snprintf(message, message_bytes, "more than %d faults", FAULTS_MAX);
            count = -1;
        } else {
            count = read_fault(to, word, &faults[count]) ? count + 1 : -1;
        }
    }
    free(copy);
    if (count == 0) snprintf(message, message_bytes, "no fault; MOETRAIN_FAULT=help lists them");
    return count > 0 ? count : -1;
}
