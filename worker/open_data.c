#include "worker/open_data.h"

#include <stdio.h>
#include <stdlib.h>

#include <xxhash.h>

#include "comm/comm.h"
#include "worker/compare_ranks.h"
#include "worker/file_reader.h"

enum { CONTENT_BYTES = 80, SAMPLES = 1024, SAMPLE_BYTES = 1 << 14, LARGE_BYTES = 1 << 26 };

// Of a file that is too large to be hashed whole its identity has a few long runs; samples from
// everywhere find a copy that is stale or was cut off in between. Text goes to `content`, empty for
// smaller files.
static bool sample_content(const char *path, char content[CONTENT_BYTES], Error *err) {
    FileReader reader;
    content[0] = 0;
    if (!file_reader_open(&reader, path, err)) return false;
    XXH3_state_t *hash = XXH3_createState();
    void *block = malloc(SAMPLE_BYTES);
    CHECK_MEMORY(hash && block, "no memory for %d bytes", SAMPLE_BYTES);
    XXH3_64bits_reset(hash);
    bool ok = true;
    int64_t step = (reader.bytes - SAMPLE_BYTES) / SAMPLES;
    for (int64_t i = 0; ok && reader.bytes > LARGE_BYTES && i <= SAMPLES; i++) {
        ok = file_reader_read(&reader, i * step, SAMPLE_BYTES, block, err);
        if (ok) XXH3_64bits_update(hash, block, SAMPLE_BYTES);
    }
    if (ok && reader.bytes > LARGE_BYTES)
        snprintf(content, CONTENT_BYTES, ", samples %016llx",
                 (unsigned long long)XXH3_64bits_digest(hash));
    free(block);
    XXH3_freeState(hash);
    file_reader_close(&reader);
    return ok;
}

bool open_data(DataFile **file, const char *key, const char *path, const Vocabulary *vocabulary,
               char identity[40], Error *err) {
    char samples[CONTENT_BYTES], content[2 * CONTENT_BYTES];
    bool ok = data_file_open(file, path, vocabulary, comm_rank(), comm_size(), err) &&
              data_file_identity(*file, identity, err) && sample_content(path, samples, err);
    if (!comm_agree(ok, err)) return false;
    snprintf(content, sizeof content, "identity %.40s%s", identity, samples);
    return compare_data_files(key, path, *file, content, err);
}
