// Whether ranks can give the same bits: with train.reproducible: ranks they need the same kind of GPU, the same libraries, and the
// same choice of algorithms.
#ifndef MOETRAIN_WORKER_SAME_GPU_H
#define MOETRAIN_WORKER_SAME_GPU_H

#include "worker/session.h"

// Compares what the GPUs are. False with exit 7 when one differs from rank 0's. Collective over all ranks.
bool same_gpu_kind(const Session *session, Error *err);
// Compares how they multiply: for after the first step, which has met every product of the run. Logs the choices. False with exit
// 7 when one differs from rank 0's. Collective over all ranks.
bool same_gpu_products(Session *session, Error *err);

#endif
