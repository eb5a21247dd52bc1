// The table is complete, the device opens as documented, and it passes its own test.
#include "harness.h"

#include <stddef.h>
#include <string.h>

#include "kernels/arena.h"
#include "kernels/backend.h"
#include "kernels/self_test.h"

static const char *slot_name(size_t at) {
#define OP(name, ...)                                                                              \
    if (at == offsetof(Backend, op.name)) return #name;
    OPS(OP)
#undef OP
    return "one of memory and opening";
}

static void check_table(const Backend *table) {
    begin_case("table of the backend %s", table->name);
    // Every slot from the first function on is one pointer wide: an array of pointers to compare
    // with NULL.
    for (size_t at = offsetof(Backend, available); at < sizeof *table; at += sizeof(void *)) {
        void *slot;
        memcpy(&slot, (const char *)table + at, sizeof slot);
        expect(slot != NULL, "slot %zu is empty: %s", at / sizeof slot, slot_name(at));
    }
}

static void check_open(const char *kind, int threads, bool ok, int exit_code) {
    begin_case("device_open %s %d", kind, threads);
    Device dev;
    Error err = {0};
    expect(device_open(&dev, kind, threads, 0, 1, &err) == ok, "opened or not: %s", err.message);
    expect(err.exit_code == exit_code, "exit code %d", err.exit_code);
    if (!ok) return;
    expect(dev.threads >= 1 && (threads == 0 || dev.threads == threads), "%d threads", dev.threads);
    const char *library = dev.place == ON_HOST ? "oneDNN" : "cuBLAS";
    expect(strstr(dev.description, library) != NULL, "description '%s'", dev.description);
    expect(device_self_test(&dev, &err), "%s", err.message);
    device_close(&dev);
}

// Bytes go to the device and come back; memory is zeroed.
static void check_memory(Device *dev) {
    begin_case("memory of the device %s", dev->name);
    Arena arena, host;
    arena_measure(&arena, "test", dev);
    arena_measure(&host, "test", NULL);
    Tensor x = {0}, mirror = {0};
    for (int placing = 0; placing < 2; placing++) {
        x = arena_1d(&arena, I64, 1000);
        mirror = arena_mirror(&host, x);
        if (placing) break;
        arena_allocate(&arena);
        arena_allocate(&host);
    }
    device_download(dev, mirror, x);
    for (int64_t i = 0; i < 1000; i++) expect(tensor_i64(mirror)[i] == 0, "not zero");
    for (int64_t i = 0; i < 1000; i++) tensor_i64(mirror)[i] = i * i;
    device_upload(dev, x, mirror);
    if (dev->place == ON_DEVICE) memset(mirror.data, 0, tensor_bytes(mirror));
    device_download(dev, mirror, x);
    for (int64_t i = 0; i < 1000; i++)
        expect(tensor_i64(mirror)[i] == i * i, "element %lld", (long long)i);
    arena_free(&arena);
    arena_free(&host);
}

int main(void) {
    bool gpu = device_count() > 1;
    for (int i = 0; i < device_count(); i++) {
        check_table(device_at(i)->backend);
        check_memory(device_at(i));
        expect(device_measure_gemm_gflops(device_at(i), F32) > 0, "no GEMM rate");
        expect(device_measure_gemm_gflops(device_at(i), BF16) > 0, "no GEMM rate in bf16");
        expect(device_measure_layer_gflops(device_at(i), F32) > 0, "no rate of a layer");
    }
    check_open("cpu", 0, true, 0);
    check_open("auto", 2, true, 0);
    check_open("cpu", -1, false, EXIT_CONFIG);
    check_open("cuda", 0, gpu, gpu ? 0 : EXIT_COMMUNICATION);
    check_open("tpu", 0, false, EXIT_CONFIG);
    return failures();
}
