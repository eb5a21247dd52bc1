#include "launcher/compare/equal_flops.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- a width ------------------------------------------------------------------------------------

bool width_bounds_find(WidthBounds *bounds, int64_t multiple, int64_t least, int64_t most,
                       double target, WidthCost cost, void *context, Error *err) {
    int64_t low = (least + multiple - 1) / multiple, last = most / multiple;
    double low_flops, high_flops;
    CHECK(low <= last, "no multiple of %lld is a width", (long long)multiple);
    if (!cost(context, low * multiple, &low_flops, err)) return false;
    int64_t high = low;
    high_flops = low_flops;
    while (high_flops < target && high < last) { // from small ones on: large models take long
        low = high;
        low_flops = high_flops;
        high = high > last / 2 ? last : 2 * high;
        if (high == low) high++;
        if (!cost(context, high * multiple, &high_flops, err)) return false;
    }
    if (high_flops < target) { // the last
        low = high;
        low_flops = high_flops;
    }
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;
        double flops;
        if (!cost(context, middle * multiple, &flops, err)) return false;
        bool below = flops < target;
        *(below ? &low : &high) = middle;
        *(below ? &low_flops : &high_flops) = flops;
    }
    *bounds = (WidthBounds){{low * multiple, high * multiple}, {low_flops, high_flops}, 0};
    bounds->nearest = fabs(high_flops - target) < fabs(low_flops - target);
    return true;
}

// ---- of a row -----------------------------------------------------------------------------------

typedef struct RowCost {
    const Comparison *comparison;
    ComparedRow *row;
    const char *key;
} RowCost;

// The last of the row's changes is the width.
static bool row_cost(void *context, int64_t width, double *flops, Error *err) {
    RowCost *cost = context;
    ComparedRow *row = cost->row;
    changes_pop(&row->changes);
    changes_add(&row->changes, row->width_line, "%s=%lld", cost->key, (long long)width);
    if (!comparison_plan(cost->comparison, row, err)) return false;
    *flops = row->flops_per_token;
    return true;
}

static bool too_far(const Comparison *comparison, const ComparedRow *row, const char *key,
                    const WidthBounds *bounds, double target, Error *err) {
    char values[192];
    if (bounds->width[0] == bounds->width[1])
        snprintf(values, sizeof values, "%lld, the last legal one, makes %.4g",
                 (long long)bounds->width[0], bounds->flops[0] / 1e6);
    else if (bounds->flops[0] >= bounds->flops[1])
        snprintf(values, sizeof values, "any makes %.4g", bounds->flops[0] / 1e6);
    else
        snprintf(values, sizeof values, "%lld makes %.4g, %lld makes %.4g",
                 (long long)bounds->width[0], bounds->flops[0] / 1e6, (long long)bounds->width[1],
                 bounds->flops[1] / 1e6);
    return error_set(err, EXIT_CONFIG,
                     "%s: row %s: no %s makes a token cost the %.4g MFLOP of row %s within %g: "
                     "%s; name another width, a smaller equal_flops.multiple or a larger "
                     "equal_flops.tolerance",
                     comparison->source, row->name, key, target / 1e6,
                     comparison->equal_flops.reference, comparison->equal_flops.tolerance, values);
}

static bool is_near(const Comparison *comparison, double flops, double target) {
    return fabs(flops - target) <= comparison->equal_flops.tolerance * target;
}

// Whether the row's name has a value of the key, which solving it would make a lie of.
static bool is_drawn(const Comparison *comparison, const ComparedRow *row, const char *key) {
    const Search *search = &comparison->search;
    const SearchedKey *keys = row->trial ? search->keys : comparison->grid;
    int count = row->trial ? search->key_count : comparison->grid_count;
    for (int k = 0; k < count; k++)
        if (strcmp(keys[k].name, key) == 0) return true;
    return false;
}

static bool solve_row(Comparison *comparison, ComparedRow *row, double target, Error *err) {
    const EqualFlops *equal = &comparison->equal_flops;
    const char *width = row->width;
    if (!width[0]) {
        memcpy(row->width, equal->width, sizeof row->width);
        row->width_line = equal->width_line;
    }
    if (strcmp(width, "none") == 0) return true;
    if (!width[0])
        return is_near(comparison, row->flops_per_token, target) ||
               error_set(err, EXIT_CONFIG,
                         "%s: row %s: a token costs %.4g MFLOP, and %.4g in row %s; add width: "
                         "moe.d_ff, or another key that may change, or width: none",
                         comparison->source, row->name, row->flops_per_token / 1e6, target / 1e6,
                         equal->reference);
    if (is_drawn(comparison, row, width))
        return error_set(err, EXIT_CONFIG,
                         "%s: row %s: %s is given by the %s, and is to make FLOPs equal; name "
                         "another width, or leave it out there",
                         comparison->source, row->name, width, row->trial ? "search" : "grid");
    const Option *key = config_key(config_key_find(width));
    int64_t most = key->max < 1e9 ? (int64_t)key->max : 1000000000;
    int64_t least = key->min > 1 ? (int64_t)key->min : 1;
    if (most < equal->multiple ||
        (least + equal->multiple - 1) / equal->multiple * equal->multiple > most)
        return error_set(err, EXIT_CONFIG,
                         "%s: row %s: no multiple of %lld is a legal %s; choose a smaller "
                         "equal_flops.multiple",
                         comparison->source, row->name, (long long)equal->multiple, width);
    RowCost cost = {comparison, row, width};
    WidthBounds bounds;
    double flops;
    changes_add(&row->changes, row->width_line, "%s=", width);
    if (!width_bounds_find(&bounds, equal->multiple, least, most, target, row_cost, &cost, err) ||
        !row_cost(&cost, bounds.width[bounds.nearest], &flops, err))
        return false;
    row->solved = bounds.width[bounds.nearest];
    return is_near(comparison, flops, target) ||
           too_far(comparison, row, width, &bounds, target, err);
}

bool equal_flops_solve(Comparison *comparison, Error *err) {
    const char *reference = comparison->equal_flops.reference;
    int at = -1;
    for (int r = 0; r < comparison->row_count; r++) {
        if (strcmp(comparison->rows[r].name, reference) == 0) at = r;
        if (!reference[0] && comparison->rows[r].width[0])
            return error_set(err, EXIT_CONFIG,
                             "%s: row %s has a width, but nothing says what its FLOPs are to be; "
                             "add equal_flops: {reference: ROW}",
                             comparison->source, comparison->rows[r].name);
    }
    if (!reference[0]) return true;
    if (at < 0)
        return error_set(err, EXIT_CONFIG,
                         "%s: equal_flops.reference is '%.60s', which is no row; name one of rows",
                         comparison->source, reference);
    double target = comparison->rows[at].flops_per_token;
    for (int r = 0; r < comparison->row_count; r++)
        if (r != at && !solve_row(comparison, &comparison->rows[r], target, err)) return false;
    return true;
}
