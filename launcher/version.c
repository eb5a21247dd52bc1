#include "launcher/version.h"

#include <dnnl.h>
#include <hdf5.h>
#include <xxhash.h>
#include <yaml.h>

#include "comm/comm.h"
#include "kernels/device.h"

bool version_print(FILE *out, Error *err) {
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    const dnnl_version_t *dnnl = dnnl_version();
    unsigned xxhash = XXH_versionNumber(); // 803 is 0.8.3
    fprintf(out, "moetrain %s\n", MOETRAIN_VERSION);
    fprintf(out, "  %s, HDF5 %u.%u.%u, libyaml %s, oneDNN %d.%d.%d, xxHash %u.%u.%u\n",
            comm_library(), major, minor, release, yaml_get_version_string(), dnnl->major,
            dnnl->minor, dnnl->patch, xxhash / 10000, xxhash / 100 % 100, xxhash % 100);
    fprintf(out, "  compiled by %s %s\n",
#ifdef __clang__
            "clang", __clang_version__
#else
            "gcc", __VERSION__
#endif
    );
    Device device;
    if (!device_open(&device, "auto", 0, 0, 1, err)) return false;
    fprintf(out, "  device %s: %s\n", device.name, device.description);
    device_close(&device);
    return true;
}
