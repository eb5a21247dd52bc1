#include "worker/simulation/measure_cluster.h"

#include <math.h>
#include <time.h>

#include "comm/comm.h"
#include "kernels/arena.h"
#include "kernels/clock.h"
#include "kernels/kernels.h"
#include "kernels/log.h"
#include "kernels/self_test.h"
#include "worker/session.h"

enum { COPIED = 1 << 24, SENT = 1 << 18 }; // f32 elements: 64 MiB, 1 MiB
enum { LOOKS = 9, COPIES = 3, MESSAGES = 50, TOGETHER = 4 };

// Two tensors (rows, width) f32 on the device, zeroed.
static void open_pair(Arena *arena, Device *dev, Tensor pair[2], int64_t rows, int64_t width) {
    arena_measure(arena, "what is measured", dev);
    for (int placing = 0; placing < 2; placing++) {
        for (int i = 0; i < 2; i++) pair[i] = arena_2d(arena, F32, rows, width);
        if (!placing) arena_allocate(arena);
    }
    for (int i = 0; i < 2; i++) fill_zero(dev, pair[i]);
}

// Bytes a second that are read and written, at best of what begins and ends in so many seconds.
static double best_copy(Device *dev, Tensor pair[2], double seconds) {
    double best = INFINITY, begin = clock_seconds(), start, end;
    do {
        device_synchronize(dev);
        start = clock_seconds();
        for (int i = 0; i < COPIES; i++) copy(dev, pair[i % 2], pair[1 - i % 2]);
        device_synchronize(dev);
        end = clock_seconds();
        if (end < begin + seconds || !isfinite(best)) best = fmin(best, (end - start) / COPIES);
    } while (end < begin + seconds);
    return 2 * COPIED * sizeof(float) / best;
}

// Of a rank whose node does nothing else, and of all ranks of a node at once. Meanwhile the others
// sleep: a rank that waits for a message does not. Collective over all ranks.
static void measure_memory(Cluster *cluster, Device *dev) {
    const double seconds = 0.5, late = 0.1, same = 0.95;
    Arena arena;
    Tensor pair[2];
    open_pair(&arena, dev, pair, 1, COPIED);
    barrier(comm_world());
    if (comm_local_rank() == 0)
        cluster->memory = best_copy(dev, pair, seconds);
    else
        nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * (seconds + late))}, NULL);
    barrier(comm_world());
    double shared = best_copy(dev, pair, seconds);
    best_copy(dev, pair, late); // beside those that began later
    arena_free(&arena);
    // Fewer ranks than CPUs do not show what all of them get, and a GPU has memory of its own.
    bool filled = dev->place == ON_HOST && comm_local_size() >= cluster->node_cpus;
    if (filled && shared < same * cluster->memory)
        cluster->node_memory = shared * comm_local_size();
}

// Seconds that two ranks take to exchange a row of so many elements, `together` of them at once, at
// best. Collective over the group.
static double message_seconds(Group *group, Device *dev, Tensor pair[2], int64_t width,
                              int together) {
    int64_t rows[2] = {0};
    rows[1 - group_rank(group)] = 1;
    RowRuns run = {rows, NULL}, back = {(const int64_t[]){rows[0], rows[1]}, NULL};
    Pending pending[TOGETHER] = {{0}};
    double best = INFINITY;
    for (int look = 0; look < LOOKS; look++) {
        barrier(group);
        double begin = clock_seconds();
        for (int i = 0; i < MESSAGES; i++) {
            for (int m = 0; m < together; m++) {
                Tensor out = tensor_reshape_2d(tensor_range(pair[1], m * width, width), 1, width);
                Tensor in = tensor_reshape_2d(tensor_range(pair[0], m * width, width), 1, width);
                pending[m] = all_to_all_rows_begin(group, out, back, in, run, TRAFFIC_OTHER);
            }
            for (int m = 0; m < together; m++) collective_wait(&pending[m]);
        }
        device_synchronize(dev);
        best = fmin(best, (clock_seconds() - begin) / MESSAGES);
    }
    return best;
}

// Collective over the group, of two ranks.
static Link measure_link(Group *group, Device *dev) {
    Arena arena;
    Tensor pair[2];
    open_pair(&arena, dev, pair, 1, SENT);
    for (int i = 0; i < 2; i++) pair[i] = tensor_reshape_1d(pair[i], SENT);
    double one = message_seconds(group, dev, pair, 1, 1);
    double several = message_seconds(group, dev, pair, 1, TOGETHER);
    double large = message_seconds(group, dev, pair, SENT, 1);
    arena_free(&arena);
    return (Link){.latency = one,
                  .gap = fmax(several - one, 0) / (TOGETHER - 1),
                  .bandwidth = SENT * sizeof(float) / fmax(large - one, 1e-9)};
}

static bool check_ranks(Error *err) {
    int ranks = comm_size(), here = comm_local_size();
    bool fits = ranks <= 2 || (ranks == 4 && here == 2);
    return fits || error_set(err, EXIT_CONFIG,
                             "--cluster here measures on 1 or 2 ranks, or on 4 of which 2 are on "
                             "each of two hosts, not on %d; use mpirun -np 2",
                             ranks);
}

static void measure_rank(Cluster *cluster, Session *session, const TrainConfig *config) {
    double cpus = session->threads.cpus, threads = session->threads.threads;
    barrier(comm_world()); // all at once, as they train
    cluster->products = 1e9 * device_measure_layer_gflops(&session->dev, session_storage(config));
    barrier(comm_world());
    cluster->reached = 1;
    cluster->overlap = session->dev.place == ON_DEVICE;
    if (!cluster->overlap)
        cluster->node_cpus = (int64_t)fmax(cpus * comm_local_size() / threads, 1);
    measure_memory(cluster, &session->dev);
}

// Each rank with its partner on the other host: one of a host at first, then all, which tells how
// many cards they have.
static void measure_between(Cluster *cluster, Session *session) {
    Group *group = session->groups.expert_replicas;
    Link alone = {0}, together;
    if (comm_local_rank() == 0) alone = measure_link(group, &session->dev);
    barrier(comm_world());
    together = measure_link(group, &session->dev);
    double ranks = comm_local_size(), at_once = ranks * together.bandwidth;
    cluster->between = alone; // rank 0's
    cluster->between_links = (int64_t)fmin(fmax(round(at_once / alone.bandwidth), 1), ranks);
}

static void measure_links(Cluster *cluster, Session *session) {
    bool inside = group_size(session->groups.expert_parallel) == 2;
    bool between = group_size(session->groups.expert_replicas) == 2;
    cluster->between_links = 1;
    if (inside) cluster->inside = measure_link(session->groups.expert_parallel, &session->dev);
    if (between) measure_between(cluster, session);
    if (!inside && !between)
        cluster->inside = (Link){.latency = 1e-6, .gap = 1e-6, .bandwidth = cluster->memory / 2};
    if (!inside && between) cluster->inside = cluster->between;
    if (!between) cluster->between = cluster->inside;
    if (!inside)
        log_warn("messages inside a node are not measured, but taken as %s; start two ranks of a "
                 "host: mpirun -np 2",
                 between ? "those between nodes" : "copies of memory");
}

bool measure_cluster(Cluster *cluster, const TrainConfig *config, int64_t ranks, Error *err) {
    Session session = {0};
    TrainConfig measured = *config;
    bool one_host = comm_local_size() == comm_size();
    *cluster = (Cluster){.node_ranks = one_host ? ranks : comm_local_size()};
    measured.expert_parallel = comm_local_size() == 2 ? 2 : 1;
    bool ok = check_ranks(err) && session_open(&session, &measured, err);
    if (ok) measure_rank(cluster, &session, config);
    if (ok) measure_links(cluster, &session);
    session_close(&session);
    return ok;
}
