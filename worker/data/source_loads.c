#include "worker/data/source_loads.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/integers.h"
#include "model/source_load.h"

// The next layer's column from number *i of all on, which moves behind it; NULL: there is none.
static const StatisticsColumn *next_column(const Statistics *stats, int *i) {
    while (*i < stats->column_count) {
        const StatisticsColumn *column = &stats->columns[(*i)++];
        if (strcmp(column->name, SOURCE_LOAD_COLUMN) == 0) return column;
    }
    return NULL;
}

void source_loads_open(SourceLoads *loads, const Statistics *stats, int sources) {
    const StatisticsColumn *column;
    *loads = (SourceLoads){0};
    for (int i = 0; (column = next_column(stats, &i));) loads->width += column->count;
    if (loads->width == 0) return;
    loads->sources = sources;
    loads->counts = calloc((size_t)loads->width, sizeof *loads->counts);
    CHECK_MEMORY(loads->counts, "no memory for %lld counts", (long long)loads->width);
}

void source_loads_close(SourceLoads *loads) {
    free(loads->counts);
    *loads = (SourceLoads){0};
}

void source_loads_add(SourceLoads *loads, const Statistics *stats) {
    const StatisticsColumn *column;
    int64_t *to = loads->counts;
    for (int i = 0; loads->sources > 0 && (column = next_column(stats, &i));) {
        const int64_t *counts = statistics_counts_of(stats, column);
        for (int64_t c = 0; c < column->count; c++) *to++ += counts[c];
    }
}

static int64_t sum_of(const int64_t *counts, int64_t n) {
    int64_t sum = 0;
    for (int64_t e = 0; e < n; e++) sum += counts[e];
    return sum;
}

double source_loads_imbalance(const SourceLoads *loads, const Statistics *stats, int source) {
    const StatisticsColumn *column;
    const int64_t *layer = loads->counts;
    double worst = NAN;
    for (int i = 0; (column = next_column(stats, &i)); layer += column->count) {
        int64_t E = column->count / loads->sources, busiest = 0;
        const int64_t *own = layer + source * E;
        for (int64_t e = 0; e < E; e++) busiest = larger(busiest, own[e]);
        int64_t sum = sum_of(own, E);
        if (sum > 0) worst = fmax(worst, (double)busiest * (double)E / (double)sum);
    }
    return worst;
}

double source_loads_distance(const SourceLoads *loads, const Statistics *stats, int source) {
    const StatisticsColumn *column;
    const int64_t *layer = loads->counts;
    double total = 0, layers = 0;
    for (int i = 0; (column = next_column(stats, &i)); layer += column->count) {
        int64_t E = column->count / loads->sources;
        const int64_t *own = layer + source * E;
        double sum = (double)sum_of(own, E), all = (double)sum_of(layer, column->count);
        if (sum == 0) continue;
        layers++;
        for (int64_t e = 0; e < E; e++) {
            int64_t of_all = 0;
            for (int s = 0; s < loads->sources; s++) of_all += layer[s * E + e];
            total += fabs((double)own[e] / sum - (double)of_all / all) / 2;
        }
    }
    return total / layers;
}

void source_loads_clear(SourceLoads *loads) {
    if (loads->sources > 0) memset(loads->counts, 0, (size_t)loads->width * sizeof *loads->counts);
}
