// The steps that `moetrain scale` has measured, for a simulation to be held against. Not
// collective.
#ifndef MOETRAIN_LAUNCHER_SIMULATE_MEASURED_STEPS_H
#define MOETRAIN_LAUNCHER_SIMULATE_MEASURED_STEPS_H

#include "launcher/simulate/forecast.h"

// From a scale.csv: the milliseconds of each point's number of ranks, with even routing where that
// is asked for and there is any. False with exit 2: no such file, or none of its rows is of this
// batch.
bool measured_steps_read(Forecast *forecast, const char *path, int64_t batch, bool even,
                         Error *err);

#endif
