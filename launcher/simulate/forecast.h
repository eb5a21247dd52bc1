// What a cluster makes of a configuration on 1, 2, 4, … ranks: replayed, tabled, and said in a
// sentence. Not collective.
#ifndef MOETRAIN_LAUNCHER_SIMULATE_FORECAST_H
#define MOETRAIN_LAUNCHER_SIMULATE_FORECAST_H

#include <stdio.h>

#include "launcher/config_origin.h"
#include "worker/simulation/replay.h"

// How tokens spread over experts.
typedef enum LoadKind { LOAD_EVEN, LOAD_SKEWED, LOAD_RECORDED } LoadKind;
typedef struct ExpertLoad {
    LoadKind kind;
    const UtilizationHistory *history; // of LOAD_RECORDED
} ExpertLoad;

typedef struct ForecastPoint {
    int ranks;
    double measured_ms; // NaN: it was not
    StepForecast step;  // seconds NaN: the configuration does not run on so many ranks
    double tokens_per_second;
    double efficiency; // tokens/s of a rank over those of one; NaN where one rank has none
} ForecastPoint;

enum { FORECAST_POINTS_MAX = 64 };
typedef struct Forecast {
    int count;
    ForecastPoint points[FORECAST_POINTS_MAX]; // that grow
} Forecast;

// Points that have only their ranks, and what was measured. With *calibrate the cluster's `reached`
// becomes that with which the first measured point takes as long as it did. `vocab_size`: resolved.
// A point in between that cannot be run is warned of; false with the error of the last.
bool forecast_make(Forecast *forecast, const Config *config, int64_t vocab_size, Cluster *cluster,
                   ExpertLoad load, bool calibrate, Error *err);

void forecast_print(FILE *out, const Forecast *forecast);
// Doubling the ranks pays where it gives at least 1.5 times the tokens/s, half of what it could.
// One line: from how many ranks on none does any more, and what most is lost to there.
void forecast_print_conclusion(FILE *out, const Forecast *forecast);

#endif
