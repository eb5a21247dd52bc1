// Rules that join several keys (kernels/option.h: beside what they configure). Each message gives
// the place, the values and the fix.
#ifndef MOETRAIN_LAUNCHER_CONFIG_RULES_H
#define MOETRAIN_LAUNCHER_CONFIG_RULES_H

#include "launcher/config_origin.h"

// Everything that can be known without the number of ranks. False with exit 2. Not collective.
bool config_check(const Config *config, Error *err);

// Whether `ranks` ranks can run it. *train is then the configuration with parallel.expert decided,
// which the saved text leaves open so that a run may resume on other ranks. False with exit 2. Not
// collective.
bool config_check_ranks(const Config *config, int ranks, TrainConfig *train, Error *err);
// The same for what reads a checkpoint and does not train: how it was cut for training binds
// nobody. parallel.expert is kept where it divides the ranks, otherwise decided anew; only one from
// the command line is an error. Not collective.
bool config_resolve_ranks(const Config *config, int ranks, TrainConfig *train, Error *err);

#endif
