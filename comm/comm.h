// The life of MPI in this process, and agreement among ranks.
//
// MPI is initialised with MPI_THREAD_FUNNELED: only the main thread communicates. Errors return
// (MPI_ERRORS_RETURN) and end in CHECK, which aborts every rank with exit code 7.
// Started without mpirun, the program is one rank.
#ifndef MOETRAIN_COMM_COMM_H
#define MOETRAIN_COMM_COMM_H

#include <stdint.h>

#include "comm/process_groups.h"
#include "kernels/check.h"

// Starts MPI, sets the rank of the log and the abort hook of die(). Collective over all ranks.
void comm_init(int *argc, char ***argv);
// Ends MPI; after it nothing of comm/ may be called. Collective over all ranks.
void comm_finalize(void);

// Not collective.
int comm_rank(void); // 0 … comm_size()-1
int comm_size(void);
int comm_local_rank(void); // among the ranks of this host
int comm_local_size(void);
const char *comm_host(void); // the name of this rank's host
// The ranks of this host that give the same key as this one, which is among them. Collective over
// all ranks.
int comm_local_sharers(uint64_t key);
const char *comm_library(void); // "Open MPI 4.1.4"
// All ranks, for host tensors and bytes; open from comm_init to comm_finalize.
Group *comm_world(void);

// Agreement. Call before any collective that depends on a local success. Each is true on every rank
// when nobody has failed; otherwise false on every rank, and *err is the same error everywhere, so
// that all leave together and rank 0 can print it. Collective over all ranks.
//
// What every rank has tried: the error of the lowest rank that failed, after "rank 3 on node7: ".
// Where all ranks have found the same error, as of one rank, nobody is named.
bool comm_agree(bool ok, Error *err);
// What rank 0 alone has tried; `ok` of the other ranks does not count. Its host is named when there
// are others.
bool comm_follow(bool ok, Error *err);
// comm_agree for messages that name their ranks themselves.
bool comm_agree_named(bool ok, Error *err);

#endif
