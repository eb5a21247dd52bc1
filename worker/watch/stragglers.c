#include "worker/watch/stragglers.h"

#include <stdlib.h>

#include "comm/comm.h"
#include "kernels/log.h"

static const double LOW_SCORE = 0.7;
static const double NOISE_SECONDS = 1e-3; // of a step; whoever loses less holds nobody up

void stragglers_open(Stragglers *stragglers, int64_t limit) {
    *stragglers = (Stragglers){.ranks = comm_size()};
    if (stragglers->ranks == 1) return;
    stragglers->limit = limit;
    stragglers->places = rank_places();
    stragglers->behind = calloc((size_t)stragglers->ranks, sizeof(int64_t));
    CHECK_MEMORY(stragglers->behind, "no memory for the times of %d ranks", stragglers->ranks);
}

void stragglers_close(Stragglers *stragglers) {
    free(stragglers->behind);
    *stragglers = (Stragglers){0};
}

static double own_seconds(const StepTimes *times, int rank) {
    return times->of_all[rank * TIMED_KINDS + TIMED_OWN];
}

int stragglers_judge(Stragglers *stragglers, const StepTimes *times, int64_t steps, int64_t step) {
    int fastest = 0, slowest = 0, said = 0;
    for (int rank = 1; rank < stragglers->ranks; rank++) {
        if (own_seconds(times, rank) < own_seconds(times, fastest)) fastest = rank;
        if (own_seconds(times, rank) > own_seconds(times, slowest)) slowest = rank;
    }
    double least = own_seconds(times, fastest), most = own_seconds(times, slowest);
    for (int rank = 0; rank < stragglers->ranks; rank++) {
        double seconds = own_seconds(times, rank), score = least / seconds;
        int64_t before = stragglers->behind[rank];
        bool behind = score < LOW_SCORE && seconds - least > NOISE_SECONDS;
        stragglers->behind[rank] = behind ? before + steps : 0;
        if (before >= stragglers->limit || stragglers->behind[rank] < stragglers->limit) continue;
        said++;
        log_warn("step %lld: rank %d on %s is a straggler: it has computed %.1f ms a step, rank %d "
                 "on %s %.1f (score %.2f, below %.1f for %lld steps); look at its host's other "
                 "work, clock and memory, and at load_imbalance: it may have more tokens",
                 (long long)step, rank, stragglers->places[rank].host, 1e3 * seconds, fastest,
                 stragglers->places[fastest].host, 1e3 * least, score, LOW_SCORE,
                 (long long)stragglers->behind[rank]);
    }
    stragglers->slowest = slowest;
    stragglers->score = least / most;
    return said;
}

bool stragglers_has_one(const Stragglers *stragglers) {
    return stragglers->limit > 0 && stragglers->behind[stragglers->slowest] >= stragglers->limit;
}
