#include "fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <hdf5.h>

enum { MAX_TENSORS = 512 };

struct Fixture {
    hid_t file;
    char path[512];
    void *owned[MAX_TENSORS];
    int count;
};

Fixture *fixture_open(const char *name) {
    Fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    snprintf(f->path, sizeof f->path, MOETRAIN_FIXTURES "/%s.h5", name);
    f->file = H5Fopen(f->path, H5F_ACC_RDONLY, H5P_DEFAULT);
    if (f->file < 0) fail_msg("%s cannot be opened", f->path);
    return f;
}

void fixture_close(Fixture *f) {
    for (int i = 0; i < f->count; i++) free(f->owned[i]);
    H5Fclose(f->file);
    free(f);
}

static Tensor allocate(Fixture *f, DType dtype, int rank, const int64_t shape[4]) {
    Tensor x = {.dtype = dtype,
                .place = ON_HOST,
                .rank = rank,
                .shape = {shape[0], shape[1], shape[2], shape[3]}};
    assert_in_range(f->count, 0, MAX_TENSORS - 1);
    // An exact allocation, so that the address sanitizer sees one element too far.
    x.data = f->owned[f->count++] = calloc(1, tensor_bytes(x));
    assert_non_null(x.data);
    return x;
}

Tensor fixture_result_1d(Fixture *f, DType dtype, int64_t n0) {
    return allocate(f, dtype, 1, (int64_t[]){n0, 1, 1, 1});
}

Tensor fixture_result_2d(Fixture *f, DType dtype, int64_t n0, int64_t n1) {
    return allocate(f, dtype, 2, (int64_t[]){n0, n1, 1, 1});
}

static hid_t memory_type(DType dtype) {
    switch (dtype) {
    case F32:
        return H5T_NATIVE_FLOAT;
    case F64:
        return H5T_NATIVE_DOUBLE;
    case I32:
        return H5T_NATIVE_INT32;
    case I64:
        return H5T_NATIVE_INT64;
    case U8:
        return H5T_NATIVE_UINT8;
    case BF16:
    case F16:
    case I8:
        break;
    }
    return H5I_INVALID_HID;
}

static Tensor read_dataset(Fixture *f, DType dtype, const char *name) {
    hid_t dataset = H5Dopen2(f->file, name, H5P_DEFAULT);
    if (dataset < 0) fail_msg("%s has no %s", f->path, name);
    hid_t space = H5Dget_space(dataset);
    hsize_t sizes[H5S_MAX_RANK];
    int rank = H5Sget_simple_extent_dims(space, sizes, NULL);
    if (rank < 0 || rank > 4) fail_msg("%s: %s has %d dimensions", f->path, name, rank);
    int64_t shape[4] = {1, 1, 1, 1};
    for (int i = 0; i < rank; i++) shape[i] = (int64_t)sizes[i];
    Tensor x = allocate(f, dtype, rank > 0 ? rank : 1, shape);
    herr_t status = H5Dread(dataset, memory_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, x.data);
    if (status < 0) fail_msg("%s: %s cannot be read", f->path, name);
    H5Sclose(space);
    H5Dclose(dataset);
    return x;
}

// Formats the name of a dataset from the arguments after `format`.
#define FORMAT_NAME(name, format)                                                                  \
    char name[256];                                                                                \
    va_list name##_args;                                                                           \
    va_start(name##_args, format);                                                                 \
    vsnprintf(name, sizeof name, format, name##_args);                                             \
    va_end(name##_args)

Tensor fixture_tensor(Fixture *f, DType dtype, const char *format, ...) {
    FORMAT_NAME(name, format);
    return read_dataset(f, dtype, name);
}

char *fixture_text(Fixture *f, const char *format, ...) {
    FORMAT_NAME(name, format);
    Tensor bytes = read_dataset(f, U8, name), text = {0};
    text = fixture_result_1d(f, U8, tensor_elements(bytes) + 1);
    return memcpy(text.data, bytes.data, tensor_bytes(bytes));
}

int64_t fixture_int(Fixture *f, const char *format, ...) {
    FORMAT_NAME(name, format);
    return *tensor_i64(read_dataset(f, I64, name));
}

double fixture_double(Fixture *f, const char *format, ...) {
    FORMAT_NAME(name, format);
    return *tensor_f64(read_dataset(f, F64, name));
}

static double element(Tensor x, int64_t i) {
    return x.dtype == F64 ? tensor_f64(x)[i] : (double)tensor_f32(x)[i];
}

static void assert_near(Tensor got, Tensor wanted, double tolerance, const char *name) {
    assert_int_equal(tensor_elements(wanted), tensor_elements(got));
    const double *w = tensor_f64(wanted);
    double largest = 0.0, worst = 0.0;
    int64_t n = tensor_elements(got), where = 0;
    for (int64_t i = 0; i < n; i++) {
        largest = fmax(largest, fabs(w[i]));
        double error = fabs(element(got, i) - w[i]);
        if (error > worst || isnan(error)) {
            worst = error;
            where = i;
        }
        if (isnan(error)) break;
    }
    if (getenv("MOETRAIN_SHOW_ERRORS"))
        print_message("%-50s %.1e of %.1e\n", name, worst / largest, tolerance);
    if (!(worst <= tolerance * largest))
        fail_msg("%s: element %lld is %.9g, wanted %.9g: off by %.2g, allowed %.2g", name,
                 (long long)where, element(got, where), w[where], worst, tolerance * largest);
}

void fixture_assert_near(Tensor got, Tensor wanted, double tolerance, const char *format, ...) {
    FORMAT_NAME(name, format);
    assert_near(got, wanted, tolerance, name);
}

void fixture_assert_close(Fixture *f, Tensor got, double tolerance, const char *format, ...) {
    FORMAT_NAME(name, format);
    assert_near(got, read_dataset(f, F64, name), tolerance, name);
}

void fixture_assert_equal(Fixture *f, Tensor got, const char *format, ...) {
    FORMAT_NAME(name, format);
    Tensor wanted = read_dataset(f, got.dtype, name);
    assert_int_equal(tensor_elements(wanted), tensor_elements(got));
    if (memcmp(wanted.data, got.data, tensor_bytes(got)) != 0) fail_msg("%s differs", name);
}
