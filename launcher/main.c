// From the shell to a verb (launcher/verbs.c). Training, evaluation and generation are of all
// ranks: rank 0 reads the configuration, every rank gets its bytes, and all leave with one exit
// code. Everything else works without MPI; started under mpirun all the same it speaks once.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/routing_process.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "launcher/cli.h"
#include "worker/compare_ranks.h"
#include "worker/run/signals.h"
#include "worker/watch/watchdog.h"

// The rank that mpirun or srun gave this process, before MPI is up.
static int launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"};
    for (int i = 0; i < 3; i++) {
        const char *rank = getenv(names[i]);
        if (rank) return (int)strtol(rank, NULL, 10);
    }
    return 0;
}

// Whether mpirun or srun has started this process. (SLURM_PROCID alone is also set for a batch
// script.)
static bool is_launched(void) {
    return getenv("OMPI_COMM_WORLD_RANK") || getenv("PMIX_RANK");
}

// Started with a standard stream closed, the next file to be opened would take its number and
// receive our messages.
static void fill_standard_streams(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
    if (routing_process_asked(argc, argv)) return routing_process_run(); // a rank has started it
    signals_install(); // before all else: a request to stop may come at once
    fill_standard_streams();
    Error err = {0};
    CommandLine line;
    int rank = launched_rank();
    log_set_rank(rank);
    bool ok = cli_parse(&line, argc, argv, &err);
    if (!ok && argc < 2 && rank == 0) cli_print_usage(stderr);
    bool collective = ok && line.verb->run_ranks;
    bool together = collective || is_launched();
    if (collective) {
        watchdog_begin();
        watchdog_beat("starting MPI");
    }
    if (together) { // also where one rank needs no others: they may have been told something else
        comm_init(&argc, &argv);
        ok = compare_programs(argc - 1, argv + 1, &err) && comm_agree(ok, &err);
    }
    if (!collective && !line.verb->starts_runs) signals_release();
    int exit_code = err.exit_code;
    if (ok && collective) exit_code = line.verb->run_ranks(&line, &err);
    if (ok && !collective && rank == 0) exit_code = line.verb->run(&line, &err); // rank 0 speaks
    if (ok && !collective && together) broadcast(comm_world(), &exit_code, sizeof exit_code, 0);
    if (exit_code != EXIT_DONE && err.message[0]) log_error("%s", err.message);
    if (collective) watchdog_leave(exit_code);
    if (together) comm_finalize();
    watchdog_stop();
    cli_free(&line);
    return exit_code;
}
