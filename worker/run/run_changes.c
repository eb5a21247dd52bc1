#include "worker/run/run_changes.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/log.h"

enum {
    LINE_BYTES = 900,      // after which a list goes on in another line
    MOST_LIST_BYTES = 120, // of a list that is a value
};

// A text that grows; what does not fit is left out.
typedef struct Text {
    char bytes[3584]; // a line, and a change of two long paths
    size_t used;
} Text;

static void append(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void append(Text *text, const char *format, ...) {
    va_list args;
    va_start(args, format);
    size_t room = sizeof text->bytes - text->used;
    int length = vsnprintf(text->bytes + text->used, room, format, args);
    va_end(args);
    if ((size_t)length < room)
        text->used += (size_t)length;
    else
        text->bytes[text->used] = 0;
}

// A path whole, of a long list the beginning.
static void append_value(Text *text, const char *value) {
    bool cut = value[0] == '[' && strlen(value) > MOST_LIST_BYTES;
    append(text, cut ? " %.*s..." : " %.*s", cut ? MOST_LIST_BYTES : (int)strlen(value), value);
}

// "key saved -> current"
static void append_both(Text *text, const KeyChange *change) {
    append(text, "%s", change->rule->key);
    append_value(text, change->saved);
    append(text, " ->");
    append_value(text, change->current);
}

static void append_change(Text *text, const KeyChange *change) {
    append(text, "%s", text->used ? ", " : "");
    append_both(text, change);
}

// Nothing is allowed that could not be loaded.
static bool is_refused(const RunChanges *run, const ConfigChanges *changes, int i) {
    KeyKind kind = changes->list[i].rule->kind;
    bool counts = kind == KIND_FUNCTION || (kind == KIND_STATE && !run->weights_only);
    return counts && !(run->fits && config_change_allowed(changes, i, run->allow));
}

// The refused change that this one follows from, over any number of others; itself when somebody
// wrote it or when its cause may change.
static int refused_root(const RunChanges *run, const ConfigChanges *changes, int i) {
    int cause = changes->list[i].cause;
    while (cause >= 0 && is_refused(run, changes, cause)) {
        i = cause;
        cause = changes->list[i].cause;
    }
    return i;
}

// "attention.heads 2 -> 1 (so attention.d_head 8 -> 16)"; of a key that nobody wrote the old value
// is to be written.
static void append_refused(Text *text, const RunChanges *run, const ConfigChanges *changes,
                           int root) {
    const KeyChange *change = &changes->list[root];
    append_change(text, change);
    if (change->rule->derived) // from a key that may change, or by a program of other defaults
        append(text, " (%s%s; %s=%s keeps it)", change->cause >= 0 ? "follows from " : "a default",
               change->cause >= 0 ? changes->list[change->cause].rule->key : "", change->rule->key,
               change->saved);
    int followers = 0;
    for (int i = 0; i < changes->count; i++) {
        if (i == root || !is_refused(run, changes, i) || refused_root(run, changes, i) != root)
            continue;
        append(text, "%s", followers++ ? ", " : " (so ");
        append_both(text, &changes->list[i]);
    }
    if (followers > 0) append(text, ")");
}

static bool refuse(const RunChanges *run, const ConfigChanges *changes, Error *err) {
    Text keys = {0}, names = {0};
    for (int i = 0; i < changes->count; i++) {
        if (!is_refused(run, changes, i) || refused_root(run, changes, i) != i) continue;
        append_refused(&keys, run, changes, i);
        append(&names, "%s%s", names.used ? "," : "", changes->list[i].rule->key);
    }
    if (keys.used == 0) return true;
    bool cut = keys.used > LINE_BYTES;
    return error_set(err, EXIT_CONFIG,
                     "%.300s: this configuration makes another function of it: %.*s%s; set it "
                     "back%s%s%s%.400s",
                     run->checkpoint, LINE_BYTES, keys.bytes, cut ? " ..." : "",
                     run->way_out ? ", " : "", run->way_out ? run->way_out : "",
                     run->fits ? ", or accept that with resume.allow="
                               : "; resume.allow does not help, as tensors differ in shape or name",
                     run->fits ? names.bytes : "");
}

static void log_line(const RunChanges *run, KeyKind kind, const char *keys) {
    if (kind >= KIND_FUNCTION)
        log_warn("resume.allow lets function keys differ from %s: %s", run->checkpoint, keys);
    else if (kind == KIND_COURSE && run->finished)
        log_warn("%s is the end of a run of other course keys, and nothing is trained with these; "
                 "raise train.steps to go on, or choose another run.dir: %s",
                 run->checkpoint, keys);
    else
        log_info("%s keys differ from %s: %s", key_kind_name(kind), run->checkpoint, keys);
}

// The changes of one kind, in as many lines as they take.
static void log_kind(const RunChanges *run, const ConfigChanges *changes, KeyKind kind) {
    Text line = {0};
    for (int i = 0; i <= changes->count; i++) {
        bool end = i == changes->count;
        if (line.used > 0 && (end || line.used > LINE_BYTES)) {
            log_line(run, kind, line.bytes);
            line = (Text){0};
        }
        if (!end && changes->list[i].rule->kind == kind) append_change(&line, &changes->list[i]);
    }
}

bool run_changes_check(const RunChanges *run, Error *err) {
    ConfigChanges changes;
    config_changes_find(&changes, run->saved_yaml, run->current_yaml, run->rules);
    bool ok = refuse(run, &changes, err);
    for (KeyKind kind = KIND_FREE; ok && kind <= KIND_STATE; kind++)
        if (kind == KIND_FUNCTION || !run->weights_only) log_kind(run, &changes, kind);
    config_changes_free(&changes);
    return ok;
}
