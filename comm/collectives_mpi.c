#include "comm/collectives_mpi.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "comm/group.h"
#include "comm/mpi_check.h"
#include "comm/reduction_tree.h"

// MPI counts are int: longer messages go in pieces of this many bytes.
enum { MESSAGE_BYTES = 1 << 30 };
// Exchanges of rows that are on their way together have different tags; MPI promises 32768 of them.
enum { TAG_TREE = 1, TAG_ROWS = 2, ROWS_TAGS = 1024 };

static MPI_Datatype mpi_type(DType dtype) {
    switch (dtype) {
    case F32:
        return MPI_FLOAT;
    case F64:
        return MPI_DOUBLE;
    case I32:
        return MPI_INT32_T;
    case I64:
        return MPI_INT64_T;
    case U8:
        return MPI_UINT8_T;
    case BF16:
        break; // rows of it travel as bytes
    case F16:
    case I8:
        break; // of weights alone
    }
    die(EXIT_BUG, __FILE__, __LINE__, "unknown dtype %d", (int)dtype);
}

// Bytes to one rank and from one at once, in as many pieces as the longest message between any two
// ranks needs.
static void pass_on(Group *group, int to, const char *send, size_t send_bytes, int from,
                    char *receive, size_t receive_bytes, size_t most) {
    for (size_t begin = 0; begin < most; begin += MESSAGE_BYTES) {
        size_t out = send_bytes < MESSAGE_BYTES ? send_bytes : MESSAGE_BYTES;
        size_t in = receive_bytes < MESSAGE_BYTES ? receive_bytes : MESSAGE_BYTES;
        MPI_CHECK(MPI_Sendrecv(send, (int)out, MPI_BYTE, to, TAG_TREE, receive, (int)in, MPI_BYTE,
                               from, TAG_TREE, group->comm, MPI_STATUS_IGNORE));
        send += out;
        receive += in;
        send_bytes -= out;
        receive_bytes -= in;
    }
}

// To and from one partner.
static void exchange(Group *group, int partner, const char *send, size_t send_bytes, char *receive,
                     size_t receive_bytes) {
    pass_on(group, partner, send, send_bytes, partner, receive, receive_bytes,
            send_bytes > receive_bytes ? send_bytes : receive_bytes);
}

static void add_elements(void *x, const void *y, int64_t count, DType dtype) {
#define ADD_AS(type)                                                                               \
    {                                                                                              \
        type *restrict a = x;                                                                      \
        const type *restrict b = y;                                                                \
        for (int64_t i = 0; i < count; i++) a[i] += b[i];                                          \
    }
    switch (dtype) {
    case F32:
        ADD_AS(float) break;
    case F64:
        ADD_AS(double) break;
    case I32:
        ADD_AS(int32_t) break;
    case I64:
        ADD_AS(int64_t) break;
    case U8:
    case BF16:
    case F16:
    case I8:
        die(EXIT_BUG, __FILE__, __LINE__, "no sum is defined for %s", dtype_name(dtype));
    }
#undef ADD_AS
}

// This rank's node `place` as it lies here.
static Tensor own_node(Tensor x, TreeShare share, int place) {
    return place == 0 ? x : share.others[place - 1];
}

// Each rank's slice of every node of the others, which come to scratch in their order.
static void give_slices(Group *group, Tensor x, TreeShare share, const TreeNodes *tree,
                        char **slices) {
    int size = group->size, rank = group->rank, own = tree->first[rank];
    int own_end = tree->first[rank + 1];
    Deal deal = deal_evenly(tensor_elements(x), size);
    size_t width = dtype_bytes(x.dtype), most = (size_t)deal.large * width;
    int64_t count = deal_count(deal, rank), waiting = 0;
    for (int node = 0; node < tree->count; node++)
        slices[node] = node >= own && node < own_end
                           ? element(own_node(x, share, node - own), deal_first(deal, rank))
                           : element(share.scratch, count * waiting++);
    for (int distance = 1; distance < size; distance++) {
        int to = (rank + distance) % size, from = (rank - distance + size) % size;
        int theirs = tree->first[from], nodes = tree->first[from + 1] - theirs;
        for (int i = 0; i < own_end - own || i < nodes; i++) {
            bool gives = i < own_end - own, takes = i < nodes;
            pass_on(group, gives ? to : MPI_PROC_NULL,
                    gives ? element(own_node(x, share, i), deal_first(deal, to)) : NULL,
                    gives ? (size_t)deal_count(deal, to) * width : 0, takes ? from : MPI_PROC_NULL,
                    takes ? slices[theirs + i] : NULL, takes ? (size_t)count * width : 0, most);
        }
    }
}

// By slices, for any number of ranks and nodes.
static void sum_by_slices(Group *group, Tensor x, TreeShare share) {
    int size = group->size, rank = group->rank;
    Deal deal = deal_evenly(tensor_elements(x), size);
    size_t width = dtype_bytes(x.dtype), most = (size_t)deal.large * width;
    int64_t own = deal_count(deal, rank);
    size_t own_bytes = (size_t)own * width;
    TreeNodes tree = tree_nodes(share.deal);
    char *slice = element(x, deal_first(deal, rank));
    char **slices = malloc((size_t)tree.count * sizeof *slices); // of each node, this rank's
    CHECK_MEMORY(slices, "no memory for the shares of %d ranks", size);
    give_slices(group, x, share, &tree, slices);
    for (int i = 0; i < tree.count - 1; i++)
        add_elements(slices[tree.merges[i].into], slices[tree.merges[i].from], own, x.dtype);
    if (rank != 0) memcpy(slice, slices[0], own_bytes);
    for (int distance = 1; distance < size; distance++) {
        int to = (rank + distance) % size, from = (rank - distance + size) % size;
        pass_on(group, to, slice, own_bytes, from, element(x, deal_first(deal, from)),
                (size_t)deal_count(deal, from) * width, most);
    }
    free(slices);
    tree_nodes_free(&tree);
}

static void sum_by_halving(Group *group, Tensor x, Tensor scratch) {
    TreeStep steps[MAX_TREE_STEPS];
    size_t width = dtype_bytes(x.dtype);
    int count = tree_steps(steps, group->rank, group->size, tensor_elements(x));
    for (int i = 0; i < count; i++) {
        TreeStep s = steps[i];
        exchange(group, s.partner, element(x, s.given), (size_t)s.given_count * width, scratch.data,
                 (size_t)s.kept_count * width);
        add_elements(element(x, s.kept), scratch.data, s.kept_count, x.dtype);
    }
    for (int i = count - 1; i >= 0; i--) {
        TreeStep s = steps[i];
        exchange(group, s.partner, element(x, s.kept), (size_t)s.kept_count * width,
                 element(x, s.given), (size_t)s.given_count * width);
    }
}

static int64_t mpi_tree_all_reduce(Group *group, Tensor x, TreeShare share, Pending *pending) {
    (void)pending; // done when it returns
    if (tree_halves(share.deal))
        sum_by_halving(group, x, share.scratch);
    else
        sum_by_slices(group, x, share);
    return tree_sent_elements(share.deal, group->rank, tensor_elements(x)) *
           (int64_t)dtype_bytes(x.dtype);
}

static int64_t mpi_all_reduce(Group *group, Tensor x, Pending *pending) {
    (void)pending; // done when it returns
    int64_t elements = tensor_elements(x), piece = MESSAGE_BYTES / (int64_t)dtype_bytes(x.dtype);
    for (int64_t i = 0; i < elements; i += piece) {
        int64_t n = elements - i < piece ? elements - i : piece;
        MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, element(x, i), (int)n, mpi_type(x.dtype), MPI_SUM,
                                group->comm));
    }
    return all_reduce_estimate(group->size, (int64_t)tensor_bytes(x));
}

int64_t mpi_all_reduce_max(Group *group, Tensor x) {
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, x.data, (int)tensor_elements(x), mpi_type(x.dtype),
                            MPI_MAX, group->comm));
    return all_reduce_estimate(group->size, (int64_t)tensor_bytes(x));
}

static int64_t mpi_reduce_scatter(Group *group, Tensor out, Tensor in) {
    int64_t n = tensor_elements(out);
    CHECK(n <= INT_MAX, "reduce_scatter_sum to %lld elements", (long long)n);
    MPI_CHECK(MPI_Reduce_scatter_block(in.data, out.data, (int)n, mpi_type(in.dtype), MPI_SUM,
                                       group->comm));
    return (int64_t)tensor_bytes(out) * (group->size - 1);
}

static int64_t mpi_all_gather(Group *group, Tensor out, Tensor in) {
    size_t bytes = tensor_bytes(in);
    for (size_t i = 0; i < bytes; i += MESSAGE_BYTES) {
        int n = (int)(bytes - i < MESSAGE_BYTES ? bytes - i : MESSAGE_BYTES);
        MPI_Datatype piece, apart; // a piece, and one whose next lies a whole block further
        MPI_CHECK(MPI_Type_contiguous(n, MPI_BYTE, &piece));
        MPI_CHECK(MPI_Type_create_resized(piece, 0, (MPI_Aint)bytes, &apart));
        MPI_CHECK(MPI_Type_commit(&apart));
        MPI_CHECK(MPI_Allgather((char *)in.data + i, n, MPI_BYTE, (char *)out.data + i, 1, apart,
                                group->comm));
        MPI_CHECK(MPI_Type_free(&apart));
        MPI_CHECK(MPI_Type_free(&piece));
    }
    return (int64_t)bytes * (group->size - 1);
}

int64_t mpi_broadcast_bytes(Group *group, void *data, size_t bytes, int root) {
    for (size_t i = 0; i < bytes; i += MESSAGE_BYTES) {
        size_t n = bytes - i < MESSAGE_BYTES ? bytes - i : MESSAGE_BYTES;
        MPI_CHECK(MPI_Bcast((char *)data + i, (int)n, MPI_BYTE, root, group->comm));
    }
    return group->rank == root ? (int64_t)bytes : 0;
}

static int64_t mpi_broadcast(Group *group, Tensor x, int root) {
    return mpi_broadcast_bytes(group, x.data, tensor_bytes(x), root);
}

void mpi_barrier(Group *group) {
    MPI_CHECK(MPI_Barrier(group->comm));
}

static int64_t mpi_all_to_all(Group *group, Tensor out, Tensor in) {
    int64_t n = tensor_elements(in) / group->size;
    MPI_CHECK(
        MPI_Alltoall(in.data, (int)n, MPI_INT32_T, out.data, (int)n, MPI_INT32_T, group->comm));
    return n * 4 * (group->size - 1);
}

static int free_exchange(const Group *group) {
    for (int i = 0; i < MAX_PENDING; i++)
        if (!group->exchanges[i].pending) return i;
    die(EXIT_COMMUNICATION, __FILE__, __LINE__,
        "%d exchanges are on their way already; wait for one before the next", MAX_PENDING);
}

// Pairwise: with partner distance 1, 2, … each rank sends to one and receives from another, so no
// rank is flooded; rows to oneself are a copy.
static int64_t mpi_all_to_all_rows(Group *group, Tensor out, RowRuns receive, Tensor in,
                                   RowRuns send, Pending *pending) {
    int slot = free_exchange(group);
    HostExchange *begun = &group->exchanges[slot];
    int tag = TAG_ROWS + (int)(group->begun++ % ROWS_TAGS);
    size_t row_bytes = (size_t)in.shape[1] * dtype_bytes(in.dtype);
    MPI_Datatype row;
    MPI_CHECK(MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &row));
    MPI_CHECK(MPI_Type_commit(&row));

    int posted = 0;
    int64_t sent = 0;
    for (int distance = 0; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        const char *source = (const char *)in.data + (size_t)run_first(send, to) * row_bytes;
        char *target = (char *)out.data + (size_t)run_first(receive, from) * row_bytes;
        if (distance == 0) {
            if (send.rows[to] > 0) memcpy(target, source, (size_t)send.rows[to] * row_bytes);
            continue;
        }
        CHECK(send.rows[to] <= INT_MAX && receive.rows[from] <= INT_MAX,
              "more than 2^31 rows between two ranks");
        if (receive.rows[from] > 0)
            MPI_CHECK(MPI_Irecv(target, (int)receive.rows[from], row, from, tag, group->comm,
                                &begun->requests[posted++]));
        if (send.rows[to] > 0)
            MPI_CHECK(MPI_Isend(source, (int)send.rows[to], row, to, tag, group->comm,
                                &begun->requests[posted++]));
        sent += send.rows[to] * (int64_t)row_bytes;
    }
    MPI_CHECK(MPI_Type_free(&row)); // messages on their way keep what they need of it
    begun->posted = posted;
    begun->pending = true;
    *pending = (Pending){.group = group, .place = ON_HOST, .slot = slot};
    return sent;
}

static void mpi_wait(Pending *pending) {
    HostExchange *done = &pending->group->exchanges[pending->slot];
    CHECK(done->pending, "an exchange is waited for twice");
    MPI_CHECK(MPI_Waitall(done->posted, done->requests, MPI_STATUSES_IGNORE));
    done->pending = false;
}

const Transport mpi_transport = {
    .tree_all_reduce = mpi_tree_all_reduce,
    .all_reduce = mpi_all_reduce,
    .reduce_scatter = mpi_reduce_scatter,
    .all_gather = mpi_all_gather,
    .broadcast = mpi_broadcast,
    .all_to_all = mpi_all_to_all,
    .all_to_all_rows = mpi_all_to_all_rows,
    .wait = mpi_wait,
};
