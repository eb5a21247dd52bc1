#include "worker/document_losses.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "worker/data/data_format.h"

#define UNITS_PER_NAT 0x1p30
#define MOST_NATS     0x1p16 // of a token
enum { UNITS, TARGETS, BYTES, BROKEN, SUMS };

bool document_losses_open(DocumentLosses *losses, DataFile *file, const Vocabulary *vocabulary,
                          Error *err) {
    *losses = (DocumentLosses){.vocabulary = vocabulary};
    if (!data_file_find_documents(file, err)) return false;
    losses->starts = &data_file_content(file)->documents;
    losses->count = losses->starts->count;
    losses->sums = calloc((size_t)losses->count * SUMS, sizeof *losses->sums);
    CHECK_MEMORY(losses->sums, "no memory for %lld documents", (long long)losses->count);
    if (data_format_facts(vocabulary->format)->numbers)
        losses->bytes_per_token = data_file_bytes_per_token(file);
    return true;
}

void document_losses_close(DocumentLosses *losses) {
    free(losses->sums);
    *losses = (DocumentLosses){0};
}

static int64_t bytes_of(const DocumentLosses *losses, int32_t token) {
    char scratch[32];
    size_t bytes = 0;
    if (!data_format_facts(losses->vocabulary->format)->numbers)
        vocabulary_decode(losses->vocabulary, token, scratch, &bytes);
    return (int64_t)bytes;
}

void document_losses_take(DocumentLosses *losses, const BatchBuffer *batch,
                          const float *token_losses, int64_t first_window, int64_t stride) {
    const int32_t *targets = tensor_i32(batch->host_targets);
    for (int64_t b = 0; b < batch->B; b++) {
        int64_t begin = (first_window + batch->first + b) * stride;
        for (int64_t i = tensor_i64(batch->firsts)[b]; i < tensor_i64(batch->counts)[b]; i++) {
            int32_t target = targets[b * batch->T + i];
            if (target == NO_TARGET) continue;
            int64_t *sums = losses->sums + SUMS * documents_find(losses->starts, begin + i + 1);
            double nats = (double)token_losses[b * batch->T + i];
            if (nats <= MOST_NATS)
                sums[UNITS] += llrint(nats * UNITS_PER_NAT);
            else // or not a number
                sums[BROKEN]++;
            sums[TARGETS]++;
            sums[BYTES] += bytes_of(losses, target);
        }
    }
}

static void print_row(const DocumentLosses *losses, const char *name, const char *key,
                      int64_t value, const int64_t sums[SUMS]) {
    double nats = (double)sums[UNITS] / UNITS_PER_NAT, targets = (double)sums[TARGETS];
    double bytes =
        losses->bytes_per_token > 0 ? targets * losses->bytes_per_token : (double)sums[BYTES];
    bool known = sums[BROKEN] == 0;
    json_t *row =
        json_pack("{sI sI so so}", key, (json_int_t)value, "tokens", (json_int_t)sums[TARGETS],
                  "nats", known ? json_real(nats) : json_null(), "loss",
                  known && targets > 0 ? json_real(nats / targets) : json_null());
    CHECK_MEMORY(row, "no memory for a line of JSON");
    if (known && bytes > 0)
        json_object_set_new(row, "bits_per_byte", json_real(nats / log(2.0) / bytes));
    if (name[0]) json_object_set_new(row, "validation", json_string(name));
    json_dumpf(row, stdout, 0);
    putchar('\n');
    json_decref(row);
}

void document_losses_print(DocumentLosses *losses, const char *name) {
    int64_t all[SUMS] = {0};
    all_reduce_sum(comm_world(), tensor_1d(losses->sums, I64, SUMS * losses->count),
                   REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_OTHER);
    if (comm_rank() != 0) return;
    for (int64_t i = 0; i < losses->count; i++) {
        for (int s = 0; s < SUMS; s++) all[s] += losses->sums[SUMS * i + s];
        print_row(losses, name, "document", i, losses->sums + SUMS * i);
    }
    print_row(losses, name, "documents", losses->count, all);
    fflush(stdout);
}
