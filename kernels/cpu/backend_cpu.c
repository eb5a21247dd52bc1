#include "kernels/backend.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include <oneapi/dnnl/dnnl.h>

#include "kernels/cpu/cpu_ops.h"

static const char *isa_name(dnnl_cpu_isa_t isa) {
    switch (isa) {
    case dnnl_cpu_isa_sse41:
        return "SSE4.1";
    case dnnl_cpu_isa_avx:
        return "AVX";
    case dnnl_cpu_isa_avx2:
        return "AVX2";
    case dnnl_cpu_isa_avx2_vnni:
        return "AVX2 VNNI";
    case dnnl_cpu_isa_avx512_core:
        return "AVX-512";
    case dnnl_cpu_isa_avx512_core_vnni:
        return "AVX-512 VNNI";
    case dnnl_cpu_isa_avx512_core_bf16:
        return "AVX-512 BF16";
    case dnnl_cpu_isa_avx512_core_amx:
        return "AMX";
    default:
        return "generic";
    }
}

// The "model name" of /proc/cpuinfo; "cpu" where the kernel names none.
static void cpu_model(char *name, size_t bytes) {
    snprintf(name, bytes, "cpu");
    FILE *info = fopen("/proc/cpuinfo", "r");
    if (!info) return;
    char line[256];
    while (fgets(line, sizeof line, info)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        line[strcspn(line, "\n")] = '\0';
        for (colon++; isspace((unsigned char)*colon);) colon++;
        snprintf(name, bytes, "%s", colon);
        break;
    }
    fclose(info);
}

// The matrix library and the instruction set that it has chosen.
static void library_kind(char *text, size_t bytes) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, bytes, "oneDNN %d.%d.%d %s", v->major, v->minor, v->patch,
             isa_name(dnnl_get_effective_cpu_isa()));
}

static bool available(Error *err) {
    (void)err;
    return true;
}

static bool open_cpu_backend(Device *dev, int local_rank, int local_size, Error *err) {
    (void)local_rank, (void)local_size, (void)err;
    dev->fixed_order = true;
    library_kind(dev->kind, sizeof dev->kind);
    return true;
}

// One library call or another, a row's bits are the same.
static void products_cpu(Device *dev, ProductLine say, void *context) {
    (void)dev, (void)say, (void)context;
}

static void describe(const Device *dev, char *text, size_t bytes) {
    char model[72];
    cpu_model(model, sizeof model);
    snprintf(text, bytes, "%s, %s", model, dev->kind);
}

#define OP(name, ...) .name = name##_cpu,
const Backend cpu_backend = {
    .name = "cpu",
    .place = ON_HOST,
    .available = available,
    .open = open_cpu_backend,
    .close = close_cpu,
    .describe = describe,
    .allocate = allocate_cpu,
    .release = release_cpu,
    .free_bytes = free_bytes_cpu,
    .upload = transfer_cpu,
    .download = transfer_cpu,
    .synchronize = synchronize_cpu,
    .products = products_cpu,
    .op = {OPS(OP)},
};
