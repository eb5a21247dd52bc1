// A line of text for every op that a device computes: with traces of two runs that should give the
// same bits, of other threads, builds or backends, the first line that differs names the op.
//
//   17 activation_forward out=f32[40,36]:a54c04c36e5c0dc5 in=f32[40,36]:5d0cf4bd0f7c3ee5 kind=0
//
// The op's number and name, then all that it takes, under the names of ops.h, as it is when the op
// is done: of a tensor type, shape and hash (checksums_hash), or - without data; of a number its
// value; of its scratch nothing. So both ends of an op are there: where what it reads differs,
// something between ops has written that (a collective, an upload, a loop on the host); where only
// what it writes differs, it is the op. Nothing in a line depends on times or addresses.
#ifndef MOETRAIN_KERNELS_OP_TRACE_H
#define MOETRAIN_KERNELS_OP_TRACE_H

#include "kernels/device.h"

// From now on until it is closed the device writes PREFIX-rank-R.txt, or as the D-th that a process
// traces PREFIX-rank-R-device-D.txt, and waits for each op. False with exit 5 when the file cannot
// be created. Not collective.
bool op_trace_open(Device *dev, const char *prefix, Error *err);

#endif
