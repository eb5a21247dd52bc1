#include "comm/collectives.h"

#include "comm/collective_compare.h"
#include "comm/collectives_mpi.h"
#include "comm/collectives_nccl.h"
#include "comm/flight_recorder.h"
#include "comm/group.h"
#include "comm/reduction_tree.h"
#include "kernels/integers.h"

static int64_t sent_bytes[TRAFFIC_KINDS];

const Transport *device_transport(void) {
#ifdef MOETRAIN_CUDA
    return &nccl_transport;
#else
    return NULL;
#endif
}

const char *traffic_name(TrafficKind kind) {
    static const char *const names[TRAFFIC_KINDS] = {"dispatch",  "combine",    "counts",
                                                     "gradients", "statistics", "other"};
    return names[kind];
}

int64_t traffic_sent_bytes(TrafficKind kind) {
    return sent_bytes[kind];
}

// The way for tensors x and y, by where they lie.
static const Transport *transport(const Group *group, const char *call, Tensor x, Tensor y) {
    CHECK(
        x.place == y.place,
        "%s of one tensor on the host and one on the device; copy one of them to the other's place",
        call);
    if (x.place == ON_HOST) return &mpi_transport;
    CHECK(group->nccl,
          "%s of tensors on the device in a group that was opened without it; "
          "give the device to process_groups_open",
          call);
    return device_transport();
}

// What all ranks of the group must call alike with this tensor.
static CollectiveCall call_of(const char *name, Tensor x, TrafficKind kind) {
    return (CollectiveCall){.name = name,
                            .elements = tensor_elements(x),
                            .root = -1,
                            .type = dtype_name(x.dtype),
                            .kind = traffic_name(kind),
                            .place = x.place};
}

// The head of every collective over several ranks, for the flight recorder; a rank that calls
// another one than the rest is found, where the build looks for that. Returns its number there.
static int64_t begin(Group *group, CollectiveCall call, int64_t bytes) {
    int64_t flight = flight_recorder_begin(group, call.name, call.kind, bytes, call.place);
    collective_compare(group, call); // which waits for the others as well
    return flight;
}

static void check_summable(const char *call, Tensor x) {
    CHECK(x.dtype == F32 || x.dtype == F64 || x.dtype == I32 || x.dtype == I64, "%s of %s", call,
          dtype_name(x.dtype));
}

void collective_wait(Pending *pending) {
    if (pending->group) {
        flight_recorder_return(pending->flight);
        (pending->place == ON_HOST ? &mpi_transport : device_transport())->wait(pending);
        flight_recorder_end(pending->flight);
    }
    *pending = (Pending){0};
}

int64_t all_reduce_sum_sent_bytes(int ranks, int64_t elements, DType dtype, ReduceOrder order) {
    if (order == REDUCE_ANY_ORDER)
        return all_reduce_estimate(ranks, elements * (int64_t)dtype_bytes(dtype));
    // As rank 0 sends them; others differ by few elements where ranks do not divide the length.
    return tree_sent_elements(shard_node_each(ranks), 0, elements) * (int64_t)dtype_bytes(dtype);
}

int64_t all_reduce_scratch_elements(int ranks, int64_t elements) {
    return tree_scratch_elements(shard_node_each(ranks), elements);
}

int64_t tree_sum_sent_bytes(ShardDeal deal, int64_t elements, DType dtype) {
    int64_t most = 0;
    for (int64_t rank = 0; rank < deal.ranks; rank++)
        most = larger(most, tree_sent_elements(deal, rank, elements));
    return most * (int64_t)dtype_bytes(dtype);
}

int64_t tree_sum_scratch_elements(ShardDeal deal, int64_t elements) {
    return tree_scratch_elements(deal, elements);
}

// What is not on its way has ended.
static Pending begun(Pending pending, int64_t flight) {
    pending.flight = flight;
    if (pending.group)
        flight_recorder_leave(flight);
    else
        flight_recorder_end(flight);
    return pending;
}

Pending tree_sum_begin(Group *group, Tensor x, TreeShare share, TrafficKind kind) {
    check_summable("all_reduce_sum", x);
    CollectiveCall call = call_of("all_reduce_sum", x, kind);
    call.how = "fixed tree";
    int64_t flight = begin(group, call, (int64_t)tensor_bytes(x)), elements = tensor_elements(x);
    ShardNode nodes[SHARD_NODES_MAX];
    CHECK(share.deal.ranks == group->size, "%lld ranks with shards in a group of %d",
          (long long)share.deal.ranks, group->size);
    int others = shard_nodes(share.deal, group->rank, nodes) - 1;
    Pending pending = {0};
    if ((group->size == 1 && others == 0) || elements == 0) return begun(pending, flight);
    Tensor scratch = share.scratch;
    CHECK(scratch.dtype == x.dtype &&
              tensor_elements(scratch) >= tree_scratch_elements(share.deal, elements),
          "scratch of %lld elements for a reduction of %lld", (long long)tensor_elements(scratch),
          (long long)elements);
    for (int i = 0; i < others; i++)
        CHECK(share.others[i].dtype == x.dtype && share.others[i].place == x.place &&
                  tensor_elements(share.others[i]) == elements,
              "sums of %lld and %lld elements over nodes of one rank", (long long)elements,
              (long long)tensor_elements(share.others[i]));
    const Transport *way = transport(group, "all_reduce_sum", x, scratch);
    sent_bytes[kind] += way->tree_all_reduce(group, x, share, &pending);
    return begun(pending, flight);
}

Pending all_reduce_sum_begin(Group *group, Tensor x, ReduceOrder order, Tensor scratch,
                             TrafficKind kind) {
    if (order == REDUCE_FIXED_TREE)
        return tree_sum_begin(
            group, x, (TreeShare){.deal = shard_node_each(group->size), .scratch = scratch}, kind);
    check_summable("all_reduce_sum", x);
    CollectiveCall call = call_of("all_reduce_sum", x, kind);
    call.how = "any order";
    int64_t flight = begin(group, call, (int64_t)tensor_bytes(x));
    Pending pending = {0};
    if (group->size == 1 || tensor_elements(x) == 0) return begun(pending, flight);
    const Transport *way = transport(group, "all_reduce_sum", x, x);
    sent_bytes[kind] += way->all_reduce(group, x, &pending);
    return begun(pending, flight);
}

void all_reduce_sum(Group *group, Tensor x, ReduceOrder order, Tensor scratch, TrafficKind kind) {
    Pending pending = all_reduce_sum_begin(group, x, order, scratch, kind);
    collective_wait(&pending);
}

void all_reduce_max(Group *group, Tensor x, TrafficKind kind) {
    CHECK(x.dtype == F64 && x.place == ON_HOST,
          "all_reduce_max of %s; it takes f64 tensors on the host", dtype_name(x.dtype));
    int64_t flight = begin(group, call_of("all_reduce_max", x, kind), (int64_t)tensor_bytes(x));
    if (group->size > 1) sent_bytes[kind] += mpi_all_reduce_max(group, x);
    flight_recorder_end(flight);
}

void reduce_scatter_sum(Group *group, Tensor out, Tensor in, TrafficKind kind) {
    check_summable("reduce_scatter_sum", in);
    CHECK(out.dtype == in.dtype && tensor_elements(in) == group->size * tensor_elements(out),
          "reduce_scatter_sum of %lld elements over %d ranks into %lld",
          (long long)tensor_elements(in), group->size, (long long)tensor_elements(out));
    int64_t flight =
        begin(group, call_of("reduce_scatter_sum", out, kind), (int64_t)tensor_bytes(in));
    const Transport *way = transport(group, "reduce_scatter_sum", out, in);
    if (tensor_elements(out) > 0) sent_bytes[kind] += way->reduce_scatter(group, out, in);
    flight_recorder_end(flight);
}

void all_gather(Group *group, Tensor out, Tensor in, TrafficKind kind) {
    CHECK(out.dtype == in.dtype && tensor_elements(out) == group->size * tensor_elements(in),
          "all_gather of %lld elements from %d ranks into %lld", (long long)tensor_elements(in),
          group->size, (long long)tensor_elements(out));
    int64_t flight = begin(group, call_of("all_gather", in, kind), (int64_t)tensor_bytes(in));
    const Transport *way = transport(group, "all_gather", out, in);
    if (tensor_elements(in) > 0) sent_bytes[kind] += way->all_gather(group, out, in);
    flight_recorder_end(flight);
}

void broadcast(Group *group, void *data, size_t bytes, int root) {
    CollectiveCall call = call_of("broadcast", tensor_1d(data, U8, (int64_t)bytes), TRAFFIC_OTHER);
    call.root = root;
    int64_t flight = begin(group, call, (int64_t)bytes);
    if (group->size > 1) sent_bytes[TRAFFIC_OTHER] += mpi_broadcast_bytes(group, data, bytes, root);
    flight_recorder_end(flight);
}

void broadcast_tensor(Group *group, Tensor x, int root) {
    CHECK(root >= 0 && root < group->size, "broadcast from rank %d of %d", root, group->size);
    CollectiveCall call = call_of("broadcast_tensor", x, TRAFFIC_OTHER);
    call.root = root;
    int64_t flight = begin(group, call, (int64_t)tensor_bytes(x));
    const Transport *way = transport(group, "broadcast_tensor", x, x);
    if (group->size > 1 && tensor_elements(x) > 0)
        sent_bytes[TRAFFIC_OTHER] += way->broadcast(group, x, root);
    flight_recorder_end(flight);
}

void barrier(Group *group) {
    int64_t flight = begin(group, (CollectiveCall){.name = "barrier", .root = -1}, 0);
    mpi_barrier(group);
    flight_recorder_end(flight);
}

void all_to_all(Group *group, Tensor out, Tensor in, TrafficKind kind) {
    int64_t n = tensor_elements(in) / group->size;
    CHECK(in.dtype == I32 && out.dtype == I32 && tensor_elements(in) == n * group->size &&
              tensor_elements(out) == tensor_elements(in),
          "all_to_all of %lld elements over %d ranks into %lld", (long long)tensor_elements(in),
          group->size, (long long)tensor_elements(out));
    int64_t flight = begin(group, call_of("all_to_all", in, kind), (int64_t)tensor_bytes(in));
    const Transport *way = transport(group, "all_to_all", out, in);
    if (n > 0) sent_bytes[kind] += way->all_to_all(group, out, in);
    flight_recorder_end(flight);
}

static void check_runs(const Group *group, const char *verb, RowRuns runs, Tensor x) {
    int64_t next = 0;
    for (int p = 0; p < group->size; p++) {
        int64_t rows = runs.rows[p], first = runs.first ? runs.first[p] : next;
        CHECK(rows >= 0, "%lld rows %s rank %d", (long long)rows, verb, p);
        CHECK(first >= 0 && first <= x.shape[0] && rows <= x.shape[0] - first,
              "rows %lld to %lld %s rank %d, of a tensor with %lld rows", (long long)first,
              (long long)(first + rows), verb, p, (long long)x.shape[0]);
        next = first + rows;
    }
}

// With those to oneself.
static int64_t run_bytes(const Group *group, RowRuns send, Tensor in) {
    int64_t rows = 0;
    for (int p = 0; p < group->size; p++) rows += send.rows[p];
    return rows * in.shape[1] * (int64_t)dtype_bytes(in.dtype);
}

Pending all_to_all_rows_begin(Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                              TrafficKind kind) {
    CHECK((in.dtype == F32 || in.dtype == BF16 || in.dtype == I32) && out.dtype == in.dtype &&
              in.rank == 2 && out.rank == 2 && in.shape[1] == out.shape[1],
          "exchange of rows from %s (%lld, %lld) into %s (%lld, %lld)", dtype_name(in.dtype),
          (long long)in.shape[0], (long long)in.shape[1], dtype_name(out.dtype),
          (long long)out.shape[0], (long long)out.shape[1]);
    check_runs(group, "to", send, in);
    check_runs(group, "from", receive, out);
    CHECK(send.rows[group->rank] == receive.rows[group->rank],
          "%lld rows to oneself, %lld expected", (long long)send.rows[group->rank],
          (long long)receive.rows[group->rank]);
    if (send.rows == receive.rows)
        for (int p = 1; p < group->size; p++)
            CHECK(send.rows[p] == send.rows[0],
                  "a padded exchange of %lld rows with rank %d and %lld with rank 0; uneven counts "
                  "come in two arrays",
                  (long long)send.rows[p], p, (long long)send.rows[0]);
    CollectiveCall call = call_of("all_to_all_rows", in, kind);
    call.elements = in.shape[1]; // of a row; how many rows is each rank's own
    call.how = send.rows == receive.rows && !send.first && !receive.first ? "padded" : "counted";
    int64_t flight = begin(group, call, run_bytes(group, send, in));
    row_counts_compare(group, send.rows, receive.rows);
    const Transport *way = transport(group, "all_to_all_rows", out, in);
    Pending pending = {0};
    sent_bytes[kind] += way->all_to_all_rows(group, out, receive, in, send, &pending);
    return begun(pending, flight);
}

void all_to_all_rows(Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
                     TrafficKind kind) {
    Pending pending = all_to_all_rows_begin(group, out, receive, in, send, kind);
    collective_wait(&pending);
}

void collectives_check(void) {
    if (device_transport()) device_transport()->check();
}

static double waited_seconds(const char *kind) {
    const Transport *device = device_transport();
    return flight_recorder_seconds(kind) + (device ? device->waited_seconds(kind) : 0);
}

double collectives_waited_seconds(TrafficKind kind) {
    double seconds = waited_seconds(traffic_name(kind));
    return kind == TRAFFIC_OTHER ? seconds + waited_seconds(NULL) : seconds;
}
