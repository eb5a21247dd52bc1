#include "launcher/config_keys.h"

#include <stddef.h>
#include <string.h>

// In the order in which keys are shown and derived, and rules are checked.
static const struct Part {
    const OptionSection *section;
    size_t base; // of the section's struct in TrainConfig
} PARTS[] = {
    {&RUN_OPTIONS, 0},
    {&DATA_OPTIONS, offsetof(TrainConfig, data)},
    {&TRAIN_OPTIONS, 0},
    {&OPTIMIZER_OPTIONS, 0},
    {&COMPAT_OPTIONS, offsetof(TrainConfig, model)},
    {&MODEL_OPTIONS, offsetof(TrainConfig, model)},
    {&ATTENTION_OPTIONS, offsetof(TrainConfig, model)},
    {&LATENT_ATTENTION_OPTIONS, offsetof(TrainConfig, model)},
    {&ATTENTION_EXPERTS_OPTIONS, offsetof(TrainConfig, model)},
    {&MOE_OPTIONS, offsetof(TrainConfig, model)},
    {&BALANCE_OPTIONS, offsetof(TrainConfig, model)},
    {&CHOOSING_OPTIONS, offsetof(TrainConfig, model)},
    {&ZERO_EXPERTS_OPTIONS, offsetof(TrainConfig, model)},
    {&SOFT_MOE_OPTIONS, offsetof(TrainConfig, model)},
    {&ROUTING_OPTIONS, 0},
    {&PARALLEL_OPTIONS, 0},
    {&PEER_OPTIONS, offsetof(TrainConfig, model)},
    {&MTP_OPTIONS, offsetof(TrainConfig, model)},
    {&CHECKPOINT_OPTIONS, 0},
    {&LOG_OPTIONS, 0},
    {&EVALUATE_OPTIONS, 0},
    {&SIZE_RULES, 0},
};
enum { PART_COUNT = sizeof PARTS / sizeof *PARTS };

int config_key_count(void) {
    int count = 0;
    for (int i = 0; i < PART_COUNT; i++) count += PARTS[i].section->count;
    return count;
}

// The part of a key; *number becomes that of its row there.
static const struct Part *find_part(int *number) {
    for (int i = 0; i < PART_COUNT; i++) {
        if (*number < PARTS[i].section->count) return &PARTS[i];
        *number -= PARTS[i].section->count;
    }
    die(EXIT_BUG, __FILE__, __LINE__, "there is no such key");
}

const Option *config_key(int number) {
    const struct Part *part = find_part(&number);
    return &part->section->rows[number];
}

int config_key_find(const char *name) {
    int count = config_key_count();
    for (int number = 0; number < count; number++)
        if (strcmp(config_key(number)->name, name) == 0) return number;
    return -1;
}

void *config_key_field(TrainConfig *config, int number) {
    const struct Part *part = find_part(&number);
    return (char *)config + part->base + part->section->rows[number].offset;
}

const void *config_key_value(const TrainConfig *config, int number) {
    const struct Part *part = find_part(&number);
    return (const char *)config + part->base + part->section->rows[number].offset;
}

void config_key_derive(TrainConfig *config, int number) {
    const struct Part *part = find_part(&number);
    const Option *key = &part->section->rows[number];
    if (key->derive) key->derive((char *)config + part->base);
}

bool config_sections_check(const TrainConfig *config, const OptionRules *rules) {
    for (int i = 0; i < PART_COUNT; i++) {
        const OptionSection *section = PARTS[i].section;
        if (section->check && !section->check((const char *)config + PARTS[i].base, rules))
            return false;
    }
    return true;
}
