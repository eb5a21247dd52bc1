// The control groups (containers, batch jobs) that a process is in, version 1 or 2: where their
// files are, from its own group up to the outermost that it can see. What stands in the files is
// their readers' business (threads.h, host_memory.h). Not collective.
#ifndef MOETRAIN_KERNELS_CGROUP_H
#define MOETRAIN_KERNELS_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { CGROUP_PATH_BYTES = 4096 };

typedef struct Cgroup {
    // "" or, for tests, a folder that holds proc/self and the mounted file systems; borrowed
    const char *root;
    char folder[CGROUP_PATH_BYTES]; // below root: of the group looked at
    size_t mount_length;            // of it, the mount of the hierarchy
} Cgroup;

// The process's own group, of version 2 or of version 1's controller ("cpu", "memory"). False when
// there is none.
bool cgroup_open(Cgroup *group, const char *root, int version, const char *controller);
// On to the group around it, whose limits hold too. False from the outermost.
bool cgroup_up(Cgroup *group);
bool cgroup_is_outermost(const Cgroup *group);
// One of its files, for reading; NULL when it is not there.
FILE *cgroup_file(const Cgroup *group, const char *name);
// A number that processes of one host have in common when they are in the same groups of both
// versions.
uint64_t cgroup_key(const char *root, const char *controller);

#endif
