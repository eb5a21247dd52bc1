// How many threads a rank computes with when nobody has said so: what its cores, its cgroup and its
// neighbours leave it.
#ifndef MOETRAIN_KERNELS_THREADS_H
#define MOETRAIN_KERNELS_THREADS_H

#include <stdint.h>

typedef struct ThreadChoice {
    int threads; // at least 1
    double cpus; // that fall to the rank, however many threads it has
    // "OMP_NUM_THREADS", "a cgroup allows 2.50 of 64 CPUs", "4 ranks share 64 CPUs"
    char reason[96];
    char warning[160]; // about a value of OMP_NUM_THREADS that is no number of threads; or empty
} ThreadChoice;

// `wanted` (train.threads) when it is not 0, else OMP_NUM_THREADS when it holds a number of
// threads, else the CPUs that this process may run on divided by the cpu_sharers, and at most its
// cgroup's quota divided by the quota_sharers: the ranks of this host, this one included, that may
// run on the same CPUs, and those in the same cgroup. Not collective.
ThreadChoice threads_choose(int wanted, int cpu_sharers, int quota_sharers);
// Numbers that processes of one host have in common when they may run on the same CPUs, and when
// they are in one cgroup. Not collective.
uint64_t threads_cpus_key(void);
uint64_t threads_cgroup_key(void);
// CPUs a second that the cgroup of a process allows, the least of it and all cgroups above it,
// version 1 or 2; 0: no limit. root: "" or, for tests, a folder that holds proc/self and the
// mounted file systems. Not collective.
double threads_cgroup_cpus(const char *root);

#endif
