#include "checkpoint/table_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "checkpoint/tensor_file.h"

static bool write_tables(int fd, const Manifest *manifest, const Table *tables, int count,
                         Error *err) {
    for (int i = 0; i < count; i++) {
        const Dataset *dataset = manifest_find(manifest, tables[i].name);
        Tensor values = tables[i].values;
        if (!file_write_at(fd, values.data, tensor_bytes(values), dataset->offset, err))
            return error_prefix(err, "%s", dataset->name);
    }
    return file_sync(fd, err);
}

bool table_file_write(const char *path, const Table *tables, int count, Error *err) {
    Manifest manifest = {0};
    for (int i = 0; i < count; i++)
        manifest_add(&manifest, tables[i].name, tables[i].values.dtype, tables[i].values.rank,
                     tables[i].values.shape, false);
    bool ok = manifest_arrange(&manifest, err) && tensor_file_create(path, &manifest, NULL, err);
    int fd = ok ? file_open(path, O_WRONLY, err) : -1;
    ok = fd >= 0 &&
         (write_tables(fd, &manifest, tables, count, err) || error_prefix(err, "%s", path));
    if (fd >= 0) close(fd);
    manifest_free(&manifest);
    return ok;
}
