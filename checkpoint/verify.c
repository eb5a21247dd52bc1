#include "checkpoint/verify.h"

#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "comm/rank_facts.h"

bool verify_same_file(const char *path, const FileHeader *header, Error *err) {
    RankFact fact = {.what = "the checkpoint",
                     .exit_code = EXIT_CHECKPOINT,
                     .fix = "put it on a file system that all hosts share"};
    snprintf(fact.value, sizeof fact.value, "%lld bytes, contents ", (long long)header->file_bytes);
    for (size_t i = 0, used = strlen(fact.value); i < sizeof header->index_hash.bytes; i++)
        snprintf(fact.value + used + 2 * i, 3, "%02x", header->index_hash.bytes[i]);
    snprintf(fact.note, sizeof fact.note, "%s", path);
    return rank_facts_compare(&fact, 1, err);
}

bool verify_together(const char *path, VerifyDepth depth, Error *err) {
    CheckpointFile file;
    FileHeader header = {0};
    bool ok = checkpoint_file_open(&file, path, err);
    if (ok) {
        header = file.header;
        ok = depth == VERIFY_INDEX ||
             checkpoint_file_verify(&file, NULL, comm_rank(), comm_size(), err) ||
             error_prefix(err, "%s", path);
        checkpoint_file_close(&file);
    }
    return comm_agree(ok, err) && verify_same_file(path, &header, err);
}

bool checkpoint_verify(const char *path, Error *err) {
    return verify_together(path, VERIFY_ALL, err);
}
