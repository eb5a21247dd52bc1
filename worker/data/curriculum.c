#include "worker/data/curriculum.h"

#include <stdio.h>
#include <string.h>

#include "worker/data/data_names.h"
#include "worker/data/mix_schedule.h"

static int find_source(const DataSources *sources, const char *name) {
    for (int s = 0; s < sources->count; s++)
        if (strcmp(data_source_name(&sources->maps[s]), name) == 0) return s;
    return -1;
}

static bool check_row(const DataConfig *data, int64_t i, Error *err) {
    const CurriculumRow *row = &data->curriculum.maps[i];
    const DataSources *sources = &data->train;
    if (find_source(sources, row->source) < 0)
        return error_set(err, EXIT_CONFIG,
                         "data.curriculum has a weight for %.60s after %lld steps, and no source "
                         "of data.train has that name; the first is called %.60s",
                         row->source, (long long)row->from, data_source_name(&sources->maps[0]));
    for (int64_t j = 0; j < i; j++)
        if (data->curriculum.maps[j].from == row->from &&
            strcmp(data->curriculum.maps[j].source, row->source) == 0)
            return error_set(err, EXIT_CONFIG,
                             "data.curriculum has two weights for %.60s after %lld steps; keep "
                             "one",
                             row->source, (long long)row->from);
    return true;
}

// The smallest step of a row after `step`; -1: there is none.
static int64_t next_step(const CurriculumRows *rows, int64_t step) {
    int64_t next = -1;
    for (int64_t i = 0; i < rows->count; i++)
        if (rows->maps[i].from > step && (next < 0 || rows->maps[i].from < next))
            next = rows->maps[i].from;
    return next;
}

// The weight of a source in the range that begins at `from`: that of its latest row up to there.
static Rational weight_at(const DataConfig *data, int s, int64_t from) {
    Rational weight = data->train.maps[s].weight;
    int64_t latest = -1;
    for (int64_t i = 0; i < data->curriculum.count; i++) {
        const CurriculumRow *row = &data->curriculum.maps[i];
        if (row->from > from || row->from <= latest || find_source(&data->train, row->source) != s)
            continue;
        latest = row->from;
        weight = row->weight;
    }
    return weight;
}

bool curriculum_make(Curriculum *curriculum, const DataConfig *data, Error *err) {
    *curriculum = (Curriculum){0};
    for (int64_t i = 0; i < data->curriculum.count; i++)
        if (!check_row(data, i, err)) return false;
    for (int64_t from = 0; from >= 0; from = next_step(&data->curriculum, from)) {
        Rational weights[DATA_SOURCES_MAX];
        CurriculumRange *range = &curriculum->ranges[curriculum->count++];
        range->from = from;
        for (int s = 0; s < data->train.count; s++) weights[s] = weight_at(data, s, from);
        if (mix_shares(weights, (int)data->train.count, range->share, err)) continue;
        return error_prefix(err, "%s, the weights after %lld steps",
                            data->curriculum.count > 0 ? "data.curriculum" : "data.train",
                            (long long)from);
    }
    return true;
}

const CurriculumRange *curriculum_at(const Curriculum *curriculum, int64_t step) {
    int range = 0;
    while (range + 1 < curriculum->count && curriculum->ranges[range + 1].from <= step) range++;
    return &curriculum->ranges[range];
}

void curriculum_describe(const int64_t share[DATA_SOURCES_MAX], const DataSources *sources,
                         char text[SHARES_TEXT_BYTES]) {
    int64_t all = 0;
    size_t used = 0;
    text[0] = 0;
    for (int s = 0; s < sources->count; s++) all += share[s];
    for (int s = 0; s < sources->count && used < SHARES_TEXT_BYTES; s++)
        used += (size_t)snprintf(text + used, SHARES_TEXT_BYTES - used, "%s%.4g%% %.60s",
                                 s == 0 ? "" : ", ", 100.0 * (double)share[s] / (double)all,
                                 data_source_name(&sources->maps[s]));
}
