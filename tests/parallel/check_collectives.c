// Everything that crosses ranks, against the same thing computed on one rank. Sums are compared bit
// by bit: the fixed tree is a promise about bits, so no test here has a tolerance.
#include "comm/collectives.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <mpi.h>

#include "comm/comm.h"
#include "comm/flight_recorder.h"
#include "comm/shard_run.h"
#include "kernels/integers.h"
#include "kernels/rng.h"
#include "rank_test.h"

enum { GUARD = 64 }; // bytes behind every buffer that must stay as they were

static ProcessGroups groups;

// A buffer of n elements with a guard behind it.
static Tensor guarded(DType dtype, int64_t n) {
    size_t bytes = (size_t)n * dtype_bytes(dtype);
    char *data = malloc(bytes + GUARD);
    CHECK(data, "no memory");
    memset(data, 0x5a, bytes + GUARD);
    return tensor_1d(data, dtype, n);
}

static void expect_guard(Tensor x, const char *what) {
    const unsigned char *guard = (const unsigned char *)x.data + tensor_bytes(x);
    for (int i = 0; i < GUARD; i++) EXPECT(guard[i] == 0x5a, "%s is written past its end", what);
}

// Numbers of very different sizes, so that another order of summing gives other bits.
static void fill(Tensor x, int rank, uint32_t salt) {
    RngStream stream = {1, RNG_TEST, salt, (uint32_t)rank};
    for (int64_t i = 0; i < tensor_elements(x); i++) {
        double value = rng_normal(stream, (uint64_t)i) *
                       (double)(1 << (rng_u32(stream, 1000000u + (uint64_t)i) % 24));
        switch (x.dtype) {
        case F32:
            tensor_f32(x)[i] = (float)value;
            break;
        case F64:
            tensor_f64(x)[i] = value;
            break;
        case I32:
            tensor_i32(x)[i] = (int32_t)value;
            break;
        default:
            tensor_i64(x)[i] = (int64_t)(value * 1e9);
        }
    }
}

static void add_into(Tensor a, Tensor b) {
    for (int64_t i = 0; i < tensor_elements(a); i++) {
        if (a.dtype == F32) tensor_f32(a)[i] += tensor_f32(b)[i];
        if (a.dtype == F64) tensor_f64(a)[i] += tensor_f64(b)[i];
        if (a.dtype == I32) tensor_i32(a)[i] += tensor_i32(b)[i];
        if (a.dtype == I64) tensor_i64(a)[i] += tensor_i64(b)[i];
    }
}

// The sum over `leaves` leaves from `leaf` on of the fixed tree over shards of what fill() gave
// them, as a binary tree: each of the first `doubled` shards stands for two.
static Tensor tree_sum(DType dtype, int64_t n, int64_t leaf, int64_t leaves, int64_t doubled,
                       uint32_t salt) {
    bool one = leaf < 2 * doubled && leaves == 2;
    if (leaves == 1 || one) {
        Tensor shard = guarded(dtype, n);
        fill(shard, (int)(one ? leaf / 2 : leaf - doubled), salt);
        return shard;
    }
    Tensor lower = tree_sum(dtype, n, leaf, leaves / 2, doubled, salt);
    Tensor upper = tree_sum(dtype, n, leaf + leaves / 2, leaves / 2, doubled, salt);
    add_into(lower, upper);
    free(upper.data);
    return lower;
}

// What leaves this rank, counted below comm/, which counts by the formula of the planner: the tree
// sends by this alone. (PMPI is MPI's door for tools.)
static int64_t passed_on;
int MPI_Sendrecv(const void *send, int send_count, MPI_Datatype send_type, int to, int send_tag,
                 void *receive, int receive_count, MPI_Datatype receive_type, int from,
                 int receive_tag, MPI_Comm comm, MPI_Status *status) {
    int width;
    MPI_Type_size(send_type, &width);
    if (to != MPI_PROC_NULL) passed_on += (int64_t)send_count * width;
    return PMPI_Sendrecv(send, send_count, send_type, to, send_tag, receive, receive_count,
                         receive_type, from, receive_tag, comm, status);
}

static const DType dtypes[] = {F32, F64, I32, I64};
static const int64_t lengths[] = {0, 1, 2, 3, 5, 7, 8, 13, 64, 1000, 4099};
enum { DTYPES = 4, LENGTHS = sizeof lengths / sizeof *lengths };

// One reduction over a group. Each rank gives what it sums of its own shards, node by node; the
// result is what one rank would have summed.
static void expect_tree(Group *group, ShardDeal deal, DType dtype, int64_t n) {
    uint32_t salt = (uint32_t)n;
    int size = group_size(group), rank = group_rank(group);
    int64_t leaves = next_power_of_two(deal.shards), doubled = leaves - deal.shards;
    ShardNode nodes[SHARD_NODES_MAX];
    Tensor sums[SHARD_NODES_MAX];
    int count = shard_nodes(deal, rank, nodes);
    for (int i = 0; i < count; i++)
        sums[i] = tree_sum(dtype, n, nodes[i].leaf, nodes[i].leaves, doubled, salt);
    Tensor x = sums[0], scratch = guarded(dtype, tree_sum_scratch_elements(deal, n));
    int64_t before = traffic_sent_bytes(TRAFFIC_GRADIENTS), passed_before = passed_on;
    Pending pending =
        tree_sum_begin(group, x, (TreeShare){deal, sums + 1, scratch}, TRAFFIC_GRADIENTS);
    collective_wait(&pending);
    int64_t sent = traffic_sent_bytes(TRAFFIC_GRADIENTS) - before;
    EXPECT(sent == passed_on - passed_before, "%lld bytes counted, %lld sent, for %lld x %s",
           (long long)sent, (long long)(passed_on - passed_before), (long long)n,
           dtype_name(dtype));

    Tensor wanted = tree_sum(dtype, n, 0, leaves, doubled, salt);
    EXPECT(memcmp(x.data, wanted.data, tensor_bytes(x)) == 0,
           "%lld x %s over %lld shards of %d ranks in groups of %lld", (long long)n,
           dtype_name(dtype), (long long)deal.shards, size, (long long)deal.group_size);
    for (int i = 0; i < count; i++) expect_guard(sums[i], "the sum");
    expect_guard(scratch, "the scratch");

    // The rank that sends most sends exactly what the planner says. Halving gives or keeps, where
    // the length does not divide, one element more or less at each of the log2(size) distances.
    double most = (double)sent;
    all_reduce_max(group, tensor_1d(&most, F64, 1), TRAFFIC_OTHER);
    int64_t planned = tree_sum_sent_bytes(deal, n, dtype);
    EXPECT((int64_t)most == planned, "%.0f bytes sent, %lld planned, for %lld x %s", most,
           (long long)planned, (long long)n, dtype_name(dtype));
    for (int i = 0; i < count; i++) free(sums[i].data);
    free(scratch.data);
    free(wanted.data);
}

static void fixed_tree_over_the_world(void) {
    int size = comm_size();
    for (int d = 0; d < DTYPES; d++)
        for (int i = 0; i < LENGTHS; i++) {
            expect_tree(groups.world, shard_node_each(size), dtypes[d], lengths[i]);
            expect_tree(groups.world, (ShardDeal){2 * next_power_of_two(size), size, size},
                        dtypes[d], lengths[i]);
        }
}

// As ranks have several nodes each, of many shards; and of no power of two of them.
static void several_nodes_of_a_rank(void) {
    int size = comm_size(), rank = comm_rank();
    ShardNode nodes[SHARD_NODES_MAX];
    for (int64_t shards = size; shards <= 64; shards++) {
        if (!is_power_of_two(shards) && shards % size != 0) continue;
        ShardDeal deal = {shards, size, size};
        ShardRun run = shard_run(deal, rank);
        int64_t first = run.first;
        int count = shard_nodes(deal, rank, nodes);
        EXPECT(run.count == shards / size || run.count == shards / size + 1,
               "%lld of %lld shards on one of %d ranks", (long long)run.count, (long long)shards,
               size);
        for (int i = 0; i < count; i++) {
            EXPECT(nodes[i].first == first && is_power_of_two(nodes[i].count) &&
                       nodes[i].leaf % nodes[i].leaves == 0,
                   "node %d of rank %d: shards %lld to %lld", i, rank, (long long)nodes[i].first,
                   (long long)(nodes[i].first + nodes[i].count));
            first += nodes[i].count;
        }
        EXPECT(first == run.first + run.count, "%lld shards, not %lld, are in nodes",
               (long long)(first - run.first), (long long)run.count);
        expect_tree(groups.world, deal, F32, 101);
    }
    if (size == 3) {
        ShardDeal deal = {8, 3, 3};
        const int wanted[] = {2, 2, 1}; // {0 1} {2}, {3} {4 5}, {6 7}
        EXPECT(shard_nodes(deal, rank, nodes) == wanted[rank], "nodes of rank %d", rank);
    }
}

static void fixed_tree_over_subgroups(void) {
    for (int ep = 1; ep <= comm_size(); ep++) {
        if (comm_size() % ep != 0) continue;
        ProcessGroups split = process_groups_open(ep, NULL);
        int size = comm_size(), rank = comm_rank();
        EXPECT(group_size(split.expert_parallel) == ep, "ep %d", ep);
        EXPECT(group_rank(split.expert_parallel) == rank % ep, "ep %d", ep);
        EXPECT(group_size(split.expert_replicas) == size / ep, "ep %d", ep);
        EXPECT(group_rank(split.expert_replicas) == rank / ep, "ep %d", ep);
        for (int64_t times = 1; times <= 8; times *= 2)
            expect_tree(split.world, (ShardDeal){times * shard_runs_least(size, ep), size, ep}, F32,
                        101);
        expect_tree(split.expert_parallel, shard_node_each(ep), F32, 101);
        expect_tree(split.expert_replicas, shard_node_each(size / ep), F32, 101);
        process_groups_close(&split);
    }
}

static void any_order_sums_integers(void) {
    for (int d = 2; d < DTYPES; d++) {
        Tensor x = guarded(dtypes[d], 77);
        fill(x, comm_rank(), 3);
        all_reduce_sum(groups.world, x, REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_OTHER);
        Tensor wanted = guarded(dtypes[d], 77), one = guarded(dtypes[d], 77);
        memset(wanted.data, 0, tensor_bytes(wanted));
        for (int rank = 0; rank < comm_size(); rank++) {
            fill(one, rank, 3);
            add_into(wanted, one);
        }
        EXPECT(memcmp(x.data, wanted.data, tensor_bytes(x)) == 0, "%s", dtype_name(dtypes[d]));
        free(one.data);
        free(x.data);
        free(wanted.data);
    }
}

static void largest_and_gathered(void) {
    double largest[2] = {comm_rank() == comm_size() / 2 ? 9.5 : -comm_rank(), -1.0 - comm_rank()};
    all_reduce_max(groups.world, tensor_1d(largest, F64, 2), TRAFFIC_OTHER);
    EXPECT(largest[0] == 9.5 && largest[1] == -1.0, "%g and %g", largest[0], largest[1]);

    for (int64_t n = 0; n <= 3; n += 3) {
        Tensor in = guarded(I32, n), out = guarded(I32, n * comm_size());
        for (int64_t i = 0; i < n; i++) tensor_i32(in)[i] = (int32_t)(comm_rank() * 10 + i);
        all_gather(groups.world, out, in, TRAFFIC_OTHER);
        for (int64_t i = 0; i < n * comm_size(); i++)
            EXPECT(tensor_i32(out)[i] == i / n * 10 + i % n, "element %lld", (long long)i);
        expect_guard(out, "all_gather");
        free(in.data);
        free(out.data);
    }
}

static void broadcast_from_every_root(void) {
    for (int root = 0; root < comm_size(); root++)
        for (size_t bytes = 0; bytes <= 70000; bytes = bytes * 7 + 1) {
            Tensor x = guarded(U8, (int64_t)bytes);
            memset(x.data, comm_rank() == root ? 100 + root : 0, bytes);
            if (root % 2)
                broadcast_tensor(groups.world, x, root);
            else
                broadcast(groups.world, x.data, bytes, root);
            for (size_t i = 0; i < bytes; i++)
                EXPECT(tensor_u8(x)[i] == 100 + root, "byte %zu of %zu from %d", i, bytes, root);
            expect_guard(x, "broadcast");
            free(x.data);
        }
}

static void blocks_change_places(void) {
    int ranks = comm_size();
    for (int64_t n = 0; n <= 5; n++) {
        Tensor in = guarded(I32, n * ranks), out = guarded(I32, n * ranks);
        for (int64_t i = 0; i < n * ranks; i++)
            tensor_i32(in)[i] = (int32_t)(comm_rank() * 1000 + i / n * 10 + i % n);
        int64_t before = traffic_sent_bytes(TRAFFIC_COUNTS);
        all_to_all(groups.world, out, in, TRAFFIC_COUNTS);
        EXPECT(traffic_sent_bytes(TRAFFIC_COUNTS) - before == 4 * n * (ranks - 1), "n %lld",
               (long long)n);
        for (int64_t i = 0; i < n * ranks; i++)
            EXPECT(tensor_i32(out)[i] == i / n * 1000 + comm_rank() * 10 + i % n, "element %lld",
                   (long long)i);
        expect_guard(out, "all_to_all");
        free(in.data);
        free(out.data);
    }
}

// How many rows `from` sends to `to` in each pattern of uneven and empty sends.
enum { PATTERNS = 7 };
static int64_t rows_between(int pattern, int from, int to) {
    int ranks = comm_size();
    switch (pattern) {
    case 0: // nobody sends anything
        return 0;
    case 1: // uneven, about a quarter of the pairs empty
        return (from * 3 + to * 5 + from * to) % 4;
    case 2: // only the last rank has tokens
        return from == ranks - 1 ? to + 1 : 0;
    case 3: // everything goes to rank 0
        return to == 0 ? from + 2 : 0;
    case 4: // to oneself only
        return from == to ? 3 : 0;
    case 5: // rank 0 neither sends nor receives
        return from == 0 || to == 0 ? 0 : 2 + (from + to) % 3;
    default: // beyond the library's eager limit
        return 700 + 31 * ((from + 2 * to) % 5);
    }
}

static float row_value(int from, int to, int64_t row, int64_t column) {
    return (float)(from * 100000 + to * 10000 + row * 7 + column);
}

static void expect_rows(int pattern, int64_t width) {
    int ranks = comm_size(), rank = comm_rank();
    int64_t *send = calloc((size_t)ranks, sizeof *send),
            *receive = calloc((size_t)ranks, sizeof *receive);
    CHECK(send && receive, "no memory");
    int64_t sent = 0, received = 0, crossing = 0;
    for (int p = 0; p < ranks; p++) {
        sent += send[p] = rows_between(pattern, rank, p);
        received += receive[p] = rows_between(pattern, p, rank);
        crossing += p == rank ? 0 : send[p];
    }
    Tensor in_flat = guarded(F32, sent * width), out_flat = guarded(F32, received * width);
    Tensor in = tensor_2d(in_flat.data, F32, sent, width);
    Tensor out = tensor_2d(out_flat.data, F32, received, width);
    float *x = tensor_f32(in);
    for (int p = 0; p < ranks; p++)
        for (int64_t row = 0; row < send[p]; row++)
            for (int64_t c = 0; c < width; c++) *x++ = row_value(rank, p, row, c);
    int64_t before = traffic_sent_bytes(TRAFFIC_DISPATCH);
    all_to_all_rows(groups.world, out, (RowRuns){receive, NULL}, in, (RowRuns){send, NULL},
                    TRAFFIC_DISPATCH);
    int64_t counted = traffic_sent_bytes(TRAFFIC_DISPATCH) - before;
    EXPECT(counted == crossing * width * 4, "pattern %d: %lld bytes counted, %lld rows crossed",
           pattern, (long long)counted, (long long)crossing);
    const float *y = tensor_f32(out);
    for (int p = 0; p < ranks; p++)
        for (int64_t row = 0; row < receive[p]; row++)
            for (int64_t c = 0; c < width; c++, y++)
                EXPECT(*y == row_value(p, rank, row, c), "pattern %d, row %lld from rank %d",
                       pattern, (long long)row, p);
    expect_guard(out_flat, "the received rows");
    free(in_flat.data);
    free(out_flat.data);
    free(send);
    free(receive);
}

static void rows_travel_unevenly(void) {
    for (int pattern = 0; pattern < PATTERNS; pattern++) {
        expect_rows(pattern, 1);
        expect_rows(pattern, 17);
    }
}

// Rank r sends r + p + 1 rows to rank p, in the order of falling p with a row between runs that
// nobody may touch; they are received likewise. Four exchanges at once, each with values of its
// own, waited for in another order.
static void scattered_runs_travel_together(void) {
    enum { EXCHANGES = 4, WIDTH = 5, UNTOUCHED = -7 };
    int ranks = comm_size(), rank = comm_rank();
    int64_t rows[16], first[16], total = 0;
    for (int p = ranks - 1; p >= 0; p--) {
        rows[p] = rank + p + 1;
        first[p] = total;
        total += rows[p] + 1;
    }
    int64_t received_rows[16]; // the same counts, in another array: they are not all equal
    memcpy(received_rows, rows, sizeof rows);
    Tensor in[EXCHANGES], out[EXCHANGES];
    Pending pending[EXCHANGES];
    for (int e = 0; e < EXCHANGES; e++) {
        in[e] = tensor_2d(guarded(F32, total * WIDTH).data, F32, total, WIDTH);
        out[e] = tensor_2d(guarded(F32, total * WIDTH).data, F32, total, WIDTH);
        for (int64_t i = 0; i < total * WIDTH; i++) tensor_f32(out[e])[i] = UNTOUCHED;
        for (int p = 0; p < ranks; p++)
            for (int64_t i = 0; i < rows[p] * WIDTH; i++)
                tensor_f32(in[e])[first[p] * WIDTH + i] =
                    row_value(rank, p, i / WIDTH, i % WIDTH) + 1e6f * (float)e;
        pending[e] = all_to_all_rows_begin(groups.world, out[e], (RowRuns){received_rows, first},
                                           in[e], (RowRuns){rows, first}, TRAFFIC_COMBINE);
    }
    static const int order[EXCHANGES] = {2, 0, 3, 1};
    for (int i = 0; i < EXCHANGES; i++) {
        int e = order[i];
        collective_wait(&pending[e]);
        EXPECT(!pending[e].group, "exchange %d stays pending", e);
        collective_wait(&pending[e]); // legal on a zeroed one
        for (int p = 0; p < ranks; p++) {
            for (int64_t j = 0; j < rows[p] * WIDTH; j++)
                EXPECT(tensor_f32(out[e])[first[p] * WIDTH + j] ==
                           row_value(p, rank, j / WIDTH, j % WIDTH) + 1e6f * (float)e,
                       "exchange %d, element %lld from rank %d", e, (long long)j, p);
            for (int64_t j = 0; j < WIDTH; j++)
                EXPECT(tensor_f32(out[e])[(first[p] + rows[p]) * WIDTH + j] == UNTOUCHED,
                       "exchange %d wrote behind the run of rank %d", e, p);
        }
    }
    for (int e = 0; e < EXCHANGES; e++) {
        free(in[e].data);
        free(out[e].data);
    }
}

static void bf16_rows_travel_padded(void) {
    enum { ROWS = 3, WIDTH = 7 };
    int ranks = comm_size(), rank = comm_rank();
    int64_t rows[16], elements = (int64_t)ranks * ROWS * WIDTH;
    for (int p = 0; p < ranks; p++) rows[p] = ROWS;
    Tensor in_flat = guarded(BF16, elements), out_flat = guarded(BF16, elements);
    for (int64_t i = 0; i < elements; i++) tensor_bf16(in_flat)[i] = (uint16_t)(rank * 1000 + i);
    RowRuns padded = {rows, NULL};
    int64_t before = traffic_sent_bytes(TRAFFIC_COMBINE);
    all_to_all_rows(groups.world, tensor_reshape_2d(out_flat, ranks * ROWS, WIDTH), padded,
                    tensor_reshape_2d(in_flat, ranks * ROWS, WIDTH), padded, TRAFFIC_COMBINE);
    EXPECT(traffic_sent_bytes(TRAFFIC_COMBINE) - before == (ranks - 1) * ROWS * WIDTH * 2,
           "%d ranks", ranks);
    for (int64_t i = 0; i < elements; i++) {
        int64_t from = i / (ROWS * WIDTH), wanted = from * 1000 + rank * ROWS * WIDTH;
        EXPECT(tensor_bf16(out_flat)[i] == wanted + i % (ROWS * WIDTH), "element %lld",
               (long long)i);
    }
    expect_guard(out_flat, "the received rows");
    free(in_flat.data);
    free(out_flat.data);
}

static void sums_are_scattered(void) {
    for (int64_t n = 0; n <= 6; n += 3) {
        int ranks = comm_size(), rank = comm_rank();
        Tensor in = guarded(F64, n * ranks), out = guarded(F64, n);
        for (int64_t i = 0; i < n * ranks; i++) tensor_f64(in)[i] = (double)((rank + 1) * 100 + i);
        int64_t before = traffic_sent_bytes(TRAFFIC_OTHER);
        reduce_scatter_sum(groups.world, out, in, TRAFFIC_OTHER);
        EXPECT(traffic_sent_bytes(TRAFFIC_OTHER) - before == 8 * n * (ranks - 1), "n %lld",
               (long long)n);
        for (int64_t i = 0; i < n; i++) {
            double wanted = 100.0 * ranks * (ranks + 1) / 2 + (double)(ranks * (rank * n + i));
            EXPECT(tensor_f64(out)[i] == wanted, "%g, not %g", tensor_f64(out)[i], wanted);
        }
        expect_guard(out, "reduce_scatter_sum");
        free(in.data);
        free(out.data);
    }
}

static void everybody_agrees(void) {
    Error err = {0};
    EXPECT(comm_agree(true, &err), "with no failure");
    EXPECT(err.exit_code == 0 && err.message[0] == 0, "error touched: %s", err.message);
}

// For every set of failing ranks: all get the error of the lowest, after its rank and host.
static void lowest_failing_rank_speaks(void) {
    for (unsigned failing = 1; failing < 1u << comm_size(); failing++) {
        Error err = {0}, named = {0};
        bool ok = !(failing >> comm_rank() & 1);
        if (!ok) {
            error_set(&err, (ExitCode)(20 + comm_rank()), "error %d of %u", comm_rank(), failing);
            named = err;
        }
        EXPECT(!comm_agree(ok, &err), "set %u", failing);
        EXPECT(!comm_agree_named(ok, &named), "set %u", failing);
        int lowest = 0;
        while (!(failing >> lowest & 1)) lowest++;
        char wanted[64], speaker[300] = "";
        snprintf(wanted, sizeof wanted, "error %d of %u", lowest, failing);
        EXPECT(strcmp(named.message, wanted) == 0 && named.exit_code == 20 + lowest,
               "'%s', code %d", named.message, named.exit_code);
        if (comm_size() > 1) // all on one host
            snprintf(speaker, sizeof speaker, "rank %d on %s: ", lowest, comm_host());
        size_t length = strlen(speaker);
        EXPECT(strncmp(err.message, speaker, length) == 0 &&
                   strcmp(err.message + length, wanted) == 0 && err.exit_code == 20 + lowest,
               "'%s', code %d", err.message, err.exit_code);
    }
}

static void an_error_of_all_names_nobody(void) {
    Error err = {0};
    error_set(&err, EXIT_DATA, "no such file");
    EXPECT(!comm_agree(false, &err), "%d ranks", comm_size());
    EXPECT(strcmp(err.message, "no such file") == 0 && err.exit_code == EXIT_DATA, "'%s'",
           err.message);
}

static void rank_0_is_followed(void) {
    Error err = {0};
    EXPECT(comm_follow(comm_rank() == 0, &err), "only the others are not ok");
    EXPECT(err.exit_code == 0 && err.message[0] == 0, "error touched: %s", err.message);
    if (comm_rank() == 0) error_set(&err, EXIT_IO, "no room");
    EXPECT(!comm_follow(comm_rank() != 0, &err), "%d ranks", comm_size());
    EXPECT(strcmp(err.message, "no room") == 0 && err.exit_code == EXIT_IO, "'%s'", err.message);
}

static void the_world_is_there(void) {
    EXPECT(group_size(comm_world()) == comm_size(), "%d", group_size(comm_world()));
    EXPECT(group_rank(comm_world()) == comm_rank(), "%d", group_rank(comm_world()));
    int value = comm_rank() == 0 ? 42 : 0;
    broadcast(comm_world(), &value, sizeof value, 0);
    EXPECT(value == 42, "%d", value);
}

static void open_groups(void) {
    groups = process_groups_open(1, NULL);
    EXPECT(group_size(groups.world) == comm_size(), "%d", group_size(groups.world));
    EXPECT(group_rank(groups.world) == comm_rank(), "%d", group_rank(groups.world));
}
// What was called in the tests before is what the recorder counts, so one that a rank skips shows.
static void collectives_are_numbered_alike(void) {
    FlightRecord records[FLIGHT_RECORDS];
    double number[2] = {(double)flight_recorder_last(), -(double)flight_recorder_last()};
    all_reduce_max(comm_world(), tensor_1d(number, F64, 2), TRAFFIC_OTHER);
    EXPECT(number[0] == -number[1], "%.0f here, %.0f elsewhere", -number[1], number[0]);
    int count = flight_recorder_read(records);
    if (comm_size() == 1) {
        EXPECT(count == 0, "%d collectives of one rank", count);
        return;
    }
    EXPECT(count > 50, "only %d collectives", count);
    FlightRecord last = records[count > 0 ? count - 1 : 0];
    EXPECT((double)last.number == number[0] + 1 && strcmp(last.name, "all_reduce_max") == 0 &&
               strcmp(last.group, "world") == 0 && last.bytes == sizeof number,
           "number %lld is %s of %lld bytes in %s", (long long)last.number, last.name,
           (long long)last.bytes, last.group);
    for (int i = 0; i < count; i++)
        EXPECT(records[i].ended >= records[i].begun, "number %lld, %s, has not ended",
               (long long)records[i].number, records[i].name);
}

static void close_groups(void) {
    process_groups_close(&groups);
    process_groups_close(&groups); // legal on a zeroed struct
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"all ranks agree when none has failed", everybody_agrees},
        {"the error of the lowest failing rank reaches all, whoever failed",
         lowest_failing_rank_speaks},
        {"an error that all ranks have found names none of them", an_error_of_all_names_nobody},
        {"what rank 0 alone has tried decides", rank_0_is_followed},
        {"the world is open from the start", the_world_is_there},
        {"the world is a group of all ranks", open_groups},
        {"the fixed tree gives the bits of a binary tree over ranks, in any length and dtype",
         fixed_tree_over_the_world},
        {"ranks of several nodes of the tree sum as one rank does", several_nodes_of_a_rank},
        {"the fixed tree works in expert-parallel and replica groups", fixed_tree_over_subgroups},
        {"sums of integers in any order are exact", any_order_sums_integers},
        {"the largest value and gathered blocks reach all ranks", largest_and_gathered},
        {"every rank can broadcast, also nothing", broadcast_from_every_root},
        {"equal blocks change places", blocks_change_places},
        {"rows travel, uneven and empty sends included", rows_travel_unevenly},
        {"scattered runs travel, four exchanges at once", scattered_runs_travel_together},
        {"rows of bf16 travel in equal numbers", bf16_rows_travel_padded},
        {"blocks of a sum reach their ranks", sums_are_scattered},
        {"the flight recorder has the same numbers on all ranks", collectives_are_numbered_alike},
        {"groups can be closed twice", close_groups},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
