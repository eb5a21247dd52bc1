#include "comm/collectives_nccl.h"

#include <nccl.h>
#include <pthread.h>
#include <stdlib.h>

#include "comm/group.h"
#include "comm/mpi_check.h"
#include "comm/reduction_tree.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/tree_cuda.h"

// All groups share the device's exchange stream, so their collectives run in the order in which the program calls them: the
// same on every rank, hence no two ranks can wait for each other in different communicators.
typedef struct NcclGroup {
    const CudaState *cuda;
    ncclComm_t comm;   // NULL in a group of one
    cudaEvent_t begin; // the compute stream where a collective was begun
    // The exchange stream behind each collective on its way. As many marks as were ever needed at once: a step begins the sums of
    // all layers' gradients before it waits for the first.
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
    }
    die(EXIT_BUG, __FILE__, __LINE__, "unknown dtype %d", (int)dtype);
}

static char *element(Tensor x, int64_t index) {
    return (char *)x.data + (size_t)index * dtype_bytes(x.dtype);
}

static void nccl_attach(Group *group, Device *dev) {
    NcclGroup *g = calloc(1, sizeof *g);
    CHECK_MEMORY(g, "no memory for a communicator");
    g->cuda = cuda_state(dev);
    CUDA_CHECK(cudaEventCreateWithFlags(&g->begin, cudaEventDisableTiming));
    if (group->size > 1) {
        ncclUniqueId id = {0};
        if (group->rank == 0) NCCL_CHECK(ncclGetUniqueId(&id), NULL);
        MPI_CHECK(MPI_Bcast(&id, (int)sizeof id, MPI_BYTE, 0, group->comm));
        NCCL_CHECK(ncclCommInitRank(&g->comm, group->size, id, group->rank), NULL);
    }
    group->nccl = g;
    pthread_mutex_lock(&open_groups_lock);
    g->next = open_groups;
    open_groups = g;
    pthread_mutex_unlock(&open_groups_lock);
}

static void nccl_detach(Group *group) {
    NcclGroup *g = nccl_group(group);
    CUDA_CHECK(cudaStreamSynchronize(g->cuda->exchange)); // still watched by collectives_check
    pthread_mutex_lock(&open_groups_lock);
    NcclGroup **link = &open_groups;
    while (*link != g) link = &(*link)->next;
    *link = g->next;
    pthread_mutex_unlock(&open_groups_lock);
    if (g->comm) {
        NCCL_CHECK(ncclCommFinalize(g->comm), g->comm);
        NCCL_CHECK(ncclCommDestroy(g->comm), NULL);
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

static void nccl_check(void) {
    pthread_mutex_lock(&open_groups_lock);
    for (const NcclGroup *g = open_groups; g; g = g->next) {
        ncclResult_t state = ncclSuccess;
        if (g->comm) NCCL_CHECK(ncclCommGetAsyncError(g->comm, &state), g->comm);
        if (state != ncclSuccess && state != ncclInProgress)
            nccl_die(__FILE__, __LINE__, "a device collective under way", state, g->comm);
    }
    pthread_mutex_unlock(&open_groups_lock);
}

// What is enqueued on the exchange stream after this begins when the ops called so far are done.
static cudaStream_t exchange_begin(const Group *group) {
    const NcclGroup *g = nccl_group(group);
    CUDA_CHECK(cudaEventRecord(g->begin, g->cuda->compute));
    CUDA_CHECK(cudaStreamWaitEvent(g->cuda->exchange, g->begin, 0));
    return g->cuda->exchange;
}

// Marks the end of what was enqueued since: each collective has its own mark, so that waiting for the first of two does not
// wait for the second.
static Pending exchange_end(Group *group) {
    NcclGroup *g = nccl_group(group);
    int slot = 0;
    while (slot < g->mark_count && g->marks[slot].pending) slot++;
    if (slot == g->mark_count) {
        g->marks = realloc(g->marks, (size_t)++g->mark_count * sizeof *g->marks);
        CHECK_MEMORY(g->marks, "no memory for %d collectives on their way", g->mark_count);
        CUDA_CHECK(cudaEventCreateWithFlags(&g->marks[slot].done, cudaEventDisableTiming));
    }
    CUDA_CHECK(cudaEventRecord(g->marks[slot].done, g->cuda->exchange));
    g->marks[slot].pending = true;
    return (Pending){group, ON_DEVICE, slot};
}

static void nccl_wait(Pending *pending) {
    NcclGroup *g = nccl_group(pending->group);
    struct Mark *mark = &g->marks[pending->slot];
    CHECK(mark->pending, "a collective is waited for twice");
    CUDA_CHECK(cudaStreamWaitEvent(g->cuda->compute, mark->done, 0));
    mark->pending = false;
}

static void exchange_finish(Group *group) {
    Pending pending = exchange_end(group);
    nccl_wait(&pending);
}

// Elements to and from one partner at once.
static void send_receive(const NcclGroup *g, int partner, Tensor x, int64_t send,
                         int64_t send_count, void *receive, int64_t receive_count) {
    ncclDataType_t type = nccl_type(x.dtype);
    NCCL_CHECK(ncclGroupStart(), g->comm);
    if (send_count > 0)
        NCCL_CHECK(ncclSend(element(x, send), (size_t)send_count, type, partner, g->comm,
                            g->cuda->exchange),
                   g->comm);
    if (receive_count > 0)
        NCCL_CHECK(
            ncclRecv(receive, (size_t)receive_count, type, partner, g->comm, g->cuda->exchange),
            g->comm);
    NCCL_CHECK(ncclGroupEnd(), g->comm);
}

static int64_t nccl_tree_all_reduce(Group *group, Tensor x, Tensor scratch, Pending *pending) {
    const NcclGroup *g = nccl_group(group);
    TreeStep steps[MAX_TREE_STEPS];
    int count = tree_steps(steps, group->rank, group->size, tensor_elements(x));
    cudaStream_t stream = exchange_begin(group);
    for (int i = 0; i < count; i++) {
        TreeStep s = steps[i];
        send_receive(g, s.partner, x, s.given, s.given_count, scratch.data, s.kept_count);
        tree_add_cuda(element(x, s.kept), scratch.data, s.kept_count, x.dtype, stream);
    }
    for (int i = count - 1; i >= 0; i--) {
        TreeStep s = steps[i];
        send_receive(g, s.partner, x, s.kept, s.kept_count, element(x, s.given), s.given_count);
    }
    *pending = exchange_end(group);
    return tree_sent_elements(steps, count) * (int64_t)dtype_bytes(x.dtype);
}

static int64_t nccl_all_reduce(Group *group, Tensor x, Pending *pending) {
    const NcclGroup *g = nccl_group(group);
    cudaStream_t stream = exchange_begin(group);
    NCCL_CHECK(ncclAllReduce(x.data, x.data, (size_t)tensor_elements(x), nccl_type(x.dtype),
                             ncclSum, g->comm, stream),
               g->comm);
    *pending = exchange_end(group);
    return all_reduce_estimate(group, x);
}

// In a group of one every exchange is a copy, which needs no other stream.
static void copy_alone(const Group *group, void *out, const void *in, size_t bytes) {
    if (out != in && bytes > 0)
        CUDA_CHECK(cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice,
                                   nccl_group(group)->cuda->compute));
}

static int64_t nccl_reduce_scatter(Group *group, Tensor out, Tensor in) {
    const NcclGroup *g = nccl_group(group);
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(out));
        return 0;
    }
    cudaStream_t stream = exchange_begin(group);
    NCCL_CHECK(ncclReduceScatter(in.data, out.data, (size_t)tensor_elements(out),
                                 nccl_type(in.dtype), ncclSum, g->comm, stream),
               g->comm);
    exchange_finish(group);
    return (int64_t)tensor_bytes(out) * (group->size - 1);
}

static int64_t nccl_all_gather(Group *group, Tensor out, Tensor in) {
    const NcclGroup *g = nccl_group(group);
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(in));
        return 0;
    }
    cudaStream_t stream = exchange_begin(group);
    NCCL_CHECK(ncclAllGather(in.data, out.data, (size_t)tensor_elements(in), nccl_type(in.dtype),
                             g->comm, stream),
               g->comm);
    exchange_finish(group);
    return (int64_t)tensor_bytes(in) * (group->size - 1);
}

static int64_t nccl_broadcast(Group *group, Tensor x, int root) {
    const NcclGroup *g = nccl_group(group);
    cudaStream_t stream = exchange_begin(group);
    NCCL_CHECK(ncclBroadcast(x.data, x.data, (size_t)tensor_elements(x), nccl_type(x.dtype), root,
                             g->comm, stream),
               g->comm);
    exchange_finish(group);
    return group->rank == root ? (int64_t)tensor_bytes(x) : 0;
}

static int64_t nccl_all_to_all(Group *group, Tensor out, Tensor in) {
    const NcclGroup *g = nccl_group(group);
    if (group->size == 1) {
        copy_alone(group, out.data, in.data, tensor_bytes(in));
        return 0;
    }
    cudaStream_t stream = exchange_begin(group);
    NCCL_CHECK(ncclAlltoAll(in.data, out.data, (size_t)(tensor_elements(in) / group->size),
                            nccl_type(in.dtype), g->comm, stream),
               g->comm);
    exchange_finish(group);
    return (int64_t)tensor_bytes(in) / group->size * (group->size - 1);
}

// Every count is read here, by the host, so that runs of no rows are skipped by both sides.
static void exchange_runs(const Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                          cudaStream_t stream) {
    const NcclGroup *g = nccl_group(group);
    int64_t D = in.shape[1];
    ncclDataType_t type = nccl_type(in.dtype);
    int own = group->rank;
    if (send.rows[own] > 0)
        CUDA_CHECK(cudaMemcpyAsync(element(out, run_first(receive, own) * D),
                                   element(in, run_first(send, own) * D),
                                   (size_t)(send.rows[own] * D) * dtype_bytes(in.dtype),
                                   cudaMemcpyDeviceToDevice, stream));
    NCCL_CHECK(ncclGroupStart(), g->comm);
    for (int distance = 1; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        if (send.rows[to] > 0)
            NCCL_CHECK(ncclSend(element(in, run_first(send, to) * D), (size_t)(send.rows[to] * D),
                                type, to, g->comm, stream),
                       g->comm);
        if (receive.rows[from] > 0)
            NCCL_CHECK(ncclRecv(element(out, run_first(receive, from) * D),
                                (size_t)(receive.rows[from] * D), type, from, g->comm, stream),
                       g->comm);
    }
    NCCL_CHECK(ncclGroupEnd(), g->comm);
}

static int64_t nccl_all_to_all_rows(Group *group, Tensor out, RowRuns receive, Tensor in,
                                    RowRuns send, Pending *pending) {
    const NcclGroup *g = nccl_group(group);
    int64_t D = in.shape[1], sent = 0;
    for (int p = 0; p < group->size; p++) sent += p == group->rank ? 0 : send.rows[p];
    // Asked for by the form of the call and not found in the counts: all ranks must take the same branch, and one rank's
    // counts can be equal by chance.
    bool padded = send.rows == receive.rows && !send.first && !receive.first;
    cudaStream_t stream = exchange_begin(group);
    if (!padded || group->size == 1)
        exchange_runs(group, out, receive, in, send, stream);
    else if (send.rows[0] > 0)
        NCCL_CHECK(ncclAlltoAll(in.data, out.data, (size_t)(send.rows[0] * D), nccl_type(in.dtype),
                                g->comm, stream),
                   g->comm);
    *pending = exchange_end(group);
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
};
