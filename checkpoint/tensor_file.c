#include "checkpoint/tensor_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <hdf5.h>

#include "checkpoint/file_io.h"

// What all datasets of a file are created with.
typedef struct Layout {
    hid_t file;
    hid_t links;   // creates the groups on the way to a dataset
    hid_t storage; // contiguous, placed at once, never filled
} Layout;

static hid_t hdf5_type(DType dtype) {
    switch (dtype) {
    case F32:
        return H5T_IEEE_F32LE;
    case F64:
        return H5T_IEEE_F64LE;
    case I32:
        return H5T_STD_I32LE;
    case I64:
        return H5T_STD_I64LE;
    case U8:
        return H5T_STD_U8LE;
    case BF16:
    case F16:
    case I8:
        break; // parameters and moments are saved in f32
    }
    return H5I_INVALID_HID;
}

// Creates one dataset; *offset is where its bytes begin in the file, 0 when it has none.
static bool layout_dataset(const Layout *layout, const char *name, hid_t type, int rank,
                           const int64_t shape[], int64_t *offset) {
    bool ok = false, empty = false;
    hsize_t dims[DATASET_AXES];
    for (int axis = 0; axis < rank; axis++) {
        dims[axis] = (hsize_t)shape[axis];
        empty = empty || shape[axis] == 0;
    }
    hid_t dataset = H5I_INVALID_HID, space = H5Screate_simple(rank, dims, NULL);
    if (space < 0) goto cleanup;
    dataset =
        H5Dcreate2(layout->file, name, type, space, layout->links, layout->storage, H5P_DEFAULT);
    if (dataset < 0) goto cleanup;
    haddr_t address = H5Dget_offset(dataset);
    ok = empty || address != HADDR_UNDEF;
    *offset = empty ? 0 : (int64_t)address;
cleanup:
    if (dataset >= 0) ok = H5Dclose(dataset) >= 0 && ok;
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool insert_integers(hid_t record, const char *name, size_t offset, hsize_t count) {
    hid_t type = count == 1 ? H5Tcopy(H5T_STD_I64LE) : H5Tarray_create2(H5T_STD_I64LE, 1, &count);
    bool ok = type >= 0 && H5Tinsert(record, name, offset, type) >= 0;
    if (type >= 0) H5Tclose(type);
    return ok;
}

static bool insert_text(hid_t record, const char *name, size_t offset, size_t bytes) {
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, bytes) >= 0 &&
              H5Tset_strpad(type, H5T_STR_NULLPAD) >= 0 &&
              H5Tinsert(record, name, offset, type) >= 0;
    if (type >= 0) H5Tclose(type);
    return ok;
}

// ManifestRecord as HDF5 readers see it.
static hid_t record_type(void) {
    hid_t record = H5Tcreate(H5T_COMPOUND, sizeof(ManifestRecord));
    if (record < 0) return record;
    if (insert_text(record, "name", offsetof(ManifestRecord, name), DATASET_NAME_BYTES) &&
        insert_text(record, "dtype", offsetof(ManifestRecord, dtype), 8) &&
        insert_integers(record, "rank", offsetof(ManifestRecord, rank), 1) &&
        insert_integers(record, "shape", offsetof(ManifestRecord, shape), DATASET_AXES) &&
        insert_integers(record, "row_blocks", offsetof(ManifestRecord, row_blocks), 1) &&
        insert_integers(record, "offset", offsetof(ManifestRecord, offset), 1))
        return record;
    H5Tclose(record);
    return H5I_INVALID_HID;
}

// The manifest and the block hashes, which HDF5 readers may look at too.
static bool layout_index(const Layout *layout, const Manifest *manifest, FileHeader *header) {
    hid_t record = record_type();
    if (record < 0) return false;
    header->record_count = manifest->count;
    header->block_count = manifest->blocks;
    bool ok = layout_dataset(layout, "manifest", record, 1, (int64_t[]){manifest->count},
                             &header->records_offset) &&
              layout_dataset(layout, "block_hashes", H5T_STD_U8LE, 2,
                             (int64_t[]){manifest->blocks, sizeof(Hash)}, &header->hashes_offset);
    H5Tclose(record);
    return ok;
}

// The whole file in HDF5's hands: created, laid out and closed. Removes the name `path`.
static bool layout_file(const char *path, Manifest *manifest, FileHeader *header, Error *err) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); // we report, HDF5 does not print
    H5PLset_loading_state(0);              // never runs code found through HDF5_PLUGIN_PATH
    bool ok = false;
    Error ignored;
    const char *failed = "its properties";
    Layout layout = {H5I_INVALID_HID, H5Pcreate(H5P_LINK_CREATE), H5Pcreate(H5P_DATASET_CREATE)};
    hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
    // One format whatever the library's default, and no times of creation: equal contents, equal
    // bytes.
    bool described = H5Pset_userblock(creation, HEADER_BYTES) >= 0 &&
                     H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0 &&
                     H5Pset_create_intermediate_group(layout.links, 1) >= 0 &&
                     H5Pset_layout(layout.storage, H5D_CONTIGUOUS) >= 0 &&
                     H5Pset_alloc_time(layout.storage, H5D_ALLOC_TIME_EARLY) >= 0 &&
                     H5Pset_fill_time(layout.storage, H5D_FILL_TIME_NEVER) >= 0 &&
                     H5Pset_obj_track_times(layout.storage, false) >= 0;
    if (described) layout.file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    file_remove(path,
                &ignored); // we and HDF5 have it open; nothing stays behind, however this ends
    if (!described) goto cleanup;
    failed = "the file";
    if (layout.file < 0) goto cleanup;
    failed = "manifest or block_hashes";
    if (header && !layout_index(&layout, manifest, header)) goto cleanup;
    for (int64_t i = 0; i < manifest->count; i++) {
        Dataset *dataset = &manifest->datasets[i];
        failed = dataset->name;
        if (!layout_dataset(&layout, dataset->name, hdf5_type(dataset->dtype), dataset->rank,
                            dataset->shape, &dataset->offset))
            goto cleanup;
    }
    ok = true;
cleanup:
    if (layout.file >= 0 && H5Fclose(layout.file) < 0 && ok) {
        failed = "the end of the file";
        ok = false;
    }
    if (access >= 0) H5Pclose(access);
    if (creation >= 0) H5Pclose(creation);
    if (layout.storage >= 0) H5Pclose(layout.storage);
    if (layout.links >= 0) H5Pclose(layout.links);
    return ok || error_set(err, EXIT_IO, "HDF5 cannot lay out %s", failed);
}

// Copies what lies outside header and datasets.
static bool copy_structure(int to, int from, const Manifest *manifest, int64_t file_bytes,
                           Error *err) {
    char chunk[16384];
    for (int64_t i = 0; i <= manifest->in_file_count; i++) {
        Span gap = manifest_gap(manifest, i, file_bytes);
        for (int64_t done = 0; done < gap.bytes;) {
            int64_t rest = gap.bytes - done, at = gap.begin + done;
            size_t bytes = rest < (int64_t)sizeof chunk ? (size_t)rest : sizeof chunk;
            if (!file_read_at(from, chunk, bytes, at, err)) return false;
            if (!file_write_at(to, chunk, bytes, at, err)) return false;
            done += (int64_t)bytes;
        }
    }
    return true;
}

// An empty file in memory, whose holes take no room. path_bytes of `path` receive its name.
static int memory_file_open(char *path, size_t path_bytes) {
    static const char *const places[] = {"/dev/shm", "/tmp"}; // the second on systems without it
    int fd = -1;
    for (size_t i = 0; fd < 0 && i < sizeof places / sizeof *places; i++) {
        snprintf(path, path_bytes, "%s/moetrain-layout-XXXXXX", places[i]);
        fd = mkostemp(path, O_CLOEXEC);
    }
    return fd;
}

bool tensor_file_create(const char *path, Manifest *manifest, FileHeader *header, Error *err) {
    char memory_path[64];
    struct stat info;
    bool ok = false;
    int file = -1, memory = memory_file_open(memory_path, sizeof memory_path);
    if (memory < 0) {
        error_set(err, EXIT_IO, "cannot create %s: %s", memory_path, strerror(errno));
        goto cleanup;
    }
    if (!layout_file(memory_path, manifest, header, err)) goto cleanup;
    file = file_open(path, O_RDWR | O_CREAT, err);
    if (file < 0) goto cleanup;
    if (fstat(memory, &info) != 0) {
        error_set(err, EXIT_IO, "cannot look at %s: %s", memory_path, strerror(errno));
        goto cleanup;
    }
    if (header) header->file_bytes = info.st_size;
    ok = (file_set_length(file, info.st_size, err) &&
          manifest_check_places(manifest, info.st_size, err) &&
          copy_structure(file, memory, manifest, info.st_size, err)) ||
         error_prefix(err, "%s", path);
cleanup:
    if (file >= 0) close(file);
    if (memory >= 0) close(memory);
    return ok;
}
