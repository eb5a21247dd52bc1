#include "worker/update_groups.h"

#include <stdlib.h>

static UpdateGroup group_of(const Param *row, const OptimizerConfig *config) {
    return (UpdateGroup){.lr_scale = (double)row->lr_scale,
                         .weight_decay = param_groups[row->group].decay ? config->weight_decay : 0};
}

// The row with these two numbers, a new one where there is none.
static int row_of(UpdateGroups *table, UpdateGroup group) {
    for (int i = 0; i < table->count; i++)
        if (table->groups[i].lr_scale == group.lr_scale &&
            table->groups[i].weight_decay == group.weight_decay)
            return i;
    CHECK(table->count < UPDATE_GROUPS, "parameters have more than %d different rates and decays",
          (int)UPDATE_GROUPS);
    table->groups[table->count] = group;
    return table->count++;
}

void update_groups_init(UpdateGroups *table, const ParamTable *params,
                        const OptimizerConfig *config) {
    *table = (UpdateGroups){0};
    table->row = calloc((size_t)params->count + 1, sizeof *table->row);
    CHECK_MEMORY(table->row, "no memory for groups of %d parameters", params->count);
    for (int i = 0; i < params->count; i++)
        table->row[i] = (uint8_t)row_of(table, group_of(&params->rows[i], config));
}

void update_groups_free(UpdateGroups *table) {
    free(table->row);
    *table = (UpdateGroups){0};
}
