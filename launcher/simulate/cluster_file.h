// A cluster described in YAML, for `moetrain simulate`: what is in configs/clusters/. Not
// collective.
#ifndef MOETRAIN_LAUNCHER_SIMULATE_CLUSTER_FILE_H
#define MOETRAIN_LAUNCHER_SIMULATE_CLUSTER_FILE_H

#include <stddef.h>
#include <stdio.h>

#include "kernels/check.h"
#include "worker/simulation/cluster.h"

// False with exit 2, place, value and the fix. `source` is the name of the text in messages.
bool cluster_read(Cluster *cluster, const char *source, const char *text, size_t bytes, Error *err);
// As a file that reads back to the same numbers.
void cluster_print(FILE *out, const Cluster *cluster);

#endif
