// Golden values for C tests: datasets of fixtures/NAME.h5, written by the make_*.py beside it.
// Whatever is missing or wrong fails the running test. Names are printf-formatted paths:
// fixture_tensor(f, F32, "%s/qkv", name).
#ifndef MOETRAIN_TESTS_REFERENCE_FIXTURE_H
#define MOETRAIN_TESTS_REFERENCE_FIXTURE_H

#include "kernels/tensor.h"

typedef struct Fixture Fixture;

Fixture *fixture_open(const char *name); // "attention" for fixtures/attention.h5
void fixture_close(Fixture *f);          // frees every tensor it gave

// A dataset, converted to dtype by HDF5.
Tensor fixture_tensor(Fixture *f, DType dtype, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
// Zeroed memory for a result, freed with the fixture.
Tensor fixture_result_1d(Fixture *f, DType dtype, int64_t n0);
Tensor fixture_result_2d(Fixture *f, DType dtype, int64_t n0, int64_t n1);

// A text, which is a dataset of bytes.
char *fixture_text(Fixture *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
// Single numbers.
int64_t fixture_int(Fixture *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
double fixture_double(Fixture *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Fails unless every element of got (f32 or f64) is within tolerance times the largest magnitude of
// `wanted`, the f64 dataset of that name.
void fixture_assert_close(Fixture *f, Tensor got, double tolerance, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// The same with a wanted tensor (f64) instead of a dataset, which may be a piece of one.
void fixture_assert_near(Tensor got, Tensor wanted, double tolerance, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
// Fails unless got (i32 or u8) equals the dataset.
void fixture_assert_equal(Fixture *f, Tensor got, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
