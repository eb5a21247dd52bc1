#include "worker/optimizer/update_groups.h"

#include <fnmatch.h>
#include <stdlib.h>

#include "kernels/suggest.h"

// The first row of train.groups that matches, or -1.
static int64_t rule_of(const Param *row, const GroupRules *rules) {
    for (int64_t i = 0; i < rules->count; i++)
        if (fnmatch(rules->maps[i].match, row->name, 0) == 0) return i;
    return -1;
}

static UpdateGroup group_of(const Param *row, const OptimizerConfig *config) {
    UpdateGroup group = {.lr_scale = (double)row->lr_scale,
                         .weight_decay = param_groups[row->group].decay ? config->weight_decay : 0};
    int64_t i = rule_of(row, &config->groups);
    if (i < 0) return group;
    const GroupRule *rule = &config->groups.maps[i];
    group.lr_scale *= rule->lr_scale;
    if (rule->weight_decay != GROUP_DECAY_AS_BEFORE) group.weight_decay = rule->weight_decay;
    return group;
}

// Says why a row of train.groups is of no use.
static bool refuse(const ParamTable *params, const char *match, Error *err) {
    char quoted[80];
    value_quote(match, quoted);
    for (int i = 0; i < params->count; i++)
        if (fnmatch(match, params->rows[i].name, 0) == 0)
            return error_set(err, EXIT_CONFIG,
                             params->rows[i].update == UPDATE_RULE
                                 ? "train.groups: %s is %s, which no optimizer changes; take the "
                                   "group away"
                                 : "train.groups: what %s matches, as %s, belongs to groups before "
                                   "it; put the narrower pattern first",
                             quoted, params->rows[i].name);
    const char **names = calloc((size_t)params->count + 1, sizeof *names);
    CHECK_MEMORY(names, "no memory for %d names", params->count);
    for (int i = 0; i < params->count; i++) names[i] = params->rows[i].name;
    const char *near = suggest_word(match, names);
    error_set(err, EXIT_CONFIG, "train.groups: no parameter is called %s; %s%s%s", quoted,
              near ? "did you mean '" : "`moetrain inspect` of a checkpoint lists their names",
              near ? near : "", near ? "'?" : "");
    free(names);
    return false;
}

bool update_groups_check(const ParamTable *params, const OptimizerConfig *config, Error *err) {
    bool used[GROUP_RULES_MAX] = {false};
    for (int i = 0; i < params->count; i++) {
        const Param *row = &params->rows[i];
        int64_t rule = rule_of(row, &config->groups);
        if (rule >= 0 && row->update != UPDATE_RULE) used[rule] = true;
    }
    for (int64_t i = 0; i < config->groups.count; i++)
        if (!used[i]) return refuse(params, config->groups.maps[i].match, err);
    return true;
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
