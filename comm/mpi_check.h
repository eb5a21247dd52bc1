// Private to comm/: a failed MPI call ends the job with the library's own words.
#ifndef MOETRAIN_COMM_MPI_CHECK_H
#define MOETRAIN_COMM_MPI_CHECK_H

#include <mpi.h>

#include "kernels/check.h"

#define MPI_CHECK(call)                                                                            \
    do {                                                                                           \
        int mpi_code_ = (call);                                                                    \
        if (mpi_code_ != MPI_SUCCESS) {                                                            \
            char mpi_text_[MPI_MAX_ERROR_STRING] = "?";                                            \
            int mpi_length_;                                                                       \
            MPI_Error_string(mpi_code_, mpi_text_, &mpi_length_);                                  \
            die(EXIT_COMMUNICATION, __FILE__, __LINE__, "%s: %s", #call, mpi_text_);               \
        }                                                                                          \
    } while (0)

#endif
