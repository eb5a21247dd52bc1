// The host's MPI beside emulated device collectives.
//
// A GPU goes on exchanging while the host of its rank waits inside MPI; the emulated one works only
// when its own process waits for a stream. So that a rank in MPI does not keep others waiting for
// its device, every MPI call that can block first finishes the device's work: a legal order of
// events, in which the device was quick.
#ifndef MOETRAIN_TESTS_EMULATION_HOST_MPI_H
#define MOETRAIN_TESTS_EMULATION_HOST_MPI_H

namespace emulation {

// Counts communicators; while there is none, MPI is left alone.
void communicators_open(int change);
void finish_device_work();

} // namespace emulation

#endif
