// A comparison: rows, which are changes of one configuration, times seeds.
//
// comparison_file.c reads one; every run of it is a whole configuration, which is known to be legal
// before anything is begun. Not collective.
#ifndef MOETRAIN_LAUNCHER_COMPARE_COMPARISON_H
#define MOETRAIN_LAUNCHER_COMPARE_COMPARISON_H

#include "launcher/config.h"

enum {
    COMPARED_NAME_BYTES = 128,
    COMPARED_KEY_BYTES = 64,
    COMPARED_SEEDS = 64,
    SEARCHED_KEYS = 32
};

// key=value, and the lines of the comparison's file that have them.
typedef struct Changes {
    char **words;
    int *lines;
    int count;
} Changes;

void changes_add(Changes *changes, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void changes_pop(Changes *changes); // the last of them
void changes_free(Changes *changes);

typedef struct ComparedRow {
    char name[COMPARED_NAME_BYTES]; // of its folder, too
    int line;
    Changes changes;
    char width[COMPARED_KEY_BYTES]; // the key that makes FLOPs equal, or "none"; empty: that of all
    int width_line;
    int64_t solved; // its value; 0: nothing was solved
    bool trial;     // of the search
    bool out;       // a trial that successive halving has ended
    // As the plan has them.
    int64_t total_params, active_params;
    double flops_per_token; // forward and backward
} ComparedRow;

// equal_flops.h
typedef struct EqualFlops {
    char reference[COMPARED_NAME_BYTES]; // a row; empty: FLOPs are as they are
    char width[COMPARED_KEY_BYTES];      // of rows that name none
    int width_line;
    double tolerance; // share of the reference's FLOPs
    int64_t multiple; // of which widths are multiples
} EqualFlops;

// A key of a grid or a search, whose values are "key=value" each, or a range.
typedef struct SearchedKey {
    char name[COMPARED_KEY_BYTES];
    int line;
    bool whole, number; // what it has
    Changes values;
    bool has_min, has_max, logarithmic;
    double min, max;
} SearchedKey;

// search.h
typedef struct Search {
    int line; // 0: there is none
    bool halving;
    int64_t trials, seed;
    int64_t factor, steps; // halving: one of so many goes on, after so many steps at least
    SearchedKey keys[SEARCHED_KEYS];
    int key_count;
} Search;

typedef struct Comparison {
    const char *source;             // the file's name, as messages show it
    char folder[CONFIG_PATH_BYTES]; // of the file: its relative paths start there
    char config[CONFIG_PATH_BYTES]; // the configuration that rows change
    char *config_text;
    size_t config_bytes;
    Changes set; // of all rows
    EqualFlops equal_flops;
    SearchedKey grid[SEARCHED_KEYS];
    int grid_count;
    Search search;
    ComparedRow *rows;
    int row_count;
    int64_t seeds[COMPARED_SEEDS];
    int seed_count;
    // Of the command line.
    const char *const *overrides; // of all rows; they win
    int override_count;
    const char *output; // the folder of all runs and of the tables
    int ranks;          // of a run
} Comparison;

// Whether the key is one that rows may have. False with exit 2, without the place.
bool comparison_leaves(const char *key, Error *err);

void comparison_free(Comparison *comparison); // legal on a zeroed one

// A row without changes, at the end.
ComparedRow *comparison_add_row(Comparison *comparison, const char *name, int line);

// The configuration of the run of a seed, which trains in `run_dir`; all of its rules hold. False
// with exit 2, and the row.
bool comparison_config(const Comparison *comparison, const ComparedRow *row, int64_t seed,
                       const char *run_dir, Config *config, Error *err);
// What the plan says of the row. False with exit 2 or 3, and the row.
bool comparison_plan(const Comparison *comparison, ComparedRow *row, Error *err);

#endif
