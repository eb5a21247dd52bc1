#include "launcher/compare/result_table.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct Column {
    const char *name;  // in CSV
    const char *title; // in Markdown
    size_t offset;     // of the double in RunResult
    double scale;      // in Markdown
    int decimals;
} Column;

static const Column COLUMNS[] = {
    {"steps", "steps", offsetof(RunResult, steps), 1, 0},
    {"val_loss", "loss", offsetof(RunResult, val_loss), 1, 4},
    {"val_bits_per_byte", "bits per byte", offsetof(RunResult, val_bits_per_byte), 1, 4},
    {"seconds", "time, s", offsetof(RunResult, seconds), 1, 1},
    {"tokens_per_second", "tokens/s", offsetof(RunResult, tokens_per_second), 1, 0},
    {"peak_memory_mib", "memory, MiB", offsetof(RunResult, peak_memory_mib), 1, 1},
    {"max_vio", "MaxVio", offsetof(RunResult, max_vio), 1, 2},
    {"drop_rate", "dropped, %", offsetof(RunResult, drop_rate), 100, 2},
    {"val_tokens_per_second", "evaluation, tokens/s", offsetof(RunResult, val_tokens_per_second), 1,
     0},
    {"token_ms", "text, ms/token", offsetof(RunResult, token_ms), 1, 3},
};
enum { STEPS, VAL_LOSS }; // of the columns
enum { COLUMN_COUNT = sizeof COLUMNS / sizeof *COLUMNS };

static double value_at(const RunResult *result, const Column *column) {
    double value;
    memcpy(&value, (const char *)result + column->offset, sizeof value);
    return value;
}

Spread spread_of(const double *values, int count) {
    Spread spread = {0, NAN, NAN};
    double sum = 0, squares = 0;
    for (int i = 0; i < count; i++) {
        if (!isfinite(values[i])) continue;
        sum += values[i];
        spread.count++;
    }
    if (spread.count > 0) spread.mean = sum / spread.count;
    for (int i = 0; i < count; i++)
        if (isfinite(values[i])) squares += pow(values[i] - spread.mean, 2);
    if (spread.count > 1) spread.deviation = sqrt(squares / (spread.count - 1));
    return spread;
}

// What of a row is done.
typedef struct RowState {
    int done, failed;
    Spread spreads[COLUMN_COUNT];
} RowState;

static RowState row_state(ComparedResults all, int row) {
    RowState state = {0};
    double values[COLUMN_COUNT][COMPARED_SEEDS];
    for (int i = 0; i < all.count; i++) {
        if (all.runs[i].row != row) continue;
        if (all.results[i].failed) state.failed++;
        if (!all.results[i].done) continue;
        for (int c = 0; c < COLUMN_COUNT; c++)
            values[c][state.done] = value_at(&all.results[i], &COLUMNS[c]);
        state.done++;
    }
    for (int c = 0; c < COLUMN_COUNT; c++) state.spreads[c] = spread_of(values[c], state.done);
    return state;
}

// ---- the order of rows --------------------------------------------------------------------------

typedef struct Rank {
    int row;
    double steps, loss;
} Rank;

// Who was trained longest, and of these who is best; qsort keeps no order of equal ones.
static int compare_places(const void *a, const void *b) {
    const Rank *one = a, *other = b;
    if (one->steps != other->steps) return one->steps < other->steps ? 1 : -1;
    if (one->loss != other->loss) return one->loss > other->loss ? 1 : -1;
    return one->row - other->row;
}

// As in the file, or of a search the best first. To be freed by the caller.
static Rank *order_rows(const Comparison *comparison, ComparedResults results) {
    Rank *ranks = calloc((size_t)comparison->row_count, sizeof *ranks);
    CHECK_MEMORY(ranks, "no memory for %d rows", comparison->row_count);
    for (int r = 0; r < comparison->row_count; r++) {
        RowState state = row_state(results, r);
        bool known = state.done > 0 && isfinite(state.spreads[VAL_LOSS].mean);
        ranks[r] = (Rank){r, known ? state.spreads[STEPS].mean : 0,
                          known ? state.spreads[VAL_LOSS].mean : INFINITY};
    }
    if (comparison->search.line)
        qsort(ranks, (size_t)comparison->row_count, sizeof *ranks, compare_places);
    return ranks;
}

// ---- Markdown -----------------------------------------------------------------------------------

static void print_spread(FILE *out, Spread spread, const Column *column) {
    if (spread.count == 0)
        fputs(" – |", out);
    else
        fprintf(out, " %.*f", column->decimals, column->scale * spread.mean);
    if (spread.count > 1 && column != &COLUMNS[STEPS]) // all have the same
        fprintf(out, " ± %.*f", column->decimals, column->scale * spread.deviation);
    if (spread.count > 0) fputs(" |", out);
}

// What was solved, "moe.d_ff=48".
static void describe_width(const ComparedRow *row, char *text, size_t bytes) {
    text[0] = 0;
    if (row->solved > 0) snprintf(text, bytes, "%s=%lld", row->width, (long long)row->solved);
}

void table_print(FILE *out, const Comparison *comparison, ComparedResults results) {
    fputs("| |", out);
    for (int c = 0; c < COLUMN_COUNT; c++) fprintf(out, " %s |", COLUMNS[c].title);
    fputs(" parameters | active | MFLOP a token | width | runs |\n|---|", out);
    for (int c = 0; c < COLUMN_COUNT + 5; c++) fputs("--:|", out);
    fputc('\n', out);
    Rank *ranks = order_rows(comparison, results);
    for (int i = 0; i < comparison->row_count; i++) {
        const ComparedRow *row = &comparison->rows[ranks[i].row];
        RowState state = row_state(results, ranks[i].row);
        fprintf(out, "| %s |", row->name);
        for (int c = 0; c < COLUMN_COUNT; c++) print_spread(out, state.spreads[c], &COLUMNS[c]);
        char width[COMPARED_KEY_BYTES + 24];
        describe_width(row, width, sizeof width);
        fprintf(out, " %lld | %lld | %.3f | %s | %d of %d", (long long)row->total_params,
                (long long)row->active_params, row->flops_per_token / 1e6, width, state.done,
                comparison->seed_count);
        if (state.failed) fprintf(out, ", %d failed", state.failed);
        fputs(" |\n", out);
    }
    free(ranks);
}

// ---- CSV ----------------------------------------------------------------------------------------

// An unknown number is an empty field.
static void print_number(FILE *out, double value) {
    if (isfinite(value))
        fprintf(out, ",%.9g", value);
    else
        fputc(',', out);
}

static void print_facts(FILE *out, const ComparedRow *row) {
    char width[COMPARED_KEY_BYTES + 24];
    describe_width(row, width, sizeof width);
    fprintf(out, ",%lld,%lld,%.9g,%s", (long long)row->total_params, (long long)row->active_params,
            row->flops_per_token, width);
}

// A name, which may have commas.
static void print_name(FILE *out, const char *name) {
    fprintf(out, strchr(name, ',') ? "\"%s\"" : "%s", name);
}

void table_print_rows(FILE *out, const Comparison *comparison, ComparedResults results) {
    fputs("row,runs,failed", out);
    for (int c = 0; c < COLUMN_COUNT; c++)
        fprintf(out, ",%s,%s_deviation", COLUMNS[c].name, COLUMNS[c].name);
    fputs(",parameters,active_parameters,flops_per_token,width\n", out);
    Rank *ranks = order_rows(comparison, results);
    for (int i = 0; i < comparison->row_count; i++) {
        const ComparedRow *row = &comparison->rows[ranks[i].row];
        RowState state = row_state(results, ranks[i].row);
        print_name(out, row->name);
        fprintf(out, ",%d,%d", state.done, state.failed);
        for (int c = 0; c < COLUMN_COUNT; c++) {
            print_number(out, state.spreads[c].mean);
            print_number(out, state.spreads[c].deviation);
        }
        print_facts(out, row);
        fputc('\n', out);
    }
    free(ranks);
}

void table_print_runs(FILE *out, const Comparison *comparison, ComparedResults results) {
    fputs("row,seed,done", out);
    for (int c = 0; c < COLUMN_COUNT; c++) fprintf(out, ",%s", COLUMNS[c].name);
    fputs(",parameters,active_parameters,flops_per_token,width,folder\n", out);
    for (int i = 0; i < results.count; i++) {
        const ComparedRun *run = &results.runs[i];
        const RunResult *result = &results.results[i];
        print_name(out, comparison->rows[run->row].name);
        fprintf(out, ",%lld,%d", (long long)comparison->seeds[run->seed], result->done);
        for (int c = 0; c < COLUMN_COUNT; c++) print_number(out, value_at(result, &COLUMNS[c]));
        print_facts(out, &comparison->rows[run->row]);
        fputc(',', out);
        print_name(out, run->dir);
        fputc('\n', out);
    }
}
