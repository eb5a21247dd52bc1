// How much memory the host still has for this process: what the machine has free, or less where a
// control group (a container, a batch job) allows less. Not collective.
#ifndef MOETRAIN_KERNELS_HOST_MEMORY_H
#define MOETRAIN_KERNELS_HOST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

enum { HOST_MEMORY_LIMIT_BYTES = 160 };

typedef struct HostMemory {
    size_t available_bytes; // before the kernel must swap or kill; SIZE_MAX when nobody says
    // The smaller of the two is available_bytes: what the process's own control group leaves, which
    // processes with the same own_group share, and what the machine and all groups above leave,
    // which all processes of the host share.
    size_t own_bytes, shared_bytes; // SIZE_MAX without such a limit
    uint64_t own_group;
    // who sets available_bytes: "the machine", or the control group's file
    char limit[HOST_MEMORY_LIMIT_BYTES];
} HostMemory;

// As the files of /proc and /sys/fs/cgroup say, version 1 or 2, every group from the process's own
// to the root.
HostMemory host_memory(void);

// The same with these files below `root` in place of /, for tests.
HostMemory host_memory_below(const char *root);

// Bytes of this process that lie in memory now, and the most there ever were.
size_t resident_bytes(void);
size_t peak_resident_bytes(void);

#endif
