#include "model/stream_digests.h"

#include <stdio.h>
#include <string.h>

#include "kernels/integers.h"
#include "kernels/kernels.h"

// Of a half in both passes: more than any kind of layer names.
enum { PLACES_OF_HALF = 32, PLACES_OF_MODEL = 4 + MTP_LAYERS_MAX };

int64_t stream_places_most(const ModelConfig *config) {
    return PLACES_OF_MODEL + 2 * PLACES_OF_HALF * model_blocks(config);
}

// Sums that each rank has of experts: of the first one, which has most.
static int64_t sums_of_experts(const RankShape *shape, const ExpertPlaces *experts) {
    return deal_count(deal_evenly(experts->E, shape->ep_size), 0);
}

// A router's experts take in rows in two exchanges at most, in both passes.
int64_t stream_sums_most(const Work *work) {
    enum { PLACES_OF_EXPERTS = 4 };
    int64_t sums =
        stream_places_most(work->config) * work->shape.micro_batches * stream_windows(&work->shape);
    for (int i = 0; i < work->placement->count; i++)
        sums += PLACES_OF_EXPERTS * sums_of_experts(&work->shape, work->placement->tables[i]);
    return sums;
}

int64_t stream_windows(const RankShape *shape) {
    return shape->B / shape->shards * shape->most_shards;
}

void stream_digests_layout(StreamDigests *digests, const Work *work, Arena *arena,
                           Arena *host_arena) {
    int64_t runs = work->shape.B;
    for (int i = 0; i < work->placement->count; i++)
        runs = larger(runs, sums_of_experts(&work->shape, work->placement->tables[i]));
    digests->sums = arena_2d(arena, I64, stream_sums_most(work), 2);
    digests->host_sums = arena_mirror(host_arena, digests->sums);
    digests->places =
        (DigestPlace *)arena_1d(host_arena, U8,
                                stream_places_most(work->config) * (int64_t)sizeof(DigestPlace))
            .data;
    digests->run_rows = (int64_t *)arena_1d(host_arena, I64, runs).data;
}

void digest_micro_batch(const Work *work) {
    StreamDigests *digests = work->digests;
    if (!digests) return;
    digests->next = 0;
    if (work->step.micro_batch > 0) return;
    digests->count = digests->used = 0;
    fill_zero(work->dev, digests->sums);
}

void digest_scope(const Work *work, DigestPass pass, int64_t block, const char *half) {
    StreamDigests *digests = work->digests;
    if (!digests) return;
    int64_t layers = work->config->layers;
    bool layer = block < layers;
    digests->pass = pass;
    digests->scope[0] = 0;
    if (block == DIGEST_MODEL) return;
    snprintf(digests->scope, sizeof digests->scope, "%s.%lld%s%s", layer ? "layers" : "mtp",
             (long long)(layer ? block : block - layers), half ? "." : "", half ? half : "");
}

static int64_t sums_of_place(const Work *work, DigestPlace place) {
    if (place.parts > 0) return 1;
    return place.experts ? sums_of_experts(&work->shape, place.experts)
                         : work->shape.micro_batches * stream_windows(&work->shape);
}

// The place of that name, the last one or the next, of what `place` says; its first sum.
static int64_t place_of(StreamDigests *digests, const Work *work, const char *part,
                        DigestPlace place) {
    place.pass = digests->pass;
    place.first = digests->used;
    bool both = part && digests->scope[0];
    int length = snprintf(place.name, sizeof place.name, "%s%s%s", digests->scope, both ? "." : "",
                          part ? part : "");
    CHECK(length < (int)sizeof place.name, "a name of %d letters", length);
    const DigestPlace *last = digests->next > 0 ? &digests->places[digests->next - 1] : NULL;
    if (last && last->pass == place.pass && strcmp(last->name, place.name) == 0) return last->first;
    if (work->step.micro_batch == 0) {
        digests->used += sums_of_place(work, place);
        CHECK(digests->count < stream_places_most(work->config) &&
                  digests->used <= digests->sums.shape[0],
              "no place for %s", place.name);
        digests->places[digests->count++] = place;
    }
    CHECK(digests->next < digests->count &&
              strcmp(digests->places[digests->next].name, place.name) == 0,
          "%s is not where the first micro-batch had it", place.name);
    return digests->places[digests->next++].first;
}

// Of `rows` rows a window.
static void take_windows(const Work *work, const char *part, Tensor x, Tensor index, int64_t rows) {
    StreamDigests *digests = work->digests;
    int64_t B = work->shape.B;
    int64_t first = place_of(digests, work, part, (DigestPlace){0}) +
                    work->step.micro_batch * stream_windows(&work->shape);
    for (int64_t b = 0; b < B; b++) digests->run_rows[b] = rows;
    checksums(work->dev, tensor_rows(digests->sums, first, B), x,
              (CheckedRuns){.count = B, .rows = digests->run_rows, .except = -1, .index = index});
}

void digest_part(const Work *work, const char *part, Tensor x) {
    if (!work->digests || !x.data) return;
    int64_t B = work->shape.B;
    take_windows(work, part, tensor_reshape_2d(x, B, tensor_elements(x) / B), (Tensor){0}, 1);
}

void digest_gathered(const Work *work, const char *part, Tensor x, Tensor index) {
    if (!work->digests) return;
    take_windows(work, part, x, index, index.shape[0] / work->shape.B);
}

// The words of a row that is no whole number of them are not the same behind any other row.
static bool has_whole_words(Tensor x) {
    return x.shape[1] * (int64_t)dtype_bytes(x.dtype) % 4 == 0;
}

void digest_expert_rows(const Work *work, const char *part, Tensor x, const ExpertPlaces *experts,
                        int64_t first, Segments rows) {
    StreamDigests *digests = work->digests;
    if (!digests || !has_whole_words(x)) return;
    first += place_of(digests, work, part, (DigestPlace){.experts = experts});
    for (int64_t e = 0; e < rows.groups; e++)
        digests->run_rows[e] = rows.offsets[(e + 1) * rows.parts] - rows.offsets[e * rows.parts];
    checksums(
        work->dev, tensor_rows(digests->sums, first, rows.groups),
        tensor_rows(x, rows.offsets[0], rows.offsets[rows.groups * rows.parts] - rows.offsets[0]),
        (CheckedRuns){.count = rows.groups, .rows = digests->run_rows, .except = -1});
}

void digest_rows_of_parts(const Work *work, const char *part, Tensor x, int64_t parts) {
    StreamDigests *digests = work->digests;
    if (!digests || !has_whole_words(x)) return;
    int64_t place = place_of(digests, work, part, (DigestPlace){.parts = parts});
    checksums(work->dev, tensor_rows(digests->sums, place, 1), x,
              (CheckedRuns){.count = 1, .rows = &x.shape[0], .except = -1});
}
