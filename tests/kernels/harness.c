#include "harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/clock.h"

static char current_case[256] = "";
static int failed = 0;
static void *blocks[1 << 12];
static int block_count = 0;
static uint64_t drawn = 0;

void begin_case(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(current_case, sizeof current_case, format, args);
    va_end(args);
}

void expect(bool condition, const char *format, ...) {
    if (condition) return;
    va_list args;
    va_start(args, format);
    fprintf(stderr, "FAILED %s: ", current_case);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    failed++;
}

int failures(void) {
    if (failed) fprintf(stderr, "%d comparisons failed\n", failed);
    return failed ? 1 : 0;
}

static void *new_block(size_t bytes) {
    CHECK(block_count < (int)(sizeof blocks / sizeof *blocks), "too many test tensors");
    void *block = aligned_alloc(64, (bytes + 127) / 64 * 64); // never empty
    CHECK(block, "no memory for a test tensor of %zu bytes", bytes);
    return blocks[block_count++] = block;
}

void release_all(void) {
    while (block_count > 0) free(blocks[--block_count]);
}

static Tensor filled(Tensor x) {
    x.data = new_block(tensor_bytes(x));
    memset(x.data, x.dtype == F32 || x.dtype == F64 || x.dtype == BF16 ? 0xFF : 0xAA,
           tensor_bytes(x));
    return x;
}

Tensor new_1d(DType dtype, int64_t n0) {
    return filled(tensor_1d(NULL, dtype, n0));
}
Tensor new_2d(DType dtype, int64_t n0, int64_t n1) {
    return filled(tensor_2d(NULL, dtype, n0, n1));
}
Tensor new_3d(DType dtype, int64_t n0, int64_t n1, int64_t n2) {
    return filled(tensor_3d(NULL, dtype, n0, n1, n2));
}
double *new_doubles(int64_t n) {
    return new_1d(F64, n).data;
}

static const RngStream stream = {.seed = 42, .purpose = RNG_TEST};

static Tensor randomised(Tensor x) {
    for (int64_t i = 0; i < tensor_elements(x); i++)
        tensor_f32(x)[i] = 2.0f * rng_uniform(stream, drawn++) - 1.0f;
    return x;
}

Tensor random_1d(int64_t n0) {
    return randomised(new_1d(F32, n0));
}
Tensor random_2d(int64_t n0, int64_t n1) {
    return randomised(new_2d(F32, n0, n1));
}
Tensor random_3d(int64_t n0, int64_t n1, int64_t n2) {
    return randomised(new_3d(F32, n0, n1, n2));
}
int64_t random_below(int64_t bound) {
    return (int64_t)rng_u32(stream, drawn++) % bound;
}

Tensor copy_of(Tensor x) {
    Tensor y = filled(x);
    memcpy(y.data, x.data, tensor_bytes(x));
    return y;
}

static float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

// To nearest, ties to even: the candidate above or below whose distance is smaller, in double.
static uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint16_t low = (uint16_t)(bits >> 16), high = (uint16_t)(low + 1);
    double below = fabs((double)x - (double)from_bf16(low));
    double above = fabs((double)from_bf16(high) - (double)x);
    return below < above || (below == above && low % 2 == 0) ? low : high;
}

Tensor widened(Tensor x) {
    if (x.dtype == F32) return copy_of(x);
    Tensor wide = x;
    wide.dtype = F32;
    wide = filled(wide);
    for (int64_t i = 0; i < tensor_elements(x); i++)
        tensor_f32(wide)[i] = from_bf16(tensor_bf16(x)[i]);
    return wide;
}

Tensor stored_as(DType T, Tensor x) {
    if (T == F32) return x;
    Tensor narrow = x;
    narrow.dtype = BF16;
    narrow = filled(narrow);
    for (int64_t i = 0; i < tensor_elements(x); i++) {
        tensor_bf16(narrow)[i] = to_bf16(tensor_f32(x)[i]);
        tensor_f32(x)[i] = from_bf16(tensor_bf16(narrow)[i]);
    }
    return narrow;
}

static double element(Tensor x, int64_t i) {
    if (x.dtype == F64) return tensor_f64(x)[i];
    return (double)(x.dtype == BF16 ? from_bf16(tensor_bf16(x)[i]) : tensor_f32(x)[i]);
}

void expect_near(const char *name, Tensor got, const double *want, double relative,
                 const double *error_unit, double factor) {
    double worst = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < tensor_elements(got); i++) {
        double value = element(got, i);
        double allowed = relative * fabs(want[i]) + (error_unit ? error_unit[i] : 1.0) * factor;
        double excess = fabs(value - want[i]) / (allowed + 1e-300);
        if (!(excess <= 1.0) && !(excess <= worst)) {
            worst = excess;
            at = i;
        }
    }
    if (at < 0) return;
    double value = element(got, at);
    expect(false, "%s[%lld] is %.9g, wanted %.9g (%.3g times the tolerance)", name, (long long)at,
           value, want[at], worst);
}

void expect_same_bytes(const char *name, Tensor got, const void *want) {
    expect(memcmp(got.data, want, tensor_bytes(got)) == 0, "%s differs", name);
}

Device open_cpu(int threads) {
    Device dev;
    Error err = {0};
    CHECK(device_open(&dev, "cpu", threads, 0, 1, &err), "%s", err.message);
    return dev;
}

static Device devices[2];
static int opened = 0;

int device_count(void) {
    if (opened > 0) return opened;
    Error err = {0};
    devices[opened++] = open_cpu(0);
    if (device_open(&devices[opened], "cuda", 0, 0, 1, &err)) {
        devices[opened++].fixed_order = true;
    } else {
        fprintf(stderr, "on the CPU only: %s\n", err.message);
    }
    return opened;
}

int first_device(void) {
    return MOETRAIN_EMULATE;
}

Device *device_at(int i) {
    CHECK(i < device_count(), "device %d of %d", i, opened);
    return &devices[i];
}

void run_on(Device *dev, void (*run)(Device *dev, void *context), void *context,
            Tensor *const *tensors, int count) {
    enum { MOST = 48 };
    Tensor host[MOST];
    CHECK(count <= MOST, "%d tensors of a case", count);
    for (int i = 0; i < count; i++) {
        host[i] = *tensors[i];
        if (!host[i].data || dev->place == ON_HOST) continue;
        Tensor *there = tensors[i];
        there->place = dev->place;
        // Several views of one tensor stay views of one tensor.
        int same = 0;
        while (same < i && host[same].data != host[i].data) same++;
        there->data = same < i ? tensors[same]->data
                               : device_allocate(dev, tensor_bytes(host[i]) + 1, "a test tensor");
        if (same == i) device_upload(dev, *there, host[i]);
    }
    run(dev, context);
    for (int i = 0; i < count; i++) {
        Tensor there = *tensors[i];
        if (!host[i].data || dev->place == ON_HOST) continue;
        int same = 0;
        while (host[same].data != host[i].data) same++;
        if (same == i) device_download(dev, host[i], there);
    }
    for (int i = 0; i < count; i++) {
        if (!host[i].data || dev->place == ON_HOST) continue;
        int same = 0;
        while (host[same].data != host[i].data) same++;
        if (same == i) device_release(dev, tensors[i]->data, tensor_bytes(host[i]) + 1);
    }
    for (int i = 0; i < count; i++) *tensors[i] = host[i];
}

void expect_same_for_any_threads(void (*run)(Device *dev, void *context), void *context,
                                 const Tensor *outputs, int count) {
    void *first[16];
    if (first_device() > 0) return;
    for (int threads = 1; threads <= 3; threads++) {
        Device dev = open_cpu(threads);
        run(&dev, context);
        for (int i = 0; i < count; i++) {
            if (threads == 1) {
                first[i] = copy_of(outputs[i]).data;
            } else {
                expect(memcmp(outputs[i].data, first[i], tensor_bytes(outputs[i])) == 0,
                       "output %d differs between 1 and %d threads", i, threads);
            }
        }
    }
    open_cpu(0);
}

static const char seed_variable[] = "MOETRAIN_EMULATION_SEED"; // read at every launch
static char *seed_before = NULL;

void begin_other_schedule(void) {
    const char *seed = getenv(seed_variable);
    seed_before = seed ? strdup(seed) : NULL;
    setenv(seed_variable, "4711", 1);
}

void end_other_schedule(void) {
    if (seed_before) {
        setenv(seed_variable, seed_before, 1);
    } else {
        unsetenv(seed_variable);
    }
    free(seed_before);
    seed_before = NULL;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double time_call(void (*run)(Device *dev, void *context), Device *dev, void *context) {
    enum { MOST = 10000 };
    static double seconds[MOST];
    for (int i = 0; i < 3; i++) run(dev, context);
    int count = 0;
    for (double start = clock_seconds(); count < MOST && clock_seconds() - start < 0.2; count++) {
        double before = clock_seconds();
        run(dev, context);
        seconds[count] = clock_seconds() - before;
    }
    qsort(seconds, (size_t)count, sizeof *seconds, ascending);
    return seconds[count / 10];
}

bool wants_bench(int argc, char **argv) {
    return argc > 1 && strcmp(argv[1], "--bench") == 0;
}
