// The table of parameters: one row each, and everything that walks over parameters walks over this
// table: initialisation, optimizer, gradient reduction, checkpoint, planner, generation. None of
// them knows layers.
//
// Dense parameters are replicated on every rank. Expert parameters have the experts on their first
// axis, dealt to the ranks of an expert-parallel group in equal runs. Values, gradients
// and moments lie in two flat runs each, all dense rows then all expert rows, so that a reduction
// or the optimizer takes one call a run.
#ifndef MOETRAIN_MODEL_PARAMS_H
#define MOETRAIN_MODEL_PARAMS_H

#include "kernels/arena.h"

typedef enum ParamKind { PARAM_DENSE, PARAM_EXPERT } ParamKind;
typedef enum ParamInit { INIT_NORMAL, INIT_ONES, INIT_ZEROS } ParamInit;

// Rows start at multiples of PARAM_ALIGNMENT elements, one cache line of f32; the padding between
// them stays zero.
enum { PARAM_NAME_BYTES = 96, PARAM_ALIGNMENT = 16 };

typedef struct Param {
    char name[PARAM_NAME_BYTES]; // "layers.3.moe.experts.down", unique
    ParamKind kind;
    int rank;         // 1..3
    int64_t shape[3]; // global and logical: experts first
    int64_t first;    // first row of the first axis held here (dense: 0)
    int64_t count;    // rows of the first axis held here (dense: shape[0])
    ParamInit init;
    float init_std; // INIT_NORMAL
    bool decay;     // weight decay applies (not on norms)
    int64_t offset; // of the first local element in its run (dense or expert), in elements
} Param;

typedef struct ParamTable {
    Param *rows; // grows with param_add
    int count, capacity;
    int64_t ep_size, ep_rank; // the group that shares rows added as PARAM_EXPERT; 0: all here
    int64_t elements[2];      // length of each run, by ParamKind, padding included
} ParamTable;

// One flat run for each kind: parameters, their bf16 copy, gradients, or a moment of the optimizer.
typedef struct ParamSet {
    Tensor run[2]; // by ParamKind
} ParamSet;

// Appends a row to the table, zeroed at first, and returns its number. expert rows: shape[0] is the
// global number of experts.
int param_add(ParamTable *table, ParamKind kind, ParamInit init, float init_std, bool decay,
              int rank, const int64_t shape[], const char *name_format, ...)
    __attribute__((format(printf, 8, 9)));

void param_table_free(ParamTable *table); // legal on a zeroed one

// Places one set of runs in the arena.
ParamSet param_set_layout(const ParamTable *table, Arena *arena, DType dtype);
// The local tensor of row `index` in a set: shape (count, shape[1], shape[2]).
Tensor param_tensor(const ParamTable *table, ParamSet set, int index);
// Elements over all ranks, each counted once.
int64_t param_elements(const Param *row);

// Fills f32 values by counter (seed, row number, global element): the same on any number of ranks.
// Not collective.
void param_init(const ParamTable *table, Device *dev, ParamSet values, uint64_t seed);

#endif
