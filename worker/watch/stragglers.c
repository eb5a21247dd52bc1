#include "worker/watch/stragglers.h"

#include <math.h>
#include <stdlib.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"

static const double LOW_SCORE = 0.7;
static const double NOISE_SECONDS = 1e-3; // of a step; whoever loses less holds nobody up

void stragglers_open(Stragglers *stragglers, int64_t limit) {
    *stragglers = (Stragglers){.ranks = comm_size()};
    if (stragglers->ranks == 1) return;
    stragglers->limit = limit;
    stragglers->places = rank_places();
    stragglers->seconds = calloc((size_t)stragglers->ranks, sizeof(double));
    stragglers->behind = calloc((size_t)stragglers->ranks, sizeof(int64_t));
    CHECK_MEMORY(stragglers->seconds && stragglers->behind, "no memory for the times of %d ranks",
                 stragglers->ranks);
}

void stragglers_close(Stragglers *stragglers) {
    free(stragglers->seconds);
    free(stragglers->behind);
    *stragglers = (Stragglers){0};
}

void stragglers_begin_step(Stragglers *stragglers) {
    if (stragglers->limit > 0) stragglers->waited_seconds = collectives_waited_seconds();
}

void stragglers_end_step(Stragglers *stragglers, double step_seconds) {
    if (stragglers->limit == 0) return;
    double waited = collectives_waited_seconds() - stragglers->waited_seconds;
    stragglers->own_seconds += step_seconds - waited;
    stragglers->steps++;
}

int stragglers_judge(Stragglers *stragglers, int64_t step) {
    const double *seconds = stragglers->seconds;
    int fastest = 0, slowest = 0, said = 0;
    for (int rank = 1; rank < stragglers->ranks; rank++) {
        if (seconds[rank] < seconds[fastest]) fastest = rank;
        if (seconds[rank] > seconds[slowest]) slowest = rank;
    }
    for (int rank = 0; rank < stragglers->ranks; rank++) {
        double score = seconds[fastest] / seconds[rank];
        int64_t before = stragglers->behind[rank];
        bool behind = score < LOW_SCORE && seconds[rank] - seconds[fastest] > NOISE_SECONDS;
        stragglers->behind[rank] = behind ? before + stragglers->steps : 0;
        if (before >= stragglers->limit || stragglers->behind[rank] < stragglers->limit) continue;
        said++;
        log_warn("step %lld: rank %d on %s is a straggler: it has computed %.1f ms a step, rank %d "
                 "on %s %.1f (score %.2f, below %.1f for %lld steps); look at its host's other "
                 "work, clock and memory, and at load_imbalance: it may have more tokens",
                 (long long)step, rank, stragglers->places[rank].host, 1e3 * seconds[rank], fastest,
                 stragglers->places[fastest].host, 1e3 * seconds[fastest], score, LOW_SCORE,
                 (long long)stragglers->behind[rank]);
    }
    stragglers->slowest = slowest;
    stragglers->score = seconds[fastest] / seconds[slowest];
    return said;
}

void stragglers_look(Stragglers *stragglers, int64_t step) {
    if (stragglers->limit == 0 || stragglers->steps == 0) return;
    double own = fmax(stragglers->own_seconds / (double)stragglers->steps, 1e-9);
    all_gather(comm_world(), tensor_1d(stragglers->seconds, F64, stragglers->ranks),
               tensor_1d(&own, F64, 1), TRAFFIC_OTHER);
    stragglers_judge(stragglers, step);
    stragglers->own_seconds = 0;
    stragglers->steps = 0;
}

bool stragglers_has_one(const Stragglers *stragglers) {
    return stragglers->limit > 0 && stragglers->behind[stragglers->slowest] >= stragglers->limit;
}
