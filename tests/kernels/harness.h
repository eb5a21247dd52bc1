// What the check programs share: random tensors, comparison with the reference, the thread test,
// timing. A failed comparison prints the case and the worst element; main() returns failures().
#ifndef MOETRAIN_TESTS_KERNELS_HARNESS_H
#define MOETRAIN_TESTS_KERNELS_HARNESS_H

#include "kernels/kernels.h"

#define F32_EPS  0x1p-24 // largest relative error of one rounding
#define BF16_EPS 0x1p-8  // likewise
// The rounding of a stored result: nothing beyond the arithmetic's own for f32.
static inline double storage_eps(DType T) {
    return T == BF16 ? BF16_EPS : 0.0;
}

// Names the case that the next comparisons belong to, printf-style.
void begin_case(const char *format, ...) __attribute__((format(printf, 1, 2)));
// Counts a failure of the current case when the condition does not hold.
void expect(bool condition, const char *format, ...) __attribute__((format(printf, 2, 3)));
int failures(void); // 0 or 1, for main()

// Memory that lives until release_all(); contents: NaN for floats, 0xAA elsewhere, so that a
// forgotten element shows.
Tensor new_1d(DType dtype, int64_t n0);
Tensor new_2d(DType dtype, int64_t n0, int64_t n1);
Tensor new_3d(DType dtype, int64_t n0, int64_t n1, int64_t n2);
double *new_doubles(int64_t n);
void release_all(void);

// Uniform in [-1, 1); each call draws new numbers, the same in every run of the program.
Tensor random_2d(int64_t n0, int64_t n1);
Tensor random_1d(int64_t n0);
Tensor random_3d(int64_t n0, int64_t n1, int64_t n2);
int64_t random_below(int64_t bound);
Tensor copy_of(Tensor x);
// x as the storage type T: x itself for F32; for BF16 a new tensor, and x is rounded in place, so
// that a reference that reads x sees the same numbers.
Tensor stored_as(DType T, Tensor x);
Tensor widened(Tensor x); // an f32 copy of an f32 or bf16 tensor

// The devices on which every op is checked: the CPU, then a GPU, or its emulation, where the build
// and the machine have one.
int device_count(void);
// Where the GPU is emulated it is 1: of an op that takes long there, the CPU's part has its test in
// the preset sanitize.
int first_device(void);
Device *device_at(int i);
// Runs an op with the case's tensors on the device: each is copied there and the struct that `run`
// reads is given the copy; afterwards the bytes are copied back into the host tensors. On the CPU
// it just runs. Tensors without data stay so.
void run_on(Device *dev, void (*run)(Device *dev, void *context), void *context,
            Tensor *const *tensors, int count);
// The list of the case's tensors: run_on(dev, run, &c, TENSORS(&c.x, &c.out)).
#define TENSORS(...)                                                                               \
    (Tensor *const[]){__VA_ARGS__}, (int)(sizeof((Tensor *const[]){__VA_ARGS__}) / sizeof(Tensor *))

// got may be f32, f64 or bf16. |got - want| <= relative · |want| + error_unit[i] · factor, or
// absolute error `factor` alone when error_unit is NULL.
void expect_near(const char *name, Tensor got, const double *want, double relative,
                 const double *error_unit, double factor);
void expect_same_bytes(const char *name, Tensor got, const void *want);

// Runs an op with 1, 2 and 3 threads and expects the same bytes in all outputs: not where the GPU
// is emulated, as above.
void expect_same_for_any_threads(void (*run)(Device *dev, void *context), void *context,
                                 const Tensor *outputs, int count);
// What runs between the two meets another order of blocks, warps and streams where the GPU is
// emulated (tests/emulation): no result may change. On a real GPU it is another run.
void begin_other_schedule(void);
void end_other_schedule(void);
// A device of `threads` threads; fatal if it cannot be opened.
Device open_cpu(int threads);

// Seconds of one call: the tenth percentile of about 0.2 s of calls, because other work shares the
// machine.
double time_call(void (*run)(Device *dev, void *context), Device *dev, void *context);
bool wants_bench(int argc, char **argv); // --bench

#endif
