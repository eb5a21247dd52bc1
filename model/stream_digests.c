#include "model/stream_digests.h"

#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"

// Of a half in both passes: more than any kind of layer names.
enum { PLACES_OF_HALF = 24, PLACES_OF_MODEL = 3 + MTP_LAYERS_MAX };

int64_t stream_places_most(const ModelConfig *config) {
    return PLACES_OF_MODEL + 2 * PLACES_OF_HALF * model_blocks(config);
}

int64_t stream_windows(const RankShape *shape) {
    return shape->B / shape->shards * shape->most_shards;
}

void stream_digests_layout(StreamDigests *digests, const Work *work, Arena *arena,
                           Arena *host_arena) {
    int64_t B = work->shape.B, windows = work->shape.micro_batches * stream_windows(&work->shape);
    int64_t most = stream_places_most(work->config);
    digests->sums = arena_2d(arena, I64, most * windows, 2);
    digests->host_sums = arena_mirror(host_arena, digests->sums);
    digests->places =
        (DigestPlace *)arena_1d(host_arena, U8, most * (int64_t)sizeof(DigestPlace)).data;
    digests->one_row = (int64_t *)arena_1d(host_arena, I64, B).data;
    for (int64_t b = 0; digests->one_row && b < B; b++) digests->one_row[b] = 1;
}

void digest_micro_batch(const Work *work) {
    StreamDigests *digests = work->digests;
    if (!digests) return;
    digests->next = 0;
    if (work->step.micro_batch > 0) return;
    digests->count = 0;
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

// The place of that name: the last one, or the next.
static int64_t place_of(StreamDigests *digests, const Work *work, const char *part) {
    DigestPlace place = {.pass = digests->pass};
    bool both = part && digests->scope[0];
    int length = snprintf(place.name, sizeof place.name, "%s%s%s", digests->scope, both ? "." : "",
                          part ? part : "");
    CHECK(length < (int)sizeof place.name, "a name of %d letters", length);
    const DigestPlace *last = digests->next > 0 ? &digests->places[digests->next - 1] : NULL;
    if (last && last->pass == place.pass && strcmp(last->name, place.name) == 0)
        return digests->next - 1;
    if (work->step.micro_batch == 0) {
        CHECK(digests->count < stream_places_most(work->config), "no place for %s", place.name);
        digests->places[digests->count++] = place;
    }
    CHECK(digests->next < digests->count &&
              strcmp(digests->places[digests->next].name, place.name) == 0,
          "%s is not where the first micro-batch had it", place.name);
    return digests->next++;
}

void digest_part(const Work *work, const char *part, Tensor x) {
    StreamDigests *digests = work->digests;
    if (!digests || !x.data) return;
    int64_t B = work->shape.B, M = work->shape.micro_batches;
    int64_t place = place_of(digests, work, part);
    int64_t first = (place * M + work->step.micro_batch) * stream_windows(&work->shape);
    checksums(work->dev, tensor_rows(digests->sums, first, B),
              tensor_reshape_2d(x, B, tensor_elements(x) / B),
              (CheckedRuns){B, NULL, digests->one_row, -1});
}
