#include "worker/watch/stragglers.h"

#include <math.h>
#include <stdlib.h>

#include "comm/comm.h"
#include "comm/shard_run.h"
#include "kernels/log.h"

static const double LOW_SCORE = 0.7;
static const double NOISE_SECONDS = 1e-3; // of a step; whoever loses less holds nobody up

void stragglers_open(Stragglers *stragglers, int64_t limit, const RankShape *shape) {
    *stragglers = (Stragglers){.ranks = comm_size()};
    if (stragglers->ranks == 1) return;
    stragglers->limit = limit;
    stragglers->places = rank_places();
    stragglers->behind = calloc((size_t)stragglers->ranks, sizeof(int64_t));
    stragglers->shards = calloc((size_t)stragglers->ranks, sizeof(int64_t));
    CHECK_MEMORY(stragglers->behind && stragglers->shards, "no memory for the times of %d ranks",
                 stragglers->ranks);
    for (int rank = 0; rank < stragglers->ranks; rank++)
        stragglers->shards[rank] = shard_run(shape->deal, rank).count;
}

void stragglers_close(Stragglers *stragglers) {
    free(stragglers->behind);
    free(stragglers->shards);
    *stragglers = (Stragglers){0};
}

static double own_seconds(const StepTimes *times, int rank) {
    return times->of_all[rank * TIMED_KINDS + TIMED_OWN];
}

// The time that the fastest takes, with this rank's shards where those are more, over its own.
static double score_of(const Stragglers *stragglers, const StepTimes *times, int fastest,
                       int rank) {
    const int64_t *shards = stragglers->shards;
    double more = shards ? (double)shards[rank] / (double)shards[fastest] : 1;
    double least = own_seconds(times, fastest) * fmax(more, 1);
    return fmin(least / own_seconds(times, rank), 1);
}

int stragglers_judge(Stragglers *stragglers, const StepTimes *times, int64_t steps, int64_t step) {
    int fastest = 0, slowest = 0, said = 0;
    for (int rank = 1; rank < stragglers->ranks; rank++)
        if (own_seconds(times, rank) < own_seconds(times, fastest)) fastest = rank;
    double least = own_seconds(times, fastest), lowest = 1;
    for (int rank = 0; rank < stragglers->ranks; rank++) {
        double seconds = own_seconds(times, rank);
        double score = score_of(stragglers, times, fastest, rank);
        int64_t before = stragglers->behind[rank];
        bool behind = score < LOW_SCORE && seconds * (1 - score) > NOISE_SECONDS;
        if (score < lowest) {
            lowest = score;
            slowest = rank;
        }
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
    stragglers->score = lowest;
    return said;
}

bool stragglers_has_one(const Stragglers *stragglers) {
    return stragglers->limit > 0 && stragglers->behind[stragglers->slowest] >= stragglers->limit;
}
