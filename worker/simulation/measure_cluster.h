// What this machine, or two hosts, are as a cluster: measured by the ops and collectives that
// training uses.
#ifndef MOETRAIN_WORKER_SIMULATION_MEASURE_CLUSTER_H
#define MOETRAIN_WORKER_SIMULATION_MEASURE_CLUSTER_H

#include "worker/simulation/cluster.h"
#include "worker/train_config.h"

// One rank measures how it computes, two of one host also messages inside a node, two on two hosts
// messages between nodes, four on two hosts all, and the network cards of a host. What is not
// measured is as good as what is like it, with a warning. `ranks`: of a node, where there is one
// host alone. *cluster is as rank 0 finds it. False with exit 2 on other numbers of ranks, with
// exit 7 where the device fails, the same on all. Collective over all ranks.
bool measure_cluster(Cluster *cluster, const TrainConfig *config, int64_t ranks, Error *err);

#endif
