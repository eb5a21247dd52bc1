// A cluster as a simulation knows it: what a rank computes in a second, and how its messages
// travel. Ranks fill node after node in their order.
#ifndef MOETRAIN_WORKER_SIMULATION_CLUSTER_H
#define MOETRAIN_WORKER_SIMULATION_CLUSTER_H

#include <stdbool.h>
#include <stdint.h>

// One message takes latency + bytes / bandwidth; of several that a rank sends together each but the
// first adds `gap` instead of the latency (LogGP, Alexandrov et al. 1995).
typedef struct Link {
    double latency, gap; // seconds
    double bandwidth;    // bytes a second of one rank, in one direction
} Link;

typedef struct Cluster {
    double products; // FLOP/s of a rank in matrix products, at best
    double memory;   // bytes a second that it reads and writes, at best
    double reached;  // the share of both that the ops of a step reach
    double step;     // seconds a step that depend on nothing: batches, statistics, logs
    int64_t node_ranks;
    int64_t node_cpus;     // that its ranks share; 0: each has its own
    double node_memory;    // bytes a second of all ranks of a node together; 0: no limit
    int64_t between_links; // that a node's ranks share, each with the bandwidth of `between`
    Link inside, between;  // of a node, of nodes
    bool overlap;          // bytes travel while ranks compute, as on GPUs; MPI moves them in calls
} Cluster;

#endif
