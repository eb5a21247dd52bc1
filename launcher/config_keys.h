// All keys of the configuration: the list of sections (kernels/option.h), and their rows counted
// through. Not collective.
#ifndef MOETRAIN_LAUNCHER_CONFIG_KEYS_H
#define MOETRAIN_LAUNCHER_CONFIG_KEYS_H

#include "worker/train_config.h"

// Every key has a number from 0 to config_key_count() - 1: its place in help and printed
// configurations.
int config_key_count(void);
const Option *config_key(int number);
int config_key_find(const char *name); // -1: there is no such key
// The key's field.
void *config_key_field(TrainConfig *config, int number);
const void *config_key_value(const TrainConfig *config, int number);

// Gives a key that was left out the value that follows from others, if it has a function for that.
void config_key_derive(TrainConfig *config, int number);
// The rules of all sections, in their order, until one is broken: false with *rules->err.
bool config_sections_check(const TrainConfig *config, const OptionRules *rules);

#endif
