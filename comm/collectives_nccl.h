// Private to comm/: the collectives on device buffers, without checks. Same arguments and meaning
// as in collectives.h; collective over the group. Only in a build with CUDA.
#ifndef MOETRAIN_COMM_COLLECTIVES_NCCL_H
#define MOETRAIN_COMM_COLLECTIVES_NCCL_H

#include "comm/transport.h"

extern const Transport nccl_transport;

#endif
