#include "launcher/compare/search.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/rng.h"

enum { MOST_DRAWS = 200, MOST_CELLS = 10000 }; // for one trial; of a grid

// ---- names --------------------------------------------------------------------------------------

// Adds ",key=value" to the name of a row, which is that of a folder, too.
static void extend_name(char name[COMPARED_NAME_BYTES], const char *word) {
    size_t used = strlen(name);
    if (used > 0 && used + 1 < COMPARED_NAME_BYTES) name[used++] = ',';
    for (; *word && used + 1 < COMPARED_NAME_BYTES; word++)
        name[used++] = isalnum((unsigned char)*word) || strchr("_.=+-", *word) ? *word : '_';
    name[used] = 0;
}

// ---- a grid -------------------------------------------------------------------------------------

static bool name_is_new(const Comparison *comparison, const char *name, Error *err) {
    for (int r = 0; r < comparison->row_count; r++)
        if (strcmp(comparison->rows[r].name, name) == 0)
            return error_set(err, EXIT_CONFIG,
                             "%s: two rows are called %.100s; give rows shorter names",
                             comparison->source, name);
    return true;
}

static bool add_cell(Comparison *comparison, const ComparedRow *base, int64_t cell, Error *err) {
    char name[COMPARED_NAME_BYTES], *words[SEARCHED_KEYS];
    int64_t left = cell;
    memcpy(name, base->name, sizeof name);
    for (int d = comparison->grid_count - 1; d >= 0; d--) { // the last key changes first
        const SearchedKey *key = &comparison->grid[d];
        words[d] = key->values.words[left % key->values.count];
        left /= key->values.count;
    }
    for (int d = 0; d < comparison->grid_count; d++) extend_name(name, words[d]);
    if (!name_is_new(comparison, name, err)) return false;
    ComparedRow *row = comparison_add_row(comparison, name, base->line);
    memcpy(row->width, base->width, sizeof row->width);
    row->width_line = base->width_line;
    for (int i = 0; i < base->changes.count; i++)
        changes_add(&row->changes, base->changes.lines[i], "%s", base->changes.words[i]);
    for (int d = 0; d < comparison->grid_count; d++)
        changes_add(&row->changes, comparison->grid[d].line, "%s", words[d]);
    return true;
}

bool grid_expand(Comparison *comparison, Error *err) {
    if (comparison->grid_count == 0) return true;
    Comparison bases = {.rows = comparison->rows, .row_count = comparison->row_count};
    comparison->rows = NULL;
    comparison->row_count = 0;
    if (bases.row_count == 0) comparison_add_row(&bases, "", 0);
    int64_t cells = 1;
    for (int d = 0; d < comparison->grid_count && cells <= MOST_CELLS; d++)
        cells *= comparison->grid[d].values.count;
    bool ok = cells * bases.row_count <= MOST_CELLS ||
              error_set(err, EXIT_CONFIG, "%s: grid has more than %d rows; search among them",
                        comparison->source, MOST_CELLS);
    for (int r = 0; ok && r < bases.row_count; r++)
        for (int64_t cell = 0; ok && cell < cells; cell++)
            ok = add_cell(comparison, &bases.rows[r], cell, err);
    comparison_free(&bases);
    return ok;
}

// ---- trials -------------------------------------------------------------------------------------

enum { REAL_BYTES = 32 };

// As few digits as leave it in its range, from 4 on: a person can read and write them again.
static const char *real_text(const SearchedKey *key, double value, char text[REAL_BYTES]) {
    double read = NAN;
    for (int digits = 4; digits <= 17 && !(read >= key->min && read <= key->max); digits++) {
        snprintf(text, REAL_BYTES, "%.*g", digits, value);
        read = strtod(text, NULL);
    }
    return text;
}

// Appends "key=value".
static void draw_value(Changes *changes, const SearchedKey *key, int64_t seed, int64_t draw) {
    RngStream stream = rng_named((uint64_t)seed, RNG_SEARCH, key->name);
    uint32_t words[4];
    rng_words(stream, (uint64_t)draw, words);
    double share = ((double)words[0] * 4294967296.0 + (double)words[1]) / 18446744073709551616.0;
    if (key->values.count > 0) {
        int64_t i = (int64_t)(share * key->values.count);
        if (i == key->values.count) i--; // rounded up
        changes_add(changes, key->line, "%s", key->values.words[i]);
        return;
    }
    bool whole = key->whole;
    char text[REAL_BYTES];
    double low = whole ? key->min - 0.5 : key->min, high = whole ? key->max + 0.5 : key->max;
    double value = key->logarithmic ? exp(log(low) + share * (log(high) - log(low)))
                                    : low + share * (high - low);
    value = fmin(fmax(whole ? round(value) : value, key->min), key->max);
    if (whole)
        changes_add(changes, key->line, "%s=%lld", key->name, (long long)value);
    else
        changes_add(changes, key->line, "%s=%s", key->name, real_text(key, value, text));
}

static bool is_there(const Comparison *comparison, const ComparedRow *trial) {
    for (int r = 0; r < comparison->row_count; r++) {
        const ComparedRow *row = &comparison->rows[r];
        bool same = row->trial && row->changes.count == trial->changes.count;
        for (int i = 0; same && i < row->changes.count; i++)
            same = strcmp(row->changes.words[i], trial->changes.words[i]) == 0;
        if (same) return true;
    }
    return false;
}

// Whether the draw is a new and legal trial, which is then a row; why not, where it is illegal.
static bool try_draw(Comparison *comparison, int number, int64_t draw, Error *why) {
    const Search *search = &comparison->search;
    ComparedRow trial = {.trial = true, .line = search->keys[0].line};
    snprintf(trial.name, sizeof trial.name, "trial-%d", number);
    for (int k = 0; k < search->key_count; k++) {
        draw_value(&trial.changes, &search->keys[k], search->seed, draw);
        extend_name(trial.name, trial.changes.words[k]);
    }
    if (is_there(comparison, &trial) || !comparison_plan(comparison, &trial, why)) {
        changes_free(&trial.changes);
        return false;
    }
    *comparison_add_row(comparison, trial.name, trial.line) = trial;
    return true;
}

bool search_draw(Comparison *comparison, Error *err) {
    const Search *search = &comparison->search;
    int ranks = comparison->ranks;
    comparison->ranks = 1; // trials are the same on any number
    int64_t draw = 0;
    Error why = {0};
    int found = 0;
    for (; found < search->trials; found++) {
        int64_t last = draw + MOST_DRAWS;
        while (draw < last && !try_draw(comparison, found + 1, draw, &why)) draw++;
        if (draw++ == last) break;
    }
    comparison->ranks = ranks;
    return found == search->trials ||
           error_set(err, EXIT_CONFIG,
                     "%s: search: only %d of %lld trials are found in %d draws for the next; ask "
                     "for fewer trials or give keys more values%s%.300s",
                     comparison->source, found, (long long)search->trials, MOST_DRAWS,
                     why.message[0] ? "; an illegal one: " : "", why.message);
}

// ---- successive halving -------------------------------------------------------------------------

int halving_rungs(int64_t total, int64_t least, int64_t factor, int64_t steps[HALVING_RUNGS]) {
    int count = 1;
    for (int64_t s = total / factor; s >= least && s > 0 && count < HALVING_RUNGS; s /= factor)
        count++;
    int64_t s = total;
    for (int rung = count - 1; rung >= 0; rung--, s /= factor) steps[rung] = s;
    return count;
}

int halving_left(int trials, int64_t factor, int rung) {
    int64_t left = trials;
    for (; rung > 0; rung--) left /= factor;
    return left > 1 ? (int)left : 1;
}

void halving_select(const double *losses, bool *in, int count, int keep) {
    int left = 0;
    for (int i = 0; i < count; i++) left += in[i];
    for (; left > keep; left--) {
        int worst = -1;
        for (int i = 0; i < count; i++)
            if (in[i] && (worst < 0 || isnan(losses[i]) ||
                          (losses[i] >= losses[worst] && !isnan(losses[worst]))))
                worst = i;
        in[worst] = false;
    }
}
