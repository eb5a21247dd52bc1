#include "comm/collectives.h"

#include "comm/collectives_mpi.h"
#include "comm/group.h"

static int64_t sent_bytes[TRAFFIC_KINDS];

const char *traffic_name(TrafficKind kind) {
    static const char *const names[TRAFFIC_KINDS] = {"dispatch",  "combine",    "counts",
                                                     "gradients", "statistics", "other"};
    return names[kind];
}

int64_t traffic_sent_bytes(TrafficKind kind) {
    return sent_bytes[kind];
}

int64_t all_reduce_sum_sent_bytes(int ranks, int64_t elements, DType dtype) {
    // Rank 0 at each distance gives the upper half away and later sends its finished lower half; other ranks
    // differ by at most one element a distance where lengths are odd.
    int64_t sent = 0, count = elements;
    for (int distance = 1; distance < ranks; distance *= 2) {
        int64_t lower = (count + 1) / 2;
        sent += count; // count - lower now, lower on the way back
        count = lower;
    }
    return sent * (int64_t)dtype_bytes(dtype);
}

void all_reduce_sum(Group *group, Tensor x, ReduceOrder order, Tensor scratch, TrafficKind kind) {
    if (group->size == 1 || tensor_elements(x) == 0) return;
    if (order == REDUCE_FIXED_TREE) {
        CHECK((group->size & (group->size - 1)) == 0,
              "the fixed tree needs a power of two of ranks, not %d", group->size);
        CHECK(scratch.dtype == x.dtype && tensor_elements(scratch) >= (tensor_elements(x) + 1) / 2,
              "scratch of %lld elements for a reduction of %lld",
              (long long)tensor_elements(scratch), (long long)tensor_elements(x));
        sent_bytes[kind] += mpi_tree_all_reduce(group, x, scratch);
    } else {
        sent_bytes[kind] += mpi_all_reduce(group, x);
    }
}

void all_reduce_max(Group *group, Tensor x, TrafficKind kind) {
    CHECK(x.dtype == F64, "all_reduce_max of %s", dtype_name(x.dtype));
    if (group->size > 1) sent_bytes[kind] += mpi_all_reduce_max(group, x);
}

void all_gather(Group *group, Tensor out, Tensor in, TrafficKind kind) {
    CHECK(out.dtype == in.dtype && tensor_elements(out) == group->size * tensor_elements(in),
          "all_gather of %lld elements from %d ranks into %lld", (long long)tensor_elements(in),
          group->size, (long long)tensor_elements(out));
    sent_bytes[kind] += mpi_all_gather(group, out, in);
}

void broadcast(Group *group, void *data, size_t bytes, int root) {
    if (group->size > 1) sent_bytes[TRAFFIC_OTHER] += mpi_broadcast(group, data, bytes, root);
}

void barrier(Group *group) {
    mpi_barrier(group);
}

void all_to_all(Group *group, Tensor out, Tensor in, TrafficKind kind) {
    int64_t n = tensor_elements(in) / group->size;
    CHECK(in.dtype == I32 && out.dtype == I32 && tensor_elements(in) == n * group->size &&
              tensor_elements(out) == tensor_elements(in),
          "all_to_all of %lld elements over %d ranks into %lld", (long long)tensor_elements(in),
          group->size, (long long)tensor_elements(out));
    sent_bytes[kind] += mpi_all_to_all(group, out, in, n);
}

void all_to_all_rows(Group *group, Tensor out, const int64_t *receive_rows, Tensor in,
                     const int64_t *send_rows, TrafficKind kind) {
    int64_t sent = 0, received = 0;
    for (int p = 0; p < group->size; p++) {
        CHECK(send_rows[p] >= 0 && receive_rows[p] >= 0, "negative rows to or from rank %d", p);
        sent += send_rows[p];
        received += receive_rows[p];
    }
    CHECK(in.dtype == F32 && out.dtype == F32 && in.rank == 2 && out.rank == 2 &&
              in.shape[1] == out.shape[1] && sent <= in.shape[0] && received <= out.shape[0],
          "exchange of %lld rows from (%lld, %lld) into %lld rows of (%lld, %lld)", (long long)sent,
          (long long)in.shape[0], (long long)in.shape[1], (long long)received,
          (long long)out.shape[0], (long long)out.shape[1]);
    sent_bytes[kind] += mpi_all_to_all_rows(group, out, receive_rows, in, send_rows);
}
