// Whether ranks multiply alike: with train.reproducible: ranks GPUs of one kind (compare_ranks.h)
// must also have chosen the same algorithms.
#ifndef MOETRAIN_WORKER_COMPARE_PRODUCTS_H
#define MOETRAIN_WORKER_COMPARE_PRODUCTS_H

#include "kernels/device.h"

// For after the first step, which has met every product of the run. Logs the choices. False with
// exit 7 when one differs from rank 0's. Collective over all ranks.
bool compare_products(Device *dev, Error *err);

#endif
