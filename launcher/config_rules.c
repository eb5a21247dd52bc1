#include "launcher/config_rules.h"

#include <stdio.h>

#include "worker/parallel_options.h"

static bool is_given(const OptionRules *rules, const char *key) {
    return config_is_given(rules->reading, key);
}

static void place(const OptionRules *rules, const char *key, char *text, size_t bytes) {
    const Config *config = rules->reading;
    if (key)
        config_place(config, key, text, bytes);
    else
        snprintf(text, bytes, "%s", config->source);
}

static OptionRules rules_of(const Config *config, Error *err) {
    return (OptionRules){.reading = config, .is_given = is_given, .place = place, .err = err};
}

bool config_check(const Config *config, Error *err) {
    OptionRules rules = rules_of(config, err);
    return config_sections_check(&config->train, &rules);
}

bool config_check_ranks(const Config *config, int ranks, TrainConfig *train, Error *err) {
    OptionRules rules = rules_of(config, err);
    *train = config->train;
    return parallel_check_ranks(train, ranks, &rules);
}

bool config_resolve_ranks(const Config *config, int ranks, TrainConfig *train, Error *err) {
    OptionRules rules = rules_of(config, err);
    *train = config->train;
    bool stored = config->origins[config_key_find("parallel.expert")].kind != ORIGIN_COMMAND_LINE;
    if (stored && train->expert_parallel > 0 && ranks % train->expert_parallel != 0)
        train->expert_parallel = 0;
    return parallel_decide_expert(train, ranks, ranks, &rules); // windows, as many for each
}
