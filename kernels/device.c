#include "kernels/device.h"

#include "kernels/backend.h"

void device_close(Device *dev) {
    if (dev->backend) dev->backend->close(dev);
    *dev = (Device){0};
}

bool device_check_limit(const Device *dev, const char *key, int64_t size, int64_t most,
                        Error *err) {
    if (most == 0 || size <= most) return true;
    return error_set(err, EXIT_CONFIG,
                     "%s (%lld) is more than device: %s takes, %lld; set it to at most that, "
                     "or use device: cpu",
                     key, (long long)size, dev->name, (long long)most);
}

// ---- memory -------------------------------------------------------------------------------------

static const Backend *memory_of(const Device *dev) {
    return dev ? dev->backend : &cpu_backend;
}

void *device_allocate(Device *dev, size_t bytes, const char *purpose) {
    const Backend *backend = memory_of(dev);
    void *data = backend->allocate(dev, bytes);
    if (!data)
        die(EXIT_IO, __FILE__, __LINE__,
            "no %s memory for %s: %.1f MiB needed, %.1f MiB free; `moetrain plan` shows what a "
            "rank needs; use more ranks, a smaller train.batch or more train.micro_batches",
            backend->name, purpose, (double)bytes / 1048576.0,
            (double)backend->free_bytes(dev) / 1048576.0);
    return data;
}

size_t device_free_bytes(Device *dev) {
    return memory_of(dev)->free_bytes(dev);
}

void device_release(Device *dev, void *data, size_t bytes) {
    if (data) memory_of(dev)->release(dev, data, bytes);
}

static void check_transfer(const Device *dev, Tensor device, Tensor host) {
    CHECK(device.place == dev->place && host.place == ON_HOST && device.dtype == host.dtype &&
              tensor_elements(device) == tensor_elements(host),
          "a transfer between %lld x %s on the device and %lld x %s on the host",
          (long long)tensor_elements(device), dtype_name(device.dtype),
          (long long)tensor_elements(host), dtype_name(host.dtype));
}

void device_upload(Device *dev, Tensor to, Tensor from) {
    check_transfer(dev, to, from);
    if (to.data != from.data && tensor_bytes(to) > 0)
        dev->backend->upload(dev, to.data, from.data, tensor_bytes(to));
}

void device_download(Device *dev, Tensor to, Tensor from) {
    check_transfer(dev, from, to);
    if (to.data != from.data && tensor_bytes(to) > 0)
        dev->backend->download(dev, to.data, from.data, tensor_bytes(to));
}

void device_synchronize(Device *dev) {
    dev->backend->synchronize(dev);
}

void device_products(Device *dev, ProductLine say, void *context) {
    dev->backend->products(dev, say, context);
}
