#include "checkpoint/routing_hdf5.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hdf5.h>

enum { AXES = 4 }; // step, micro-batch, token, slot

struct RoutingHdf5 {
    char *path;
    RoutingShape shape;
    hid_t file, steps; // the dataset of their numbers
    hid_t *layers;     // (shape.layers) datasets; invalid for layers without experts
    int64_t first;     // number of its first step; 0: it has none
    int64_t count;     // of its steps
};

static void quiet(void) {
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); // we report, HDF5 does not print
    H5PLset_loading_state(0);              // never runs code found through HDF5_PLUGIN_PATH
}

static RoutingHdf5 *new_file(const char *path, RoutingShape shape) {
    RoutingHdf5 *file = calloc(1, sizeof *file);
    CHECK_MEMORY(file, "no memory for a file of routing");
    *file = (RoutingHdf5){.path = strdup(path), .shape = shape};
    file->file = file->steps = H5I_INVALID_HID;
    file->layers = malloc((size_t)shape.layers * sizeof *file->layers);
    CHECK_MEMORY(file->path && file->layers, "no memory for a file of routing");
    for (int64_t l = 0; l < shape.layers; l++) file->layers[l] = H5I_INVALID_HID;
    return file;
}

void routing_hdf5_close(RoutingHdf5 *file) {
    if (!file) return;
    for (int64_t l = 0; l < file->shape.layers; l++)
        if (file->layers[l] >= 0) H5Dclose(file->layers[l]);
    if (file->steps >= 0) H5Dclose(file->steps);
    if (file->file >= 0) H5Fclose(file->file);
    free(file->layers);
    free(file->path);
    free(file);
}

static bool has_experts(const RoutingHdf5 *file, int64_t layer) {
    return file->shape.of[layer].experts > 0;
}

static void layer_name(char name[32], int64_t layer) {
    snprintf(name, 32, "layers/%" PRId64, layer);
}

// ---- a new file ---------------------------------------------------------------------------------

// A dataset that grows by whole chunks along its first axis.
static hid_t create_dataset(const RoutingHdf5 *file, const char *name, hid_t type, int axes,
                            const hsize_t *chunk, bool compressed) {
    hsize_t shape[AXES], most[AXES];
    for (int a = 0; a < axes; a++) shape[a] = a == 0 ? 0 : chunk[a];
    for (int a = 0; a < axes; a++) most[a] = a == 0 ? H5S_UNLIMITED : chunk[a];
    hid_t links = H5Pcreate(H5P_LINK_CREATE), storage = H5Pcreate(H5P_DATASET_CREATE);
    hid_t space = H5Screate_simple(axes, shape, most), dataset = H5I_INVALID_HID;
    bool described =
        H5Pset_create_intermediate_group(links, 1) >= 0 && H5Pset_chunk(storage, axes, chunk) >= 0;
    if (compressed && H5Zfilter_avail(H5Z_FILTER_DEFLATE) > 0) // the high bytes are mostly zeros
        described = described && H5Pset_shuffle(storage) >= 0 && H5Pset_deflate(storage, 1) >= 0;
    if (described && space >= 0)
        dataset = H5Dcreate2(file->file, name, type, space, links, storage, H5P_DEFAULT);
    if (space >= 0) H5Sclose(space);
    H5Pclose(storage);
    H5Pclose(links);
    return dataset;
}

static bool write_attribute(hid_t object, const char *name, hid_t type, const void *value) {
    hid_t space = H5Screate(H5S_SCALAR), attribute = H5I_INVALID_HID;
    if (space >= 0) attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    bool ok = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool write_run(const RoutingHdf5 *file, const char *run) {
    hid_t type = H5Tcopy(H5T_C_S1);
    bool ok = type >= 0 && H5Tset_size(type, strlen(run) + 1) >= 0 &&
              write_attribute(file->file, "run", type, run);
    if (type >= 0) H5Tclose(type);
    return ok;
}

static bool create(RoutingHdf5 *file, const char *run, Error *err) {
    const RoutingShape *shape = &file->shape;
    file->file = H5Fcreate(file->path, H5F_ACC_EXCL, H5P_DEFAULT, H5P_DEFAULT);
    if (file->file < 0) return error_set(err, EXIT_IO, "cannot be created: %s", strerror(errno));
    file->steps = create_dataset(file, "step", H5T_STD_I64LE, 1, (hsize_t[]){1024}, false);
    bool ok = file->steps >= 0 && write_run(file, run);
    for (int64_t l = 0; ok && l < shape->layers; l++) {
        if (!has_experts(file, l)) continue;
        char name[32];
        layer_name(name, l);
        hsize_t chunk[AXES] = {1, (hsize_t)shape->micro_batches, (hsize_t)shape->tokens,
                               (hsize_t)shape->of[l].top_k};
        file->layers[l] = create_dataset(file, name, H5T_STD_U16LE, AXES, chunk, true);
        ok = file->layers[l] >= 0 &&
             write_attribute(file->layers[l], "experts", H5T_NATIVE_INT64, &shape->of[l].experts);
    }
    return ok || error_set(err, EXIT_IO, "HDF5 cannot lay it out");
}

// ---- a file that is there -----------------------------------------------------------------------

// False when there is none of that rank.
static bool shape_of(hid_t dataset, int axes, hsize_t *shape) {
    hid_t space = H5Dget_space(dataset);
    bool ok = space >= 0 && H5Sget_simple_extent_ndims(space) == axes &&
              H5Sget_simple_extent_dims(space, shape, NULL) >= 0;
    if (space >= 0) H5Sclose(space);
    return ok;
}

// Whether an attribute is one value, so that reading it fills no more than that.
static bool is_one(hid_t attribute) {
    hid_t space = H5Aget_space(attribute);
    bool ok = space >= 0 && H5Sget_simple_extent_npoints(space) == 1;
    if (space >= 0) H5Sclose(space);
    return ok;
}

static bool is_integer(hid_t type) {
    bool ok = type >= 0 && H5Tget_class(type) == H5T_INTEGER && H5Tget_size(type) <= 8;
    if (type >= 0) H5Tclose(type);
    return ok;
}

static int64_t experts_of(hid_t dataset) {
    int64_t experts = -1;
    hid_t attribute = H5Aopen(dataset, "experts", H5P_DEFAULT);
    if (attribute < 0) return experts;
    if (!is_one(attribute) || !is_integer(H5Aget_type(attribute)) ||
        H5Aread(attribute, H5T_NATIVE_INT64, &experts) < 0)
        experts = -1;
    H5Aclose(attribute);
    return experts;
}

// Whether the bytes of a dataset lie in this file, and what they pass through is what we write:
// no external files, no virtual datasets, no filters of others.
static bool has_plain_storage(hid_t dataset) {
    hid_t storage = H5Dget_create_plist(dataset);
    if (storage < 0) return false;
    H5D_layout_t layout = H5Pget_layout(storage);
    bool ok =
        (layout == H5D_CHUNKED || layout == H5D_CONTIGUOUS) && H5Pget_external_count(storage) == 0;
    int filters = H5Pget_nfilters(storage);
    for (int i = 0; ok && i < filters; i++) {
        unsigned flags, config;
        size_t values = 0;
        H5Z_filter_t filter =
            H5Pget_filter2(storage, (unsigned)i, &flags, &values, NULL, 0, NULL, &config);
        ok = filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_SHUFFLE;
    }
    H5Pclose(storage);
    return ok && filters >= 0;
}

// A name that leads to something in this file, not through a link to another.
static bool is_hard_link(hid_t file, const char *name) {
    H5L_info_t info;
    return H5Lget_info(file, name, &info, H5P_DEFAULT) >= 0 && info.type == H5L_TYPE_HARD;
}

// Opens a dataset of whole numbers as we make them; invalid for any other.
static hid_t open_table(hid_t file, const char *name) {
    if (!is_hard_link(file, name)) return H5I_INVALID_HID;
    hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    if (dataset < 0 || (is_integer(H5Dget_type(dataset)) && has_plain_storage(dataset)))
        return dataset;
    H5Dclose(dataset);
    return H5I_INVALID_HID;
}

static bool open_layer(RoutingHdf5 *file, int64_t layer, Error *err) {
    const RoutingShape *shape = &file->shape;
    const RoutingLayer *of = &shape->of[layer];
    char name[32];
    layer_name(name, layer);
    bool there = H5Lexists(file->file, "layers", H5P_DEFAULT) > 0 &&
                 H5Lexists(file->file, name, H5P_DEFAULT) > 0;
    if (there != has_experts(file, layer))
        return error_set(err, EXIT_CHECKPOINT,
                         "layer %" PRId64 " has %s experts here and %s in the file; take a file of "
                         "the same layers",
                         layer, there ? "no" : "some", there ? "some" : "none");
    if (!there) return true;
    hsize_t found[AXES];
    if (is_hard_link(file->file, "layers")) file->layers[layer] = open_table(file->file, name);
    if (file->layers[layer] < 0 || !shape_of(file->layers[layer], AXES, found))
        return error_set(err, EXIT_CHECKPOINT, "%s is no table of step, micro-batch, token, slot",
                         name);
    int64_t experts = experts_of(file->layers[layer]), tokens;
    if (__builtin_mul_overflow(found[1], found[2], &tokens)) tokens = -1;
    if (experts != of->experts || (int64_t)found[3] != of->top_k ||
        tokens != shape->micro_batches * shape->tokens)
        return error_set(err, EXIT_CHECKPOINT,
                         "layer %" PRId64 " has %" PRId64 " experts, %" PRId64
                         " choices of each of %" PRId64 " tokens a step here, and %" PRId64
                         ", %" PRId64 " and %" PRId64
                         " in the file; take a file of the same moe.experts, moe.zero_experts, "
                         "moe.top_k, train.batch and train.context",
                         layer, of->experts, of->top_k, shape->micro_batches * shape->tokens,
                         experts, (int64_t)found[3], tokens);
    if ((int64_t)found[0] < file->count) file->count = (int64_t)found[0]; // the writer was killed
    return true;
}

// Whether chunks are no larger than the dataset can become, as they are made. axes of them.
static bool chunks_fit(hid_t dataset, int axes, const hsize_t *chunk) {
    hsize_t shape[AXES], most[AXES];
    hid_t space = H5Dget_space(dataset);
    bool ok = space >= 0 && H5Sget_simple_extent_dims(space, shape, most) == axes;
    for (int a = 0; ok && a < axes; a++) ok = most[a] == H5S_UNLIMITED || chunk[a] <= most[a];
    if (space >= 0) H5Sclose(space);
    return ok;
}

// Whether the chunk at the beginning of a row has as many bytes as its shape says, where no filter
// stands between: HDF5 reads behind the end of a shorter one.
static bool has_whole_chunk(hid_t dataset, int axes, int64_t row) {
    hsize_t chunk[AXES], start[AXES] = {(hsize_t)row}, stored = 0;
    haddr_t address = HADDR_UNDEF;
    unsigned skipped = 0;
    hid_t storage = H5Dget_create_plist(dataset), type = H5Dget_type(dataset);
    bool ok = storage >= 0 && type >= 0;
    if (ok && H5Pget_layout(storage) == H5D_CHUNKED) {
        ok = H5Pget_chunk(storage, axes, chunk) == axes && chunks_fit(dataset, axes, chunk) &&
             H5Dget_chunk_info_by_coord(dataset, start, &skipped, &address, &stored) >= 0;
        hsize_t whole = H5Tget_size(type);
        for (int a = 0; ok && a < axes; a++) ok = !__builtin_mul_overflow(whole, chunk[a], &whole);
        ok = ok && (address == HADDR_UNDEF || stored == whole || H5Pget_nfilters(storage) > 0);
    }
    if (type >= 0) H5Tclose(type);
    if (storage >= 0) H5Pclose(storage);
    return ok;
}

// Some of the numbers of steps; false when they cannot be read.
static bool read_numbers(const RoutingHdf5 *file, int64_t from, int64_t count, int64_t *numbers) {
    hsize_t many = (hsize_t)count, start = (hsize_t)from;
    hid_t memory = H5Screate_simple(1, &many, NULL), place = H5Dget_space(file->steps);
    bool ok = memory >= 0 && place >= 0 && has_whole_chunk(file->steps, 1, from) &&
              H5Sselect_hyperslab(place, H5S_SELECT_SET, &start, NULL, &many, NULL) >= 0 &&
              H5Dread(file->steps, H5T_NATIVE_INT64, memory, place, H5P_DEFAULT, numbers) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (place >= 0) H5Sclose(place);
    return ok;
}

// Its steps are numbers one after another. They are read piece by piece: what a file has not, but
// says that it has, does not follow and ends this.
static bool open_steps(RoutingHdf5 *file, Error *err) {
    hsize_t count;
    file->steps = open_table(file->file, "step");
    if (file->steps < 0 || !shape_of(file->steps, 1, &count) || count > INT64_MAX)
        return error_set(err, EXIT_CHECKPOINT, "it is no file that moe.record has written");
    file->count = (int64_t)count;
    int64_t numbers[4096], most = sizeof numbers / sizeof *numbers, first = 0;
    for (int64_t from = 0; from < file->count; from += most) {
        int64_t some = file->count - from < most ? file->count - from : most;
        bool ok = read_numbers(file, from, some, numbers);
        if (from == 0 && ok) first = numbers[0];
        ok = ok && first >= 0 && first <= INT64_MAX - file->count;
        for (int64_t i = 0; ok && i < some; i++) ok = numbers[i] == first + from + i;
        if (!ok)
            return error_set(err, EXIT_CHECKPOINT,
                             "its steps do not follow one another; record it again (moe.record)");
    }
    file->first = first;
    return true;
}

static bool open_existing(RoutingHdf5 *file, unsigned access, Error *err) {
    file->file = H5Fopen(file->path, access, H5P_DEFAULT);
    if (file->file < 0)
        return error_set(err, EXIT_CHECKPOINT, "%s",
                         H5Fis_hdf5(file->path) > 0 ? "HDF5 cannot open it" : "it is no HDF5 file");
    if (!open_steps(file, err)) return false;
    for (int64_t l = 0; l < file->shape.layers; l++)
        if (!open_layer(file, l, err)) return false;
    return true;
}

// Whether the run in the folder `run` wrote it.
static bool is_of_run(const RoutingHdf5 *file, const char *run) {
    char written[4096] = "";
    hid_t attribute = H5Aopen(file->file, "run", H5P_DEFAULT), type = H5I_INVALID_HID;
    if (attribute >= 0) type = H5Aget_type(attribute);
    bool ok = type >= 0 && is_one(attribute) && H5Tget_class(type) == H5T_STRING &&
              !H5Tis_variable_str(type) && H5Tget_size(type) < sizeof written &&
              H5Aread(attribute, type, written) >= 0;
    if (type >= 0) H5Tclose(type);
    if (attribute >= 0) H5Aclose(attribute);
    return ok && strcmp(written, run) == 0;
}

// ---- opening ------------------------------------------------------------------------------------

static bool set_count(RoutingHdf5 *file, int64_t count) {
    bool ok = H5Dset_extent(file->steps, (hsize_t[]){(hsize_t)count}) >= 0;
    for (int64_t l = 0; ok && l < file->shape.layers; l++) {
        hsize_t shape[AXES];
        if (!has_experts(file, l)) continue;
        ok = shape_of(file->layers[l], AXES, shape);
        shape[0] = (hsize_t)count;
        ok = ok && H5Dset_extent(file->layers[l], shape) >= 0;
    }
    file->count = count;
    return ok;
}

// Goes on behind step `after`.
static bool go_on(RoutingHdf5 *file, const char *run, int64_t after, Error *err) {
    if (!open_existing(file, H5F_ACC_RDWR, err)) return false;
    if (!is_of_run(file, run))
        return error_set(err, EXIT_CHECKPOINT,
                         "it is there already and of another run; remove it or name another file");
    if (file->count == 0) file->first = after + 1;
    if (file->first > after + 1) file->count = 0, file->first = after + 1; // all is done anew
    if (file->first + file->count <= after)
        return error_set(err, EXIT_CHECKPOINT,
                         "it ends at step %" PRId64 " and the run goes on after step %" PRId64
                         "; name another file",
                         file->first + file->count - 1, after);
    return set_count(file, after + 1 - file->first) ||
           error_set(err, EXIT_IO, "HDF5 cannot shorten it");
}

static bool opened(RoutingHdf5 **file, RoutingHdf5 *made, bool ok) {
    if (!ok)
        routing_hdf5_close(made);
    else
        *file = made;
    return ok;
}

bool routing_hdf5_record(RoutingHdf5 **file, const char *path, const char *run, RoutingShape shape,
                         int64_t after, Error *err) {
    quiet();
    RoutingHdf5 *made = new_file(path, shape);
    bool there = access(path, F_OK) == 0;
    made->first = after + 1;
    return opened(file, made, there ? go_on(made, run, after, err) : create(made, run, err));
}

bool routing_hdf5_replay(RoutingHdf5 **file, const char *path, RoutingShape shape, int64_t after,
                         int64_t last, Error *err) {
    quiet();
    RoutingHdf5 *made = new_file(path, shape);
    if (access(path, R_OK) != 0)
        return opened(file, made,
                      error_set(err, errno == ENOENT ? EXIT_CHECKPOINT : EXIT_IO,
                                "cannot be read: %s", strerror(errno)));
    bool ok = open_existing(made, H5F_ACC_RDONLY, err);
    int64_t end = made->first + made->count; // of a file that cannot be read: of no step
    if (ok && last > after && (made->count == 0 || made->first > after + 1 || end <= last))
        ok =
            error_set(err, EXIT_CHECKPOINT,
                      "it has %" PRId64 " steps from step %" PRId64 " on and the run wants %" PRId64
                      " to %" PRId64 "; record more, or set train.steps to at most what is there",
                      made->count, made->first, after + 1, last);
    return opened(file, made, ok);
}

// ---- steps --------------------------------------------------------------------------------------

// The place of a step in memory and in the file.
static bool select_step(const RoutingHdf5 *file, int64_t layer, int64_t row, hid_t *memory,
                        hid_t *place) {
    hsize_t shape[AXES], start[AXES] = {(hsize_t)row};
    *memory = *place = H5I_INVALID_HID;
    if (!shape_of(file->layers[layer], AXES, shape)) return false;
    shape[0] = 1;
    *memory = H5Screate_simple(AXES, shape, NULL);
    *place = H5Dget_space(file->layers[layer]);
    return *memory >= 0 && *place >= 0 &&
           H5Sselect_hyperslab(*place, H5S_SELECT_SET, start, NULL, shape, NULL) >= 0;
}

static bool transfer(const RoutingHdf5 *file, int64_t layer, int64_t row, int32_t *ids,
                     bool write) {
    hid_t memory, place, type = H5T_NATIVE_INT32, dataset = file->layers[layer];
    bool ok = select_step(file, layer, row, &memory, &place);
    if (ok && write)
        ok = H5Dwrite(dataset, type, memory, place, H5P_DEFAULT, ids) >= 0;
    else if (ok)
        ok = has_whole_chunk(dataset, AXES, row) &&
             H5Dread(dataset, type, memory, place, H5P_DEFAULT, ids) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (place >= 0) H5Sclose(place);
    return ok;
}

static bool write_number(const RoutingHdf5 *file, int64_t row, int64_t step) {
    hsize_t one = 1, start = (hsize_t)row;
    hid_t memory = H5Screate_simple(1, &one, NULL), place = H5Dget_space(file->steps);
    bool ok = memory >= 0 && place >= 0 &&
              H5Sselect_hyperslab(place, H5S_SELECT_SET, &start, NULL, &one, NULL) >= 0 &&
              H5Dwrite(file->steps, H5T_NATIVE_INT64, memory, place, H5P_DEFAULT, &step) >= 0;
    if (memory >= 0) H5Sclose(memory);
    if (place >= 0) H5Sclose(place);
    return ok;
}

static bool written(int64_t step, bool ok, Error *err) {
    return ok ||
           error_set(err, EXIT_IO, "step %" PRId64 " cannot be written: %s", step, strerror(errno));
}

bool routing_hdf5_begin_step(RoutingHdf5 *file, int64_t step, Error *err) {
    int64_t row = step - file->first;
    CHECK(row == file->count, "step %lld after %lld steps from %lld on", (long long)step,
          (long long)file->count, (long long)file->first);
    return written(step, set_count(file, row + 1), err);
}

bool routing_hdf5_write(RoutingHdf5 *file, int64_t step, int64_t layer, int32_t *ids, Error *err) {
    return written(step, transfer(file, layer, step - file->first, ids, true), err);
}

bool routing_hdf5_end_step(RoutingHdf5 *file, int64_t step, Error *err) {
    bool ok =
        write_number(file, step - file->first, step) && H5Fflush(file->file, H5F_SCOPE_GLOBAL) >= 0;
    return written(step, ok, err);
}

bool routing_hdf5_read(RoutingHdf5 *file, int64_t step, int64_t layer, int32_t *ids, Error *err) {
    return transfer(file, layer, step - file->first, ids, false) ||
           error_set(err, EXIT_CHECKPOINT,
                     "layer %" PRId64 " of step %" PRId64 " cannot be read: it is damaged, or its "
                     "chunks are far larger than a step; record it again",
                     layer, step);
}
