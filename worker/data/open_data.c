#include "worker/data/open_data.h"

#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "worker/compare_ranks.h"
#include "worker/data/file_reader.h"
#include "worker/data/token_cache.h"
#include "worker/watch/watchdog.h"

enum { CONTENT_BYTES = 80, SAMPLES = 1024, SAMPLE_BYTES = 1 << 14, LARGE_BYTES = 1 << 26 };

// Of a file that is too large to be hashed whole its identity has a few long runs; samples from
// everywhere find a copy that is stale or was cut off in between. Text goes to `content`, empty for
// smaller files.
static bool sample_content(const FileReader *reader, char content[CONTENT_BYTES], Error *err) {
    content[0] = 0;
    XXH3_state_t *hash = XXH3_createState();
    void *block = malloc(SAMPLE_BYTES);
    CHECK_MEMORY(hash && block, "no memory for %d bytes", SAMPLE_BYTES);
    XXH3_64bits_reset(hash);
    bool ok = true;
    int64_t step = (reader->bytes - SAMPLE_BYTES) / SAMPLES;
    for (int64_t i = 0; ok && reader->bytes > LARGE_BYTES && i <= SAMPLES; i++) {
        ok = file_reader_read(reader, i * step, SAMPLE_BYTES, block, err);
        if (ok) XXH3_64bits_update(hash, block, SAMPLE_BYTES);
    }
    if (ok && reader->bytes > LARGE_BYTES)
        snprintf(content, CONTENT_BYTES, ", samples %016llx",
                 (unsigned long long)XXH3_64bits_digest(hash));
    free(block);
    XXH3_freeState(hash);
    return ok;
}

// What rank 0 tells those that wait while it makes tokens.
static bool tell(bool going_on) {
    broadcast(comm_world(), &going_on, sizeof going_on, 0);
    watchdog_beat("making tokens of text");
    return going_on;
}

static void tell_progress(void) {
    tell(true);
}

// One rank makes the tokens of a text, and the others wait for them, which is no hang. Collective
// over all ranks.
static bool make_tokens(const char *path, DataPart part, const Vocabulary *vocabulary, Error *err) {
    bool ok = true;
    if (comm_rank() == 0) {
        DataContent text = {0};
        ContentRules rules = vocabulary->content;
        rules.part = part;
        ok = data_content_open(&text, path, &rules, err) &&
             token_cache_make(vocabulary->tokenizer, &text.file, &text.documents,
                              vocabulary->token_folder, tell_progress, err);
        data_content_close(&text);
        tell(false);
    } else {
        while (tell(true)) continue;
    }
    return comm_follow(ok, err);
}

bool open_data(DataFile **file, const char *key, const char *path, DataPart part,
               const Vocabulary *vocabulary, char identity[40], Error *err) {
    char samples[CONTENT_BYTES], content[2 * CONTENT_BYTES];
    if (vocabulary->token_folder[0] && !make_tokens(path, part, vocabulary, err)) return false;
    bool ok = data_file_open(file, path, part, vocabulary, comm_rank(), comm_size(), err) &&
              data_file_identity(*file, identity, err) &&
              sample_content(&data_file_content(*file)->file, samples, err);
    if (!comm_agree(ok, err)) return false;
    snprintf(content, sizeof content, "identity %.40s%s", identity, samples);
    return compare_data_files(key, path, *file, content, err);
}
