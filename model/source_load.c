#include "model/source_load.h"

int source_load_column(Statistics *stats, const Work *work, int64_t layer, int64_t experts) {
    int64_t sources = work->shape.sources;
    return sources < 2 ? -1
                       : statistics_counts(stats, SOURCE_LOAD_COLUMN, layer, sources * experts);
}

void source_load_count(const Router *router, Work *work, Statistics *stats) {
    const int32_t *source = work->step.sources;
    int64_t E = router->shape.experts, B = work->shape.B, T = work->shape.T;
    if (router->columns.source_load < 0) return;
    CHECK(source, "nobody has said which sources the windows are of");
    bool takes = work->config->moe.router.kind == EXPERT_CHOICE; // what was not kept was no choice
    for (int64_t b = 0, end; b < B; b = end) {
        for (end = b + 1; end < B && source[end] == source[b]; end++) continue;
        int first = router->columns.source_load + source[b] * (int)E;
        int64_t row = b * T, rows = (end - b) * T;
        count_ids(work->dev, statistics_count_range(stats, first, E),
                  tensor_rows(router->ids, row, rows),
                  takes ? tensor_rows(router->kept, row, rows) : (Tensor){0});
    }
}
