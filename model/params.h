// The table of parameters: one row each, and everything that walks over parameters walks over this
// table: initialisation, optimizer, gradient reduction, checkpoint, planner, generation. None of
// them knows layers.
//
// Dense parameters are replicated on every rank. Expert parameters have the experts on their first
// axis, in the order of their places (placement.h), which are dealt to the ranks of an
// expert-parallel group as evenly as can be. Values lie in three flat runs: all dense rows, all
// expert rows, and all rows that no gradient changes. Gradients and moments have the first two, so
// that a reduction or the optimizer takes one call a run.
#ifndef MOETRAIN_MODEL_PARAMS_H
#define MOETRAIN_MODEL_PARAMS_H

#include "kernels/arena.h"

typedef struct ExpertPlaces ExpertPlaces; // placement.h

// How a parameter lies on the ranks.
typedef enum ParamKind { PARAM_DENSE, PARAM_EXPERT } ParamKind;
typedef enum ParamInit { INIT_NORMAL, INIT_ONES, INIT_ZEROS } ParamInit;
// What changes a parameter after a step. UPDATE_RULE: its layer does (a bias that follows the load
// of experts); it has a value and nothing else: no gradient, no moments, no part in the gradient
// norm, no weight decay. The rule must give every rank that holds it the same bits.
typedef enum ParamUpdate { UPDATE_GRADIENT, UPDATE_RULE } ParamUpdate;

// Parameters that the optimizer treats alike.
typedef enum ParamGroupNumber {
    GROUP_DECAY,    // embeddings, head, router
    GROUP_NO_DECAY, // norms, biases
    // matrices between hidden layers: rank 2, or rank 3 with experts first
    GROUP_HIDDEN,
    PARAM_GROUPS
} ParamGroupNumber;
typedef struct ParamGroup {
    bool decay;    // weight decay applies
    bool matrices; // an optimizer may treat each as a matrix (Muon)
} ParamGroup;
extern const ParamGroup param_groups[PARAM_GROUPS];

// The flat runs of a set. The first two are those of the kinds with a gradient, by ParamKind.
typedef enum ParamRun {
    RUN_DENSE,
    RUN_EXPERT,
    GRADIENT_RUNS,
    RUN_RULE = GRADIENT_RUNS,
    PARAM_RUNS
} ParamRun;

// Rows start at multiples of PARAM_ALIGNMENT elements, one cache line of f32; the padding between
// them stays zero.
enum { PARAM_NAME_BYTES = 96, PARAM_ALIGNMENT = 16, PARAM_FUSED_MAX = 3 };

// One parameter. Zero is the usual value of most members, so that a layer names what is special.
typedef struct Param {
    ParamKind kind;
    int rank;         // 1..3
    int64_t shape[3]; // global and logical: experts first
    ParamInit init;
    double init_std; // INIT_NORMAL
    uint8_t group;   // ParamGroupNumber
    // Rows of each of the matrices that lie below one another in this one (query, key and value;
    // gate and up); all 0: it is one.
    int64_t fused[PARAM_FUSED_MAX];
    ParamUpdate update;
    const ExpertPlaces *places; // PARAM_EXPERT: which expert lies where; NULL: in their order
    double active;  // the share of it that one token uses, as K/E of experts; 0 means all of it
    float lr_scale; // multiplies the learning rate; 0 means 1
    bool readout;   // a weight of few outputs, whatever the width (initialization.h)
    // Rank 2, of which a step changes few rows: a set of gradients may mark those (ParamSet).
    bool few_rows;
    bool looked_up; // a table of which a token reads a row

    // Filled by param_add.
    char name[PARAM_NAME_BYTES]; // "layers.3.moe.experts.down", unique
    bool multiplies;             // a weight of products with stored activations (linear.h)
    ParamRun run;
    int64_t first;  // place of the first row of the first axis held here (dense: 0)
    int64_t count;  // rows of the first axis held here (dense: shape[0])
    int64_t offset; // of the first local element in its run, in elements
    int64_t mark;   // of few_rows: of its first local row among all of those
    // Dense: of its sums in work->node_gradients; filled where gradients are laid out.
    int64_t node_offset;
} Param;

typedef struct ParamTable {
    Param *rows; // grows with param_add
    int count, capacity;
    int64_t ep_size, ep_rank;     // the group that shares rows added as PARAM_EXPERT; 0: all here
    int64_t elements[PARAM_RUNS]; // length of each run, padding included
    int64_t marks;                // local rows of all parameters of few_rows
    char scope[32];               // what names of rows to come begin with (param_scope)
} ParamTable;

// The flat runs of one thing of every parameter: values, their bf16 copy, gradients, or a moment of
// the optimizer.
typedef struct ParamSet {
    Tensor run[PARAM_RUNS];
    // (marks) i32, of gradients: 0 of rows that are zeros, in parameters of few_rows. No data and
    // rank 0: nobody marks, all rows count.
    Tensor marks;
} ParamSet;

// Appends `row`, zeroed at first, under the name and returns its number. Only the members above the
// comment in Param are read; shape[0] of an expert row is the global number of experts.
int param_add(ParamTable *table, Param row, const char *name_format, ...)
    __attribute__((format(printf, 3, 4)));

// Names of the rows to come begin with "PREFIX.NUMBER."; NULL: with nothing.
void param_scope(ParamTable *table, const char *prefix, int64_t number);

void param_table_free(ParamTable *table); // legal on a zeroed one
// The same rows under the same numbers, of which only those with keep[i] take room in the runs of a
// set; param_tensor is fatal for others.
ParamTable param_table_selection(const ParamTable *table, const bool *keep);

// Places the f32 values of all rows in the arena.
ParamSet param_values_layout(const ParamTable *table, Arena *arena);
// Places a set for what has a gradient: its RUN_RULE is empty.
ParamSet param_set_layout(const ParamTable *table, Arena *arena, DType dtype);
// The local tensor of row `index` in a set: shape (count, shape[1], shape[2]).
Tensor param_tensor(const ParamTable *table, ParamSet set, int index);
// Into how many segments the squares of a gradient are summed, so that a norm has the same bits on
// any number of ranks: a dense parameter is one, an expert is one, and of few_rows equal runs of
// rows are, as many as ranks can share. Of the whole parameter, and of what is here of it.
int64_t param_segments(const Param *row);
int64_t param_local_segments(const Param *row);
// Which segment of the whole parameter the i-th one here is.
int64_t param_global_segment(const Param *row, int64_t i);
// The marks of its rows, (count) i32; no data and rank 0 where a set has none.
Tensor param_marks(const ParamTable *table, ParamSet set, int index);
int64_t param_local_elements(const Param *row);
// Which row of the whole parameter the i-th one here is.
int64_t param_global_row(const Param *row, int64_t i);
// Elements over all ranks, each counted once, and those of them that one token uses.
int64_t param_elements(const Param *row);
int64_t param_active_elements(const Param *row);
// The row of that name, or NULL.
const Param *param_find(const ParamTable *table, const char *name);

// Fills f32 values by counter (seed, name, global element): the same on any number of ranks, and
// whatever other rows there are. Not collective.
void param_init(const ParamTable *table, Device *dev, ParamSet values, uint64_t seed);
// Those of one row into host memory.
void param_init_row(const Param *row, float *values, uint64_t seed);

#endif
