#include "worker/watch/job_quiet.h"

#include <math.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/run/deadline.h"

// Between the looks: several times what a health file takes to be written anew, also on a slow
// disk.
static const double BETWEEN_SECONDS = 10;
enum { LOOK_SECONDS = 5 };

static void forget(JobQuiet *quiet) {
    free(quiet->before);
    quiet->before = NULL;
    quiet->looked = false;
}

void job_quiet_pass(JobQuiet *quiet, double seconds, bool beat) {
    quiet->own = beat ? 0 : quiet->own + seconds;
    quiet->since_look += seconds;
    if (!beat) return;
    quiet->excused = 0;
    forget(quiet);
}

double job_quiet_seconds(const JobQuiet *quiet) {
    return quiet->own - quiet->excused;
}

static void *read_files(void *answer) {
    *(RankHealth **)answer = rank_health_look();
    return NULL;
}

// NULL where there is nothing to see, or a disk does not answer: whoever waits for it keeps the
// place for its answer.
static RankHealth *look(void) {
    if (comm_size() == 1) return NULL;
    RankHealth **answer = calloc(1, sizeof(RankHealth *)), *all = NULL;
    if (!answer || !deadline_run(read_files, answer, LOOK_SECONDS)) return NULL;
    all = *answer;
    free(answer);
    return all;
}

double job_quiet_of_others(const RankHealth *before, const RankHealth *now, int ranks, int own) {
    double least = INFINITY;
    for (int rank = 0; rank < ranks; rank++) {
        bool writes = before[rank].known && now[rank].known &&
                      before[rank].written_seconds != now[rank].written_seconds;
        if (rank != own && writes) least = fmin(least, now[rank].quiet_seconds);
    }
    return least;
}

bool job_quiet_expired(JobQuiet *quiet, double timeout) {
    double seconds = job_quiet_seconds(quiet), between = fmin(BETWEEN_SECONDS, timeout / 2);
    if (timeout == 0 || seconds <= timeout - between) return false;
    if (!quiet->looked) {
        quiet->before = look();
        quiet->looked = true;
        quiet->since_look = 0;
    }
    if (seconds <= timeout || (quiet->before && quiet->since_look < between)) return false;
    RankHealth *now = quiet->before ? look() : NULL;
    double others =
        now ? job_quiet_of_others(quiet->before, now, comm_size(), log_rank()) : INFINITY;
    free(now);
    forget(quiet);
    if (others > timeout) return true;
    quiet->excused = fmax(quiet->own - others, quiet->excused);
    return false;
}
