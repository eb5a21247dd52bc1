#include "checkpoint/checkpoint_contents.h"

#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "checkpoint/checkpoint_file.h"
#include "checkpoint/file_io.h"

void small_contents_collect(const Checkpoint *checkpoint, SmallContents *small) {
    *small = (SmallContents){.state = checkpoint->state};
    time_t now = time(NULL);
    struct tm utc;
    strftime(small->created_utc, sizeof small->created_utc, "%Y-%m-%dT%H:%M:%SZ",
             gmtime_r(&now, &utc));
    UtilizationHistory *history = checkpoint->utilization;
    if (!history) utilization_allocate(history = &small->no_history);
    state_tensors(&small->state, small->tensors);
    small->tensor_count = STATE_TENSORS;
    small->tensor_count += utilization_tensors(history, small->tensors + STATE_TENSORS);
    SavedTensor *about = small->tensors + small->tensor_count;
    about[0] = text_tensor("config", checkpoint->config_yaml ? checkpoint->config_yaml : "");
    about[1] = text_tensor("about/program_version", MOETRAIN_VERSION);
    about[2] = text_tensor("about/created_utc", small->created_utc);
    small->tensor_count += ABOUT_TENSORS;
}

void checkpoint_list_datasets(const Checkpoint *checkpoint, const SmallContents *small,
                              Manifest *manifest) {
    for (int i = 0; i < checkpoint->tensor_count; i++) {
        const SavedTensor *tensor = &checkpoint->tensors[i];
        manifest_add(manifest, tensor->name, tensor->dtype, tensor->rank, tensor->shape,
                     !tensor->replicated);
    }
    for (int i = 0; i < small->tensor_count; i++) {
        const SavedTensor *tensor = &small->tensors[i];
        manifest_add(manifest, tensor->name, tensor->dtype, tensor->rank, tensor->shape, false);
    }
    Error err = {0};
    CHECK(manifest_arrange(manifest, &err), "cannot save: %s", err.message);
}

bool checkpoint_seal(const char *temporary, Manifest *manifest, FileHeader *header, Error *err) {
    size_t records_bytes = (size_t)manifest->count * sizeof(ManifestRecord);
    size_t hashes_bytes = (size_t)manifest->blocks * sizeof(Hash);
    bool ok = false;
    ManifestRecord *records = malloc(records_bytes);
    CHECK_MEMORY(records, "no memory for a manifest of %zu bytes", records_bytes);
    for (int64_t i = 0; i < manifest->count; i++)
        records[i] = dataset_encode(&manifest->datasets[i]);
    int fd = file_open(temporary, O_RDWR, err);
    if (fd < 0) {
        free(records);
        return false;
    }
    header->format_version = CHECKPOINT_FORMAT_VERSION;
    header->index_hash = index_hash(records, manifest->count, manifest->hashes, manifest->blocks);
    if (!file_write_at(fd, records, records_bytes, header->records_offset, err)) goto cleanup;
    if (!file_write_at(fd, manifest->hashes, hashes_bytes, header->hashes_offset, err))
        goto cleanup;
    if (!structure_hash(fd, manifest, header->file_bytes, &header->structure_hash, err))
        goto cleanup;
    header_seal(header);
    ok = file_write_at(fd, header, sizeof *header, 0, err) && file_sync(fd, err);
cleanup:
    close(fd);
    free(records);
    return ok || error_prefix(err, "%s", temporary);
}
