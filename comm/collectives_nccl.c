#include "comm/collectives_nccl.h"

#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>

#include "comm/flight_recorder.h"
#include "comm/group.h"
#include "comm/kind_seconds.h"
#include "comm/mpi_check.h"
#include "comm/reduction_tree.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/tree_cuda.h"

// One of a group's two ways: a communicator, and the stream that its collectives run on. Sums have
// their own, so that the sum of a layer's gradients does not stand before the tokens of the layer
// below it; no communicator is used on two streams.
//
// On every stream the collectives of all groups run in the order in which the program calls them,
// and the program calls all collectives in the same order on every rank: no two ranks wait for each
// other in different communicators. Kernels of the two streams may run at the same time; NCCL's
// take a small part of the multiprocessors, so that both find room.
typedef struct NcclWay {
    ncclComm_t comm; // NULL before its first use, and in a group of one
    cudaStream_t stream;
} NcclWay;

typedef struct NcclGroup {
    NcclWay exchange, sums;
    const CudaState *cuda;
    cudaEvent_t begin; // the compute stream where a collective was begun
    // The way's stream behind each collective on it. As many marks as were ever needed at once: a
    // step begins the sums of all layers' gradients before it waits for the first.
    struct Mark {
        cudaEvent_t done;
        bool pending;
    } * marks;
    int mark_count;
    struct NcclGroup *next; // in `open_groups`
} NcclGroup;

// Read by the thread that calls collectives_check.
static NcclGroup *open_groups;
static pthread_mutex_t open_groups_lock = PTHREAD_MUTEX_INITIALIZER;

// Ops that wait for a collective, on the compute stream: how long tells who holds others up. The
// events of one that has ended serve the next.
typedef struct Stall {
    cudaEvent_t begin, end;
    const char *kind; // of the collective's traffic
} Stall;
static struct {
    bool measured; // somebody asks
    Stall *of;     // (room), the first `pending` of them under way
    int room, pending;
    KindSeconds seconds;
} stalls;

MOETRAIN_NORETURN static void nccl_die(const char *file, int line, const char *call,
                                       ncclResult_t code, ncclComm_t comm) {
    const char *detail = ncclGetLastError(comm);
    die(EXIT_COMMUNICATION, file, line, "%s: %s%s%s", call, ncclGetErrorString(code),
        detail && detail[0] ? ": " : "", detail ? detail : "");
}

#define NCCL_CHECK(call, comm)                                                                     \
    do {                                                                                           \
        ncclResult_t nccl_code_ = (call);                                                          \
        if (nccl_code_ != ncclSuccess) nccl_die(__FILE__, __LINE__, #call, nccl_code_, comm);      \
    } while (0)

static NcclGroup *nccl_group(const Group *group) {
    return group->nccl;
}

static ncclDataType_t nccl_type(DType dtype) {
    switch (dtype) {
    case F32:
        return ncclFloat32;
    case F64:
        return ncclFloat64;
    case I32:
        return ncclInt32;
    case I64:
        return ncclInt64;
    case U8:
        return ncclUint8;
    case BF16:
        return ncclBfloat16;
    case F16:
    case I8:
        break; // of weights alone
    }
    die(EXIT_BUG, __FILE__, __LINE__, "unknown dtype %d", (int)dtype);
}

static void nccl_attach(Group *group, Device *dev) {
    NcclGroup *g = calloc(1, sizeof *g);
    CHECK_MEMORY(g, "no memory for a communicator");
    g->cuda = cuda_state(dev);
    g->exchange.stream = g->cuda->exchange;
    g->sums.stream = g->cuda->sums;
    CUDA_CHECK(cudaEventCreateWithFlags(&g->begin, cudaEventDisableTiming));
    group->nccl = g;
    pthread_mutex_lock(&open_groups_lock);
    g->next = open_groups;
    open_groups = g;
    pthread_mutex_unlock(&open_groups_lock);
}

// The way's communicator, made when it is first asked for: many groups need one way only.
// Collective over the group.
static ncclComm_t open_comm(const Group *group, NcclWay *way) {
    if (way->comm || group->size == 1) return way->comm;
    ncclUniqueId id = {0};
    ncclComm_t comm = NULL;
    if (group->rank == 0) NCCL_CHECK(ncclGetUniqueId(&id), NULL);
    MPI_CHECK(MPI_Bcast(&id, (int)sizeof id, MPI_BYTE, 0, group->comm));
    NCCL_CHECK(ncclCommInitRank(&comm, group->size, id, group->rank), NULL);
    pthread_mutex_lock(&open_groups_lock);
    way->comm = comm;
    pthread_mutex_unlock(&open_groups_lock);
    return comm;
}

static void free_stalls(void) {
    for (int i = 0; i < stalls.room; i++) {
        CUDA_CHECK(cudaEventDestroy(stalls.of[i].begin));
        CUDA_CHECK(cudaEventDestroy(stalls.of[i].end));
    }
    free(stalls.of);
    stalls.of = NULL;
    stalls.room = stalls.pending = 0;
}

static void nccl_detach(Group *group) {
    NcclGroup *g = nccl_group(group);
    CUDA_CHECK(cudaStreamSynchronize(g->cuda->exchange)); // still watched by collectives_check
    CUDA_CHECK(cudaStreamSynchronize(g->cuda->sums));
    pthread_mutex_lock(&open_groups_lock);
    NcclGroup **link = &open_groups;
    while (*link != g) link = &(*link)->next;
    *link = g->next;
    bool last = !open_groups;
    pthread_mutex_unlock(&open_groups_lock);
    if (last) free_stalls();
    const NcclWay ways[] = {g->exchange, g->sums};
    for (int i = 0; i < 2; i++)
        if (ways[i].comm) {
            NCCL_CHECK(ncclCommFinalize(ways[i].comm), ways[i].comm);
            NCCL_CHECK(ncclCommDestroy(ways[i].comm), NULL);
        }
    CUDA_CHECK(cudaEventDestroy(g->begin));
    for (int i = 0; i < g->mark_count; i++) {
        CHECK(!g->marks[i].pending,
              "a process group is closed before its collective is waited for");
        CUDA_CHECK(cudaEventDestroy(g->marks[i].done));
    }
    free(g->marks);
    free(g);
    group->nccl = NULL;
}

// Called by another thread than the one that communicates. Ends the process without the lock, which
// the other may want while it goes down.
static void nccl_check(void) {
    ncclComm_t failed = NULL;
    ncclResult_t failure = ncclSuccess;
    pthread_mutex_lock(&open_groups_lock);
    for (const NcclGroup *g = open_groups; g && !failed; g = g->next) {
        const ncclComm_t comms[] = {g->exchange.comm, g->sums.comm};
        for (int i = 0; i < 2 && !failed; i++) {
            if (!comms[i]) continue;
            ncclResult_t state = ncclSuccess, asked = ncclCommGetAsyncError(comms[i], &state);
            failure = asked != ncclSuccess ? asked : state;
            if (failure != ncclSuccess && failure != ncclInProgress) failed = comms[i];
        }
    }
    pthread_mutex_unlock(&open_groups_lock);
    if (failed) nccl_die(__FILE__, __LINE__, "a device collective under way", failure, failed);
}

// What is enqueued on the way's stream after this begins when the ops called so far are done.
static NcclWay way_begin(const Group *group, NcclWay *way) {
    const NcclGroup *g = nccl_group(group);
    open_comm(group, way);
    CUDA_CHECK(cudaEventRecord(g->begin, g->cuda->compute));
    CUDA_CHECK(cudaStreamWaitEvent(way->stream, g->begin, 0));
    return *way;
}
static NcclWay exchange_begin(const Group *group) {
    return way_begin(group, &nccl_group(group)->exchange);
}
static NcclWay sum_begin(const Group *group) {
    return way_begin(group, &nccl_group(group)->sums);
}

// Marks the end of what was enqueued since: each collective has its own mark, so that waiting for
// the first of two does not wait for the second.
static Pending way_end(Group *group, NcclWay way) {
    NcclGroup *g = nccl_group(group);
    int slot = 0;
    while (slot < g->mark_count && g->marks[slot].pending) slot++;
    if (slot == g->mark_count) {
        g->marks = realloc(g->marks, (size_t)++g->mark_count * sizeof *g->marks);
        CHECK_MEMORY(g->marks, "no memory for %d collectives on their way", g->mark_count);
        CUDA_CHECK(cudaEventCreateWithFlags(&g->marks[slot].done, cudaEventDisableTiming));
    }
    CUDA_CHECK(cudaEventRecord(g->marks[slot].done, way.stream));
    g->marks[slot].pending = true;
    return (Pending){.group = group, .place = ON_DEVICE, .slot = slot};
}

static Stall *next_stall(int64_t flight) {
    if (stalls.pending == stalls.room) {
        stalls.of = realloc(stalls.of, (size_t)++stalls.room * sizeof *stalls.of);
        CHECK_MEMORY(stalls.of, "no memory for %d waits", stalls.room);
        CUDA_CHECK(cudaEventCreate(&stalls.of[stalls.pending].begin));
        CUDA_CHECK(cudaEventCreate(&stalls.of[stalls.pending].end));
    }
    FlightRecord record;
    bool known = flight_recorder_find(flight, &record);
    stalls.of[stalls.pending].kind = known ? record.kind : NULL;
    return &stalls.of[stalls.pending++];
}

static double nccl_waited_seconds(const char *kind) {
    int pending = stalls.pending;
    stalls.measured = true;
    stalls.pending = 0;
    for (int i = 0; i < pending; i++) {
        Stall stall = stalls.of[i];
        float milliseconds = 0;
        cudaError_t ended = cudaEventQuery(stall.end);
        if (ended == cudaErrorNotReady) {
            (void)cudaGetLastError(); // no failure
            stalls.of[i] = stalls.of[stalls.pending];
            stalls.of[stalls.pending++] = stall;
            continue;
        }
        CUDA_CHECK(ended);
        CUDA_CHECK(cudaEventElapsedTime(&milliseconds, stall.begin, stall.end));
        kind_seconds_add(&stalls.seconds, stall.kind, 1e-3 * milliseconds);
    }
    return kind_seconds_of(&stalls.seconds, kind);
}

static void nccl_wait(Pending *pending) {
    NcclGroup *g = nccl_group(pending->group);
    struct Mark *mark = &g->marks[pending->slot];
    CHECK(mark->pending, "a collective is waited for twice");
    // One that is waited for at once has not been told its number yet: it is the last.
    int64_t flight = pending->flight > 0 ? pending->flight : flight_recorder_last();
    Stall *stall = stalls.measured ? next_stall(flight) : NULL;
    if (stall) CUDA_CHECK(cudaEventRecord(stall->begin, g->cuda->compute));
    CUDA_CHECK(cudaStreamWaitEvent(g->cuda->compute, mark->done, 0));
    if (stall) CUDA_CHECK(cudaEventRecord(stall->end, g->cuda->compute));
    mark->pending = false;
}

static void way_finish(Group *group, NcclWay way) {
    Pending pending = way_end(group, way);
    nccl_wait(&pending);
}

// Elements to and from one partner at once.
static void send_receive(NcclWay way, int partner, Tensor x, int64_t send, int64_t send_count,
                         void *receive, int64_t receive_count) {
    ncclDataType_t type = nccl_type(x.dtype);
    NCCL_CHECK(ncclGroupStart(), way.comm);
    if (send_count > 0)
        NCCL_CHECK(
            ncclSend(element(x, send), (size_t)send_count, type, partner, way.comm, way.stream),
            way.comm);
    if (receive_count > 0)
        NCCL_CHECK(ncclRecv(receive, (size_t)receive_count, type, partner, way.comm, way.stream),
                   way.comm);
    NCCL_CHECK(ncclGroupEnd(), way.comm);
}

// Every rank's slice of each of this one's nodes to it, and this rank's slice of theirs to where
// `slices` says.
static void give_slices(const Group *group, NcclWay way, Tensor x, TreeShare share,
                        const TreeNodes *tree, char **slices) {
    ncclDataType_t type = nccl_type(x.dtype);
    Deal deal = deal_evenly(tensor_elements(x), group->size);
    int64_t own = deal_count(deal, group->rank);
    int nodes = tree->first[group->rank + 1] - tree->first[group->rank];
    NCCL_CHECK(ncclGroupStart(), way.comm);
    for (int distance = 1; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        int64_t first = deal_first(deal, to), count = deal_count(deal, to);
        for (int i = 0; i < nodes && count > 0; i++)
            NCCL_CHECK(ncclSend(element(i == 0 ? x : share.others[i - 1], first), (size_t)count,
                                type, to, way.comm, way.stream),
                       way.comm);
        for (int i = tree->first[from]; i < tree->first[from + 1] && own > 0; i++)
            NCCL_CHECK(ncclRecv(slices[i], (size_t)own, type, from, way.comm, way.stream),
                       way.comm);
    }
    NCCL_CHECK(ncclGroupEnd(), way.comm);
}

// This rank's slice of x to every other rank, and theirs.
static void gather_slices(const Group *group, NcclWay way, Tensor x, Deal slices) {
    ncclDataType_t type = nccl_type(x.dtype);
    int64_t own = deal_count(slices, group->rank);
    NCCL_CHECK(ncclGroupStart(), way.comm);
    for (int distance = 1; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        int64_t count = deal_count(slices, from);
        if (own > 0)
            NCCL_CHECK(ncclSend(element(x, deal_first(slices, group->rank)), (size_t)own, type, to,
                                way.comm, way.stream),
                       way.comm);
        if (count > 0)
            NCCL_CHECK(ncclRecv(element(x, deal_first(slices, from)), (size_t)count, type, from,
                                way.comm, way.stream),
                       way.comm);
    }
    NCCL_CHECK(ncclGroupEnd(), way.comm);
}

// By slices, for any number of ranks and nodes.
static void sum_by_slices(const Group *group, NcclWay way, Tensor x, TreeShare share) {
    Deal deal = deal_evenly(tensor_elements(x), group->size);
    int64_t first = deal_first(deal, group->rank), own = deal_count(deal, group->rank), waiting = 0;
    TreeNodes tree = tree_nodes(share.deal);
    char **slices = malloc((size_t)tree.count * sizeof *slices); // of each node, this rank's
    CHECK_MEMORY(slices, "no memory for the sums of %d ranks", group->size);
    for (int node = 0; node < tree.count; node++) {
        int place = node - tree.first[group->rank];
        bool here = place >= 0 && node < tree.first[group->rank + 1];
        slices[node] = !here        ? element(share.scratch, own * waiting++)
                       : place == 0 ? element(x, first)
                                    : element(share.others[place - 1], first);
    }
    give_slices(group, way, x, share, &tree, slices);
    for (int i = 0; i < tree.count - 1 && own > 0; i++)
        tree_add_cuda(slices[tree.merges[i].into], slices[tree.merges[i].from], own, x.dtype,
                      way.stream);
    if (group->rank != 0 && own > 0)
        CUDA_CHECK(cudaMemcpyAsync(element(x, first), slices[0], (size_t)own * dtype_bytes(x.dtype),
                                   cudaMemcpyDeviceToDevice, way.stream));
    gather_slices(group, way, x, deal);
    free(slices);
    tree_nodes_free(&tree);
}

static void sum_by_halving(const Group *group, NcclWay way, Tensor x, Tensor scratch) {
    TreeStep steps[MAX_TREE_STEPS];
    int count = tree_steps(steps, group->rank, group->size, tensor_elements(x));
    for (int i = 0; i < count; i++) {
        TreeStep s = steps[i];
        send_receive(way, s.partner, x, s.given, s.given_count, scratch.data, s.kept_count);
        tree_add_cuda(element(x, s.kept), scratch.data, s.kept_count, x.dtype, way.stream);
    }
    for (int i = count - 1; i >= 0; i--) {
        TreeStep s = steps[i];
        send_receive(way, s.partner, x, s.kept, s.kept_count, element(x, s.given), s.given_count);
    }
}

static int64_t nccl_tree_all_reduce(Group *group, Tensor x, TreeShare share, Pending *pending) {
    NcclWay way = sum_begin(group);
    if (tree_halves(share.deal))
        sum_by_halving(group, way, x, share.scratch);
    else
        sum_by_slices(group, way, x, share);
    *pending = way_end(group, way);
    return tree_sent_elements(share.deal, group->rank, tensor_elements(x)) *
           (int64_t)dtype_bytes(x.dtype);
}

static int64_t nccl_all_reduce(Group *group, Tensor x, Pending *pending) {
    NcclWay way = sum_begin(group);
    NCCL_CHECK(ncclAllReduce(x.data, x.data, (size_t)tensor_elements(x), nccl_type(x.dtype),
                             ncclSum, way.comm, way.stream),
               way.comm);
    *pending = way_end(group, way);
    return all_reduce_estimate(group->size, (int64_t)tensor_bytes(x));
}

// In a group of one every exchange is a copy, which needs no other stream.
static void copy_alone(const Group *group, void *out, const void *in, size_t bytes) {
    if (out != in && bytes > 0)
        CUDA_CHECK(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice,
                                   nccl_group(group)->cuda->compute));
}

static int64_t nccl_reduce_scatter(Group *group, Tensor out, Tensor in) {
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(out));
        return 0;
    }
    NcclWay way = sum_begin(group);
    NCCL_CHECK(ncclReduceScatter(in.data, out.data, (size_t)tensor_elements(out),
                                 nccl_type(in.dtype), ncclSum, way.comm, way.stream),
               way.comm);
    way_finish(group, way);
    return (int64_t)tensor_bytes(out) * (group->size - 1);
}

static int64_t nccl_all_gather(Group *group, Tensor out, Tensor in) {
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(in));
        return 0;
    }
    NcclWay way = exchange_begin(group);
    NCCL_CHECK(ncclAllGather(in.data, out.data, (size_t)tensor_elements(in), nccl_type(in.dtype),
                             way.comm, way.stream),
               way.comm);
    way_finish(group, way);
    return (int64_t)tensor_bytes(in) * (group->size - 1);
}

static int64_t nccl_broadcast(Group *group, Tensor x, int root) {
    NcclWay way = exchange_begin(group);
    NCCL_CHECK(ncclBroadcast(x.data, x.data, (size_t)tensor_elements(x), nccl_type(x.dtype), root,
                             way.comm, way.stream),
               way.comm);
    way_finish(group, way);
    return group->rank == root ? (int64_t)tensor_bytes(x) : 0;
}

// Every count is read here, by the host, so that runs of no rows are skipped by both sides. The
// rank's own run is copied last: before the others it would make them wait until the device has
// room for a copy.
static void exchange_runs(const Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                          NcclWay way) {
    int64_t D = in.shape[1];
    ncclDataType_t type = nccl_type(in.dtype);
    int own = group->rank;
    NCCL_CHECK(ncclGroupStart(), way.comm);
    for (int distance = 1; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        if (send.rows[to] > 0)
            NCCL_CHECK(ncclSend(element(in, run_first(send, to) * D), (size_t)(send.rows[to] * D),
                                type, to, way.comm, way.stream),
                       way.comm);
        if (receive.rows[from] > 0)
            NCCL_CHECK(ncclRecv(element(out, run_first(receive, from) * D),
                                (size_t)(receive.rows[from] * D), type, from, way.comm, way.stream),
                       way.comm);
    }
    NCCL_CHECK(ncclGroupEnd(), way.comm);
    if (send.rows[own] > 0)
        CUDA_CHECK(cudaMemcpyAsync(element(out, run_first(receive, own) * D),
                                   element(in, run_first(send, own) * D),
                                   (size_t)(send.rows[own] * D) * dtype_bytes(in.dtype),
                                   cudaMemcpyDeviceToDevice, way.stream));
}

// `rows` rows from every rank to every rank: one call of the libraries that have it (2.28).
static void exchange_equal(const Group *group, Tensor out, Tensor in, int64_t rows, NcclWay way) {
#if NCCL_VERSION_CODE >= 22800
    (void)group;
    NCCL_CHECK(ncclAlltoAll(in.data, out.data, (size_t)(rows * in.shape[1]), nccl_type(in.dtype),
                            way.comm, way.stream),
               way.comm);
#else
    int64_t *counts = malloc((size_t)group->size * sizeof *counts);
    CHECK_MEMORY(counts, "no memory for the counts of %d ranks", group->size);
    for (int p = 0; p < group->size; p++) counts[p] = rows;
    exchange_runs(group, out, (RowRuns){counts, NULL}, in, (RowRuns){counts, NULL}, way);
    free(counts);
#endif
}

static int64_t nccl_all_to_all(Group *group, Tensor out, Tensor in) {
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(in));
        return 0;
    }
    int64_t block = tensor_elements(in) / group->size;
    Tensor from = tensor_reshape_2d(in, group->size, block);
    Tensor to = tensor_reshape_2d(out, group->size, block);
    NcclWay way = exchange_begin(group);
    exchange_equal(group, to, from, 1, way);
    way_finish(group, way);
    return (int64_t)tensor_bytes(in) / group->size * (group->size - 1);
}

static int64_t nccl_all_to_all_rows(Group *group, Tensor out, RowRuns receive, Tensor in,
                                    RowRuns send, Pending *pending) {
    int64_t D = in.shape[1], sent = 0;
    for (int p = 0; p < group->size; p++) sent += p == group->rank ? 0 : send.rows[p];
    // Asked for by the form of the call and not found in the counts: all ranks must take the same
    // branch, and one rank's counts can be equal by chance.
    bool padded = send.rows == receive.rows && !send.first && !receive.first;
    NcclWay way = exchange_begin(group);
    if (!padded || group->size == 1)
        exchange_runs(group, out, receive, in, send, way);
    else if (send.rows[0] > 0)
        exchange_equal(group, out, in, send.rows[0], way);
    *pending = way_end(group, way);
    return sent * D * (int64_t)dtype_bytes(in.dtype);
}

const Transport nccl_transport = {
    .tree_all_reduce = nccl_tree_all_reduce,
    .all_reduce = nccl_all_reduce,
    .reduce_scatter = nccl_reduce_scatter,
    .all_gather = nccl_all_gather,
    .broadcast = nccl_broadcast,
    .all_to_all = nccl_all_to_all,
    .all_to_all_rows = nccl_all_to_all_rows,
    .wait = nccl_wait,
    .attach = nccl_attach,
    .detach = nccl_detach,
    .check = nccl_check,
    .waited_seconds = nccl_waited_seconds,
};
