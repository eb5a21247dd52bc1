#include "comm/collectives_mpi.h"

#include <limits.h>
#include <string.h>

#include "comm/group.h"
#include "comm/mpi_check.h"

// MPI counts are int: longer messages go in pieces of this many bytes.
enum { MESSAGE_BYTES = 1 << 30, TAG_TREE = 1, TAG_ROWS = 2 };

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
    }
    die(EXIT_COMMUNICATION, __FILE__, __LINE__, "unknown dtype %d", (int)dtype);
}

static char *element(Tensor x, int64_t index) {
    return (char *)x.data + (size_t)index * dtype_bytes(x.dtype);
}

// Bytes to and from one partner at once, in pieces that both sides cut alike.
static void exchange(Group *group, int partner, const char *send, size_t send_bytes, char *receive,
                     size_t receive_bytes) {
    while (send_bytes > 0 || receive_bytes > 0) {
        size_t out = send_bytes < MESSAGE_BYTES ? send_bytes : MESSAGE_BYTES;
        size_t in = receive_bytes < MESSAGE_BYTES ? receive_bytes : MESSAGE_BYTES;
        MPI_CHECK(MPI_Sendrecv(send, (int)out, MPI_BYTE, partner, TAG_TREE, receive, (int)in,
                               MPI_BYTE, partner, TAG_TREE, group->comm, MPI_STATUS_IGNORE));
        send += out;
        receive += in;
        send_bytes -= out;
        receive_bytes -= in;
    }
}

static void add_elements(Tensor x, int64_t first, Tensor y, int64_t count) {
#define ADD_AS(type)                                                                               \
    {                                                                                              \
        type *restrict a = (type *)(void *)element(x, first);                                      \
        const type *restrict b = y.data;                                                           \
        for (int64_t i = 0; i < count; i++) a[i] += b[i];                                          \
    }
    switch (x.dtype) {
    case F32:
        ADD_AS(float) break;
    case F64:
        ADD_AS(double) break;
    case I32:
        ADD_AS(int32_t) break;
    case I64:
        ADD_AS(int64_t) break;
    case U8:
        die(EXIT_COMMUNICATION, __FILE__, __LINE__, "a sum of bytes is not meant");
    }
#undef ADD_AS
}

// Recursive halving with neighbour distance 1, 2, 4, …, then doubling back. After distance d every element of a
// kept range is the sum over an aligned block of 2d ranks, added as (lower half) + (upper half): exactly the
// binary tree that one rank would have summed over its shards. Addition of two numbers commutes, so both
// partners get the same bits. (Reduce-scatter and all-gather of Rabenseifner, 2004.)
int64_t mpi_tree_all_reduce(Group *group, Tensor x, Tensor scratch) {
    int64_t first[32], count[32], sent = 0; // the range kept after each distance
    size_t width = dtype_bytes(x.dtype);
    int level = 0;
    first[0] = 0;
    count[0] = tensor_elements(x);
    for (int distance = 1; distance < group->size; distance *= 2, level++) {
        int64_t lower = (count[level] + 1) / 2, upper = count[level] - lower;
        bool keeps_lower = (group->rank & distance) == 0;
        first[level + 1] = keeps_lower ? first[level] : first[level] + lower;
        count[level + 1] = keeps_lower ? lower : upper;
        int64_t given = keeps_lower ? first[level] + lower : first[level];
        int64_t given_count = keeps_lower ? upper : lower;
        exchange(group, group->rank ^ distance, element(x, given), (size_t)given_count * width,
                 scratch.data, (size_t)count[level + 1] * width);
        add_elements(x, first[level + 1], scratch, count[level + 1]);
        sent += given_count;
    }
    for (int distance = group->size / 2; distance >= 1; distance /= 2, level--) {
        int64_t kept = first[level], kept_count = count[level];
        bool keeps_lower = (group->rank & distance) == 0;
        int64_t other = keeps_lower ? kept + kept_count : first[level - 1];
        int64_t other_count = count[level - 1] - kept_count;
        exchange(group, group->rank ^ distance, element(x, kept), (size_t)kept_count * width,
                 element(x, other), (size_t)other_count * width);
        sent += kept_count;
    }
    return sent * (int64_t)width;
}

// What a ring or halving algorithm sends at best; the library does not tell what it really does.
static int64_t all_reduce_estimate(Group *group, Tensor x) {
    return 2 * (int64_t)tensor_bytes(x) * (group->size - 1) / group->size;
}

int64_t mpi_all_reduce(Group *group, Tensor x) {
    int64_t elements = tensor_elements(x), piece = MESSAGE_BYTES / (int64_t)dtype_bytes(x.dtype);
    for (int64_t i = 0; i < elements; i += piece) {
        int64_t n = elements - i < piece ? elements - i : piece;
        MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, element(x, i), (int)n, mpi_type(x.dtype), MPI_SUM,
                                group->comm));
    }
    return all_reduce_estimate(group, x);
}

int64_t mpi_all_reduce_max(Group *group, Tensor x) {
    MPI_CHECK(MPI_Allreduce(MPI_IN_PLACE, x.data, (int)tensor_elements(x), mpi_type(x.dtype),
                            MPI_MAX, group->comm));
    return all_reduce_estimate(group, x);
}

int64_t mpi_all_gather(Group *group, Tensor out, Tensor in) {
    int n = (int)tensor_bytes(in);
    CHECK(tensor_bytes(in) <= INT_MAX, "all_gather of %zu bytes", tensor_bytes(in));
    MPI_CHECK(MPI_Allgather(in.data, n, MPI_BYTE, out.data, n, MPI_BYTE, group->comm));
    return (int64_t)n * (group->size - 1);
}

int64_t mpi_broadcast(Group *group, void *data, size_t bytes, int root) {
    for (size_t i = 0; i < bytes; i += MESSAGE_BYTES) {
        size_t n = bytes - i < MESSAGE_BYTES ? bytes - i : MESSAGE_BYTES;
        MPI_CHECK(MPI_Bcast((char *)data + i, (int)n, MPI_BYTE, root, group->comm));
    }
    return group->rank == root ? (int64_t)bytes : 0;
}

void mpi_barrier(Group *group) {
    MPI_CHECK(MPI_Barrier(group->comm));
}

int64_t mpi_all_to_all(Group *group, Tensor out, Tensor in, int64_t n) {
    MPI_CHECK(
        MPI_Alltoall(in.data, (int)n, MPI_INT32_T, out.data, (int)n, MPI_INT32_T, group->comm));
    return n * 4 * (group->size - 1);
}

// Pairwise: with partner distance 1, 2, … each rank sends to one and receives from another, so no rank is flooded;
// rows to oneself are a copy.
int64_t mpi_all_to_all_rows(Group *group, Tensor out, const int64_t *receive_rows, Tensor in,
                            const int64_t *send_rows) {
    enum { MAX_IN_FLIGHT = 64 };
    size_t row_bytes = (size_t)in.shape[1] * dtype_bytes(in.dtype);
    MPI_Datatype row;
    MPI_CHECK(MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &row));
    MPI_CHECK(MPI_Type_commit(&row));

    MPI_Request requests[MAX_IN_FLIGHT];
    int in_flight = 0;
    int64_t sent = 0;
    for (int distance = 0; distance < group->size; distance++) {
        int to = (group->rank + distance) % group->size;
        int from = (group->rank - distance + group->size) % group->size;
        int64_t send_first = 0, receive_first = 0;
        for (int p = 0; p < to; p++) send_first += send_rows[p];
        for (int p = 0; p < from; p++) receive_first += receive_rows[p];
        const char *source = (const char *)in.data + (size_t)send_first * row_bytes;
        char *target = (char *)out.data + (size_t)receive_first * row_bytes;
        if (distance == 0) {
            CHECK(send_rows[to] == receive_rows[from], "%lld rows to oneself, %lld expected",
                  (long long)send_rows[to], (long long)receive_rows[from]);
            if (send_rows[to] > 0) memcpy(target, source, (size_t)send_rows[to] * row_bytes);
            continue;
        }
        CHECK(send_rows[to] <= INT_MAX && receive_rows[from] <= INT_MAX,
              "more than 2^31 rows between two ranks");
        if (receive_rows[from] > 0)
            MPI_CHECK(MPI_Irecv(target, (int)receive_rows[from], row, from, TAG_ROWS, group->comm,
                                &requests[in_flight++]));
        if (send_rows[to] > 0)
            MPI_CHECK(MPI_Isend(source, (int)send_rows[to], row, to, TAG_ROWS, group->comm,
                                &requests[in_flight++]));
        sent += send_rows[to] * (int64_t)row_bytes;
        if (in_flight + 2 > MAX_IN_FLIGHT) {
            MPI_CHECK(MPI_Waitall(in_flight, requests, MPI_STATUSES_IGNORE));
            in_flight = 0;
        }
    }
    MPI_CHECK(MPI_Waitall(in_flight, requests, MPI_STATUSES_IGNORE));
    MPI_CHECK(MPI_Type_free(&row));
    return sent;
}
