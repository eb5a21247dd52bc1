#include "worker/diff_runs.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// ---- the files ----------------------------------------------------------------------------------

typedef struct DigestFile {
    const char *given;
    char *path;
    FILE *file;
    char *line;
    size_t line_bytes;
    int64_t line_number;
    json_t *row; // at hand; NULL: the file is over
    int64_t step;
} DigestFile;

static void close_file(DigestFile *digests) {
    if (digests->file) fclose(digests->file);
    json_decref(digests->row);
    free(digests->line);
    free(digests->path);
}

static bool open_file(DigestFile *digests, const char *given, Error *err) {
    struct stat is;
    digests->given = given;
    bool folder = stat(given, &is) == 0 && S_ISDIR(is.st_mode);
    if (asprintf(&digests->path, "%s%s", given, folder ? "/digests.jsonl" : "") < 0)
        digests->path = NULL;
    CHECK_MEMORY(digests->path, "no memory for a path");
    digests->file = fopen(digests->path, "r");
    if (digests->file) return true;
    if (errno == ENOENT)
        return error_set(err, EXIT_CONFIG,
                         "%s is not there: a run writes it with log.digest_every above 0",
                         digests->path);
    return error_set(err, EXIT_IO, "%s: %s", digests->path, strerror(errno));
}

// The next row of a later step, or none. False with exit 4.
static bool next_row(DigestFile *digests, Error *err) {
    int64_t before = digests->row ? digests->step : 0;
    json_decref(digests->row);
    digests->row = NULL;
    ssize_t bytes = getline(&digests->line, &digests->line_bytes, digests->file);
    if (bytes < 0)
        return !ferror(digests->file) ||
               error_set(err, EXIT_IO, "%s: %s", digests->path, strerror(errno));
    digests->line_number++;
    json_t *row = json_loadb(digests->line, (size_t)bytes, JSON_REJECT_DUPLICATES, NULL);
    json_t *step = json_object_get(row, "step");
    if (json_is_integer(step) && json_integer_value(step) > before) {
        digests->row = row;
        digests->step = json_integer_value(step);
        return true;
    }
    json_decref(row);
    return error_set(err, EXIT_CHECKPOINT, "%s: line %lld is not the digests of a later step",
                     digests->path, (long long)digests->line_number);
}

// The next step that both have. Both without a row: there is none.
static bool next_step(DigestFile *a, DigestFile *b, Error *err) {
    if (!next_row(a, err) || !next_row(b, err)) return false;
    while (a->row && b->row && a->step != b->step)
        if (!next_row(a->step < b->step ? a : b, err)) return false;
    return true;
}

// ---- comparing ----------------------------------------------------------------------------------

// Where they part: of one entry of a folder.
typedef struct Parting {
    const char *folder, *name;
    const char *of;           // what each of its hashes is of: window, expert, part
    size_t first, count, all; // of them
    const char *lacks;        // the run that has not got all of it; NULL: both have
} Parting;

static bool is_stream(const char *folder) {
    return strcmp(folder, "forward") == 0 || strcmp(folder, "backward") == 0;
}

// An entry's hashes: a list, or {"experts": one}, {"parts": one} where the folder's others are of
// windows.
static const json_t *hashes_of(const json_t *entry) {
    const json_t *experts = json_object_get(entry, "experts");
    return !json_is_object(entry) ? entry : experts ? experts : json_object_get(entry, "parts");
}

static const char *hashed_in(const char *folder, const json_t *entry) {
    if (json_object_get(entry, "parts")) return "part";
    return is_stream(folder) && json_is_array(entry) ? "window" : "expert";
}

static bool parts_in(const json_t *a, const json_t *b, Parting *found) {
    found->all = json_array_size(a);
    found->count = 0;
    for (size_t i = found->all; i-- > 0;) {
        if (json_equal(json_array_get(a, i), json_array_get(b, i))) continue;
        found->first = i;
        found->count++;
    }
    return found->count > 0;
}

// What b lacks of a: a folder, an entry of one, or some of an entry's hashes.
static bool find_lack(const DigestFile *a, const DigestFile *b, Parting *found) {
    json_t *folder, *entry;
    *found = (Parting){.lacks = b->given};
    json_object_foreach(a->row, found->folder, folder) {
        const json_t *others = json_object_get(b->row, found->folder);
        found->name = NULL;
        if (json_is_object(folder) && !others) return true;
        json_object_foreach(folder, found->name, entry) {
            const json_t *other = json_object_get(others, found->name);
            if (json_typeof(entry) != (other ? json_typeof(other) : JSON_NULL) ||
                json_array_size(hashes_of(entry)) != json_array_size(hashes_of(other)))
                return true;
        }
    }
    return false;
}

// Of two that have the same, in the order of a step.
static bool find_parting(const DigestFile *a, const DigestFile *b, Parting *found) {
    json_t *folder, *entry;
    *found = (Parting){0};
    json_object_foreach(a->row, found->folder, folder) {
        const json_t *others = json_object_get(b->row, found->folder);
        json_object_foreach(folder, found->name, entry) {
            found->of = hashed_in(found->folder, entry);
            if (parts_in(hashes_of(entry), hashes_of(json_object_get(others, found->name)), found))
                return true;
        }
    }
    return false;
}

static int64_t number_of(const DigestFile *digests, const char *key) {
    return json_integer_value(json_object_get(digests->row, key));
}

// "window 5 of 16, in shard 2, and 3 more", "expert 3 of 8", "part 4 of 8", nothing where there is
// one.
static void tell_hashes(const Parting *at, const DigestFile *run, char *text, size_t bytes) {
    char shard[48] = "", more[48] = "";
    int64_t windows = number_of(run, "windows_a_shard");
    text[0] = 0;
    if (at->all < 2) return;
    if (strcmp(at->of, "window") == 0 && windows > 0)
        snprintf(shard, sizeof shard, ", in shard %lld of its micro-batch",
                 (long long)at->first / windows);
    if (at->count > 1) snprintf(more, sizeof more, ", and %zu more", at->count - 1);
    snprintf(text, bytes, ", %s %zu of %zu%s%s", at->of, at->first, at->all, shard, more);
}

static void tell(const Parting *at, const DigestFile *a, int64_t same_step) {
    char where[192], since[96] = "";
    if (at->lacks) {
        printf("step %lld: %s has another %s%s%s: these are different models\n", (long long)a->step,
               at->lacks, at->folder, at->name ? ", " : "", at->name ? at->name : "");
        return;
    }
    tell_hashes(at, a, where, sizeof where);
    if (same_step > 0)
        snprintf(since, sizeof since, "; up to step %lld nothing differs", (long long)same_step);
    printf("step %lld: the first difference is in %s, %s%s%s\n", (long long)a->step, at->folder,
           at->name, where, since);
}

static bool compare(DigestFile *a, DigestFile *b, bool *same, Error *err) {
    int64_t steps = 0, last = 0;
    *same = true;
    if (!next_step(a, b, err)) return false;
    for (; a->row && b->row; steps++) {
        Parting at = {0};
        if (number_of(a, "format") != number_of(b, "format"))
            return error_set(err, EXIT_CONFIG,
                             "step %lld: the digests of %s have format %lld and those of %s format "
                             "%lld: two builds made them, of which each hashes something else; "
                             "train both with one",
                             (long long)a->step, a->given, (long long)number_of(a, "format"),
                             b->given, (long long)number_of(b, "format"));
        if (number_of(a, "windows") != number_of(b, "windows"))
            return error_set(err, EXIT_CONFIG,
                             "step %lld: %s trains on %lld windows a step and %s on %lld; runs "
                             "that are compared have one train.batch",
                             (long long)a->step, a->given, (long long)number_of(a, "windows"),
                             b->given, (long long)number_of(b, "windows"));
        if (find_lack(a, b, &at) || find_lack(b, a, &at) || find_parting(a, b, &at)) {
            *same = false;
            tell(&at, a, last);
            return true;
        }
        last = a->step;
        if (!next_step(a, b, err)) return false;
    }
    if (steps == 0)
        return error_set(err, EXIT_CONFIG, "%s and %s have digests of no step in common", a->given,
                         b->given);
    printf("nothing differs in %lld steps, the last of them %lld\n", (long long)steps,
           (long long)last);
    return true;
}

int diff_runs(const char *run, const char *other, Error *err) {
    DigestFile a = {0}, b = {0};
    bool same = false;
    bool ok = open_file(&a, run, err) && open_file(&b, other, err) && compare(&a, &b, &same, err);
    close_file(&a);
    close_file(&b);
    return !ok ? (int)err->exit_code : same ? EXIT_DONE : 1;
}
