#include "launcher/simulate/measured_steps.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/cli_numbers.h"

static const char HEAD[] = "ranks,routing,batch,experts,runs,failed,step_ms,";

typedef struct Row {
    int64_t ranks, batch;
    bool even;
    double step_ms;
} Row;

// False: the point has no measurement.
static bool read_row(char *line, Row *row) {
    char *at = line, *fields[7];
    for (int i = 0; i < 7; i++) {
        fields[i] = at;
        at += strcspn(at, ",\n");
        if (*at) *at++ = 0;
    }
    row->even = strcmp(fields[1], "even") == 0;
    return whole_number(fields[0], 1, 1 << 20, &row->ranks) &&
           whole_number(fields[2], 1, INT64_MAX, &row->batch) &&
           number(fields[6], 1e-6, 1e12, &row->step_ms);
}

static int take_rows(Forecast *forecast, FILE *file, int64_t batch, bool even) {
    char line[1024];
    int taken = 0;
    Row row;
    while (fgets(line, sizeof line, file)) {
        if (!read_row(line, &row) || row.batch != batch || row.even != even) continue;
        for (int i = 0; i < forecast->count; i++)
            if (forecast->points[i].ranks == row.ranks) {
                forecast->points[i].measured_ms = row.step_ms;
                taken++;
            }
    }
    return taken;
}

bool measured_steps_read(Forecast *forecast, const char *path, int64_t batch, bool even,
                         Error *err) {
    char head[1024] = "";
    FILE *file = fopen(path, "r");
    if (!file)
        return error_set(err, EXIT_CONFIG,
                         "%.400s: %s; give the scale.csv that `moetrain scale` has written", path,
                         strerror(errno));
    bool ok = fgets(head, sizeof head, file) && strncmp(head, HEAD, strlen(HEAD)) == 0;
    long begin = ok ? ftell(file) : 0;
    int taken = ok ? take_rows(forecast, file, batch, even) : 0;
    if (ok && taken == 0 && even && fseek(file, begin, SEEK_SET) == 0) // no layer has a router
        taken = take_rows(forecast, file, batch, false);
    fclose(file);
    if (!ok)
        return error_set(err, EXIT_CONFIG,
                         "%.400s:1:1: no table of `moetrain scale`, which begins with '%s…'; give "
                         "the scale.csv of a run of it",
                         path, HEAD);
    return taken > 0 ||
           error_set(err, EXIT_CONFIG,
                     "%.400s: no measured row has 1, 2, 4, … up to %d ranks and train.batch %lld; "
                     "measure with --strong and this batch",
                     path, forecast->points[forecast->count - 1].ranks, (long long)batch);
}
