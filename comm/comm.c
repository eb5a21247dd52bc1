#include "comm/comm.h"

#include <mpi.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/collective_compare.h"
#include "comm/flight_recorder.h"
#include "comm/group.h"
#include "comm/mpi_check.h"
#include "kernels/log.h"

static int the_rank = 0, the_size = 1, the_local_rank = 0, the_local_size = 1;
static Group *world;

enum { HOST_BYTES = 256 };

static pthread_t mpi_thread; // the only one that may call MPI

// From another thread die() just ends this process, and mpirun or srun the others.
static void abort_all_ranks(int exit_code) {
    if (pthread_equal(pthread_self(), mpi_thread)) MPI_Abort(MPI_COMM_WORLD, exit_code);
}

// Started by hand, without mpirun or srun, this process needs no daemon of Open MPI's beside it,
// which takes longer to start than all else; it would serve MPI_Comm_spawn. Nor a folder for its
// job: all such processes of a host share one, which the first to end removes while another begins.
static void prepare_start_by_hand(void) {
    if (getenv("OMPI_COMM_WORLD_RANK") || getenv("PMIX_RANK")) return;
    setenv("OMPI_MCA_ess_singleton_isolated", "1", 0);
    setenv("OMPI_MCA_orte_create_session_dirs", "0", 0);
}

void comm_init(int *argc, char ***argv) {
    int provided;
    prepare_start_by_hand();
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
    world = group_open("world", 0, NULL);
}

void comm_finalize(void) {
    group_close(world);
    world = NULL;
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

Group *comm_world(void) {
    return world;
}

const char *comm_host(void) {
    static char name[HOST_BYTES];
    if (!name[0] && gethostname(name, sizeof name - 1) != 0) snprintf(name, sizeof name, "?");
    return name;
}

int comm_local_sharers(uint64_t key) {
    MPI_Comm host;
    int sharers = 0;
    uint64_t *keys = calloc((size_t)the_local_size, sizeof *keys);
    CHECK_MEMORY(keys, "no memory for the keys of %d ranks", the_local_size);
    int64_t flight = flight_recorder_begin(world, "comm_local_sharers", NULL, 0, ON_HOST);
    MPI_CHECK(
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, the_rank, MPI_INFO_NULL, &host));
    MPI_CHECK(MPI_Allgather(&key, 1, MPI_UINT64_T, keys, 1, MPI_UINT64_T, host));
    MPI_CHECK(MPI_Comm_free(&host));
    flight_recorder_end(flight);
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

// ---- agreement ----------------------------------------------------------------------------------

static int64_t begin(const char *name, int root) {
    int64_t flight = flight_recorder_begin(world, name, NULL, sizeof(int), ON_HOST);
    collective_compare(world, (CollectiveCall){.name = name, .root = root});
    return flight;
}

// The lowest rank that is not ok; the number of ranks when there is none.
static int lowest_failed(bool ok) {
    int mine = ok ? the_size : the_rank, lowest;
    MPI_CHECK(MPI_Allreduce(&mine, &lowest, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
    return lowest;
}

static void adopt(Error *err, int rank) {
    MPI_CHECK(MPI_Bcast(err, (int)sizeof *err, MPI_BYTE, rank, MPI_COMM_WORLD));
}

static void name_rank(Error *err, int rank) {
    char host[HOST_BYTES];
    snprintf(host, sizeof host, "%s", comm_host());
    MPI_CHECK(MPI_Bcast(host, HOST_BYTES, MPI_CHAR, rank, MPI_COMM_WORLD));
    error_prefix(err, "rank %d on %s", rank, host);
}

static bool agree(bool ok, Error *err) {
    int rank = lowest_failed(ok);
    if (rank == the_size) return true;
    Error own = *err;
    adopt(err, rank);
    int same = !ok && strcmp(own.message, err->message) == 0, all_same;
    MPI_CHECK(MPI_Allreduce(&same, &all_same, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD));
    if (!all_same) name_rank(err, rank);
    return false;
}

static bool agree_named(bool ok, Error *err) {
    int rank = lowest_failed(ok);
    if (rank == the_size) return true;
    adopt(err, rank);
    return false;
}

static bool follow(bool ok, Error *err) {
    int state[2] = {ok, the_local_size < the_size}; // rank 0's: whether there are other hosts
    MPI_CHECK(MPI_Bcast(state, 2, MPI_INT, 0, MPI_COMM_WORLD));
    if (state[0]) return true;
    adopt(err, 0);
    if (state[1]) name_rank(err, 0);
    return false;
}

bool comm_agree(bool ok, Error *err) {
    int64_t flight = begin("comm_agree", -1);
    bool agreed = agree(ok, err);
    flight_recorder_end(flight);
    return agreed;
}

bool comm_agree_named(bool ok, Error *err) {
    int64_t flight = begin("comm_agree_named", -1);
    bool agreed = agree_named(ok, err);
    flight_recorder_end(flight);
    return agreed;
}

bool comm_follow(bool ok, Error *err) {
    int64_t flight = begin("comm_follow", 0);
    bool agreed = follow(ok, err);
    flight_recorder_end(flight);
    return agreed;
}
