// The table is complete, the device opens as documented, and it passes its own test.
#include "harness.h"

#include <string.h>

#include "kernels/backend.h"

static void check_table(void) {
    begin_case("backend table");
    const Backend *table = &cpu_backend;
    // Every slot is one pointer wide: the table is an array of pointers to compare with NULL.
    for (size_t at = 0; at < sizeof *table; at += sizeof(void *)) {
        void *slot;
        memcpy(&slot, (const char *)table + at, sizeof slot);
        expect(slot != NULL, "slot %zu is empty", at / sizeof slot);
    }
}

static void check_open(const char *kind, int threads, bool ok, int exit_code) {
    begin_case("device_open %s %d", kind, threads);
    Device dev;
    Error err = {0};
    expect(device_open(&dev, kind, threads, &err) == ok, "opened or not: %s", err.message);
    expect(err.exit_code == exit_code, "exit code %d", err.exit_code);
    if (!ok) return;
    expect(dev.threads >= 1 && (threads == 0 || dev.threads == threads), "%d threads", dev.threads);
    expect(strstr(dev.description, "oneDNN") != NULL, "description '%s'", dev.description);
    expect(device_self_test(&dev, &err), "%s", err.message);
}

int main(void) {
    check_table();
    check_open("cpu", 0, true, 0);
    check_open("auto", 2, true, 0);
    check_open("cpu", -1, false, EXIT_CONFIG);
    check_open("cuda", 0, false, EXIT_COMMUNICATION);
    check_open("tpu", 0, false, EXIT_CONFIG);
    Device dev = open_cpu(0);
    expect(device_measure_gemm_gflops(&dev) > 0.1, "no GEMM rate");
    return failures();
}
