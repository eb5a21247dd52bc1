// A step graph replayed on a described cluster: a clock for every rank, which computes, begins
// exchanges and sums, and waits for them as the trainer does. Nothing here is collective.
//
// Products take FLOPs / products, everything else bytes / memory, at the share of both that a step
// reaches. What stays of a token for the backward pass is written and read forward, read backward,
// and its gradient is written and read; matrices are read once in each.
//
// Tokens go to their experts and back in chunks, the next one on its way while one is computed
// (model/expert_exchange.c); a rank has a message for each other one of its group. Gradients are
// summed by the tree of comm/reduction_tree.h when a layer's are ready. Where cluster->overlap is
// not set, as MPI on hosts has no hands of its own, a rank computes nothing while its bytes
// travel.
//
// Ranks that share CPUs have equal shares of them until they are done, and copy inside their node
// as many times longer as there are ranks for a CPU. Those that compute at once share what their
// node's memory does in a second.
#ifndef MOETRAIN_WORKER_SIMULATION_REPLAY_H
#define MOETRAIN_WORKER_SIMULATION_REPLAY_H

#include "worker/simulation/cluster.h"
#include "worker/simulation/step_graph.h"
#include "worker/watch/step_times.h"

typedef struct StepForecast {
    double seconds;           // of a step
    double parts[STEP_PARTS]; // their sum; the words are those of measured steps
    double gemm_share;        // the step's FLOPs over what all ranks could do meanwhile
} StepForecast;

StepForecast replay_step(const StepGraph *graph, const Cluster *cluster);

#endif
