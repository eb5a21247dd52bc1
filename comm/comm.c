#include "comm/comm.h"

#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/mpi_check.h"
#include "kernels/log.h"

static int the_rank = 0, the_size = 1, the_local_rank = 0, the_local_size = 1;

static pthread_t mpi_thread; // the only one that may call MPI

// From another thread die() just ends this process, and mpirun or srun the others.
static void abort_all_ranks(int exit_code) {
    if (pthread_equal(pthread_self(), mpi_thread)) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

void comm_init(int *argc, char ***argv) {
    int provided;
    MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    mpi_thread = pthread_self();
    die_hook = abort_all_ranks;
    MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &the_rank));
    MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &the_size));
    log_set_rank(the_rank);
    CHECK(provided >= MPI_THREAD_FUNNELED, "this MPI library takes no program with threads");

    MPI_Comm host;
    MPI_CHECK(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, the_rank, MPI_INFO_NULL, &host));
    MPI_CHECK(MPI_Comm_rank(host, &the_local_rank));
    MPI_CHECK(MPI_Comm_size(host, &the_local_size));
    MPI_CHECK(MPI_Comm_free(&host));
}

void comm_finalize(void) {
    die_hook = NULL;
    MPI_Finalize();
}

int comm_rank(void) {
    return the_rank;
}
int comm_size(void) {
    return the_size;
}
int comm_local_rank(void) {
    return the_local_rank;
}
int comm_local_size(void) {
    return the_local_size;
}

int comm_local_sharers(uint64_t key) {
    MPI_Comm host;
    int sharers = 0;
    uint64_t *keys = calloc((size_t)the_local_size, sizeof *keys);
    CHECK(keys, "no memory for the keys of %d ranks", the_local_size);
    MPI_CHECK(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, the_rank, MPI_INFO_NULL, &host));
    MPI_CHECK(MPI_Allgather(&key, 1, MPI_UINT64_T, keys, 1, MPI_UINT64_T, host));
    MPI_CHECK(MPI_Comm_free(&host));
    for (int i = 0; i < the_local_size; i++) sharers += keys[i] == key;
    free(keys);
    return sharers;
}

const char *comm_library(void) {
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "unknown MPI";
    char *end = strpbrk(text, ",\n"); // "Open MPI v4.1.4, package: …"
    if (end) *end = 0;
    return text;
}

bool comm_agree(bool ok, Error *err) {
    int mine = ok ? the_size : the_rank, lowest_failed;
    MPI_CHECK(MPI_Allreduce(&mine, &lowest_failed, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
    if (lowest_failed == the_size) return true;
    MPI_CHECK(MPI_Bcast(err, (int)sizeof *err, MPI_BYTE, lowest_failed, MPI_COMM_WORLD));
    return false;
}
