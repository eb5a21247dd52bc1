// Collectives of tensors in device memory, against the same on the host, bit by bit; sums in any
// order are of whole numbers, which are exact, so no test here has a tolerance. Skipped (77) where
// ranks and GPUs do not match.
//
// With MOETRAIN_EMULATION_NCCL_ERROR set, the program watches for the failure that the emulated
// library then reports, and ends by it.
//
// Long because it is a list of cases.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/kernels.h"
#include "kernels/rng.h"
#include "rank_test.h"

enum { GUARD = 64, MAX_RANKS = 16, SKIPPED = 77 };

static Device dev;
static ProcessGroups groups;

// ---- tensors in two places ----------------------------------------------------------------------

// The same tensor on the host and on the device, with a guard behind each.
typedef struct Pair {
    Tensor host, device;
} Pair;

static Tensor with_guard(Tensor x) {
    Tensor bytes = tensor_1d(x.data, U8, (int64_t)tensor_bytes(x) + GUARD);
    bytes.place = x.place;
    return bytes;
}

static Pair pair_open(DType dtype, int64_t rows, int64_t width) {
    size_t bytes = (size_t)(rows * width) * dtype_bytes(dtype) + GUARD;
    Pair x = {.host = tensor_2d(malloc(bytes), dtype, rows, width)};
    CHECK(x.host.data, "no memory");
    memset(x.host.data, 0x5a, bytes);
    x.device = x.host;
    x.device.data = device_allocate(&dev, bytes, "test");
    x.device.place = ON_DEVICE;
    device_upload(&dev, with_guard(x.device), with_guard(x.host));
    return x;
}

static void pair_close(Pair *x) {
    device_release(&dev, x->device.data, tensor_bytes(x->host) + GUARD);
    free(x->host.data);
}

static void pair_upload(Pair x) {
    device_upload(&dev, with_guard(x.device), with_guard(x.host));
}

// Brings the device's bytes to the host and looks whether the guard is whole.
static void pair_download(Pair x, const char *what) {
    device_download(&dev, with_guard(x.host), with_guard(x.device));
    const unsigned char *guard = (const unsigned char *)x.host.data + tensor_bytes(x.host);
    for (int i = 0; i < GUARD; i++) EXPECT(guard[i] == 0x5a, "%s is written past its end", what);
}

static void set(Tensor host, int64_t i, int64_t value) {
    switch (host.dtype) {
    case F32:
        tensor_f32(host)[i] = (float)value;
        break;
    case F64:
        tensor_f64(host)[i] = (double)value;
        break;
    case I32:
        tensor_i32(host)[i] = (int32_t)value;
        break;
    case I64:
        tensor_i64(host)[i] = value;
        break;
    case BF16: // bits that say who sent them; nobody calculates with them
        tensor_bf16(host)[i] = (uint16_t)value;
        break;
    case U8:
        tensor_u8(host)[i] = (uint8_t)value;
        break;
    case F16:
    case I8:
        break; // do not travel
    }
}

static bool holds(Tensor host, int64_t i, int64_t value) {
    union {
        double aligned;
        unsigned char bytes[8];
    } wanted;
    Tensor one = tensor_1d(&wanted, host.dtype, 1);
    set(one, 0, value);
    size_t width = dtype_bytes(host.dtype);
    return memcmp((const char *)host.data + (size_t)i * width, wanted.bytes, width) == 0;
}

// Numbers of very different sizes, so that another order of summing gives other bits.
static void fill(Tensor host, uint32_t salt) {
    RngStream stream = {1, RNG_TEST, salt, (uint32_t)comm_rank()};
    for (int64_t i = 0; i < tensor_elements(host); i++) {
        double value = rng_normal(stream, (uint64_t)i) *
                       (double)(1 << (rng_u32(stream, 1000000u + (uint64_t)i) % 24));
        if (host.dtype == F32)
            tensor_f32(host)[i] = (float)value;
        else if (host.dtype == F64)
            tensor_f64(host)[i] = value;
        else
            set(host, i, (int64_t)value);
    }
}

static const DType summed[] = {F32, F64, I32, I64};
static const int64_t lengths[] = {0, 1,    3,
                                  8, 1000, 40009}; // the last: more than a pipe or a grid holds
enum { SUMMED = 4, LENGTHS = sizeof lengths / sizeof *lengths };

// ---- tests --------------------------------------------------------------------------------------

static void *watch(void *unused) {
    (void)unused;
    for (;;) {
        collectives_check();
        usleep(20000);
    }
    return NULL;
}

static void open_device(void) {
    Error err = {0};
    bool ok = device_open(&dev, "cuda", 1, comm_local_rank(), comm_local_size(), &err);
    if (!comm_agree(ok, &err)) {
        if (comm_rank() == 0) printf("skipped: %s\n", err.message);
        comm_finalize();
        exit(SKIPPED);
    }
    groups = process_groups_open(1, &dev);
    if (getenv("MOETRAIN_EMULATION_NCCL_ERROR")) {
        pthread_t watcher;
        CHECK(pthread_create(&watcher, NULL, watch, NULL) == 0, "no thread");
    }
}

// Each rank gives as many sums as the deal has nodes of its own.
static void expect_same_tree(Group *group, ShardDeal deal, DType dtype, int64_t n) {
    ShardNode nodes[SHARD_NODES_MAX];
    int others = shard_nodes(deal, group_rank(group), nodes) - 1;
    Pair x = pair_open(dtype, n, 1), more[SHARD_NODES_MAX];
    Pair scratch = pair_open(dtype, tree_sum_scratch_elements(deal, n), 1);
    Tensor host[SHARD_NODES_MAX], device[SHARD_NODES_MAX];
    fill(x.host, (uint32_t)n);
    pair_upload(x);
    for (int i = 0; i < others; i++) {
        more[i] = pair_open(dtype, n, 1);
        host[i] = more[i].host;
        device[i] = more[i].device;
        fill(more[i].host, (uint32_t)(n + 1 + i));
        pair_upload(more[i]);
    }
    Tensor wanted = tensor_2d(malloc(tensor_bytes(x.host) + 1), dtype, n, 1);
    CHECK(wanted.data, "no memory");
    memcpy(wanted.data, x.host.data, tensor_bytes(x.host));
    int64_t before = traffic_sent_bytes(TRAFFIC_GRADIENTS);
    Pending pending =
        tree_sum_begin(group, wanted, (TreeShare){deal, host, scratch.host}, TRAFFIC_GRADIENTS);
    collective_wait(&pending);
    int64_t between = traffic_sent_bytes(TRAFFIC_GRADIENTS);
    pending = tree_sum_begin(group, x.device, (TreeShare){deal, device, scratch.device},
                             TRAFFIC_GRADIENTS);
    collective_wait(&pending);
    EXPECT(traffic_sent_bytes(TRAFFIC_GRADIENTS) - between == between - before,
           "the device counts %lld bytes, the host %lld",
           (long long)(traffic_sent_bytes(TRAFFIC_GRADIENTS) - between),
           (long long)(between - before));
    pair_download(x, "the sum");
    pair_download(scratch, "the scratch");
    EXPECT(memcmp(x.host.data, wanted.data, tensor_bytes(wanted)) == 0, "%lld x %s over %d ranks",
           (long long)n, dtype_name(dtype), group_size(group));
    free(wanted.data);
    pair_close(&x);
    pair_close(&scratch);
    for (int i = 0; i < others; i++) pair_close(&more[i]);
}

static void the_tree_has_the_hosts_bits(void) {
    for (int d = 0; d < SUMMED; d++)
        for (int i = 0; i < LENGTHS; i++) {
            int size = comm_size();
            expect_same_tree(groups.world, shard_node_each(size), summed[d], lengths[i]);
            expect_same_tree(groups.world, (ShardDeal){16, size, size}, summed[d], lengths[i]);
        }
}

static void the_tree_works_in_subgroups(void) {
    for (int ep = 1; ep <= comm_size(); ep++) {
        if (comm_size() % ep != 0) continue;
        ProcessGroups split = process_groups_open(ep, &dev);
        expect_same_tree(split.world, (ShardDeal){64, comm_size(), ep}, F32, 101);
        expect_same_tree(split.expert_parallel, shard_node_each(ep), F32, 101);
        expect_same_tree(split.expert_replicas, shard_node_each(comm_size() / ep), F32, 101);
        process_groups_close(&split);
    }
}

static void sums_in_any_order_are_exact(void) {
    int64_t ranks = comm_size(), rank = comm_rank();
    for (int d = 0; d < SUMMED; d++)
        for (int i = 0; i < LENGTHS; i++) {
            int64_t n = lengths[i];
            Pair x = pair_open(summed[d], n, 1);
            for (int64_t j = 0; j < n; j++) set(x.host, j, (rank + 1) * 1000 + j % 97);
            pair_upload(x);
            all_reduce_sum(groups.world, x.device, REDUCE_ANY_ORDER, (Tensor){0},
                           TRAFFIC_GRADIENTS);
            pair_download(x, "the sum");
            for (int64_t j = 0; j < n; j++)
                EXPECT(holds(x.host, j, 1000 * ranks * (ranks + 1) / 2 + ranks * (j % 97)),
                       "element %lld of %lld %s", (long long)j, (long long)n,
                       dtype_name(summed[d]));
            pair_close(&x);
        }
}

static void sums_are_scattered(void) {
    int64_t ranks = comm_size(), rank = comm_rank();
    for (int d = 0; d < SUMMED; d++)
        for (int i = 0; i < LENGTHS; i++) {
            int64_t n = lengths[i];
            Pair in = pair_open(summed[d], n * ranks, 1), out = pair_open(summed[d], n, 1);
            for (int64_t j = 0; j < n * ranks; j++) set(in.host, j, (rank + 1) * 1000 + j % 97);
            pair_upload(in);
            int64_t before = traffic_sent_bytes(TRAFFIC_OTHER);
            reduce_scatter_sum(groups.world, out.device, in.device, TRAFFIC_OTHER);
            EXPECT(traffic_sent_bytes(TRAFFIC_OTHER) - before ==
                       n * (int64_t)dtype_bytes(summed[d]) * (ranks - 1),
                   "n %lld", (long long)n);
            pair_download(out, "the block");
            for (int64_t j = 0; j < n; j++) {
                int64_t own = (rank * n + j) % 97;
                EXPECT(holds(out.host, j, 1000 * ranks * (ranks + 1) / 2 + ranks * own),
                       "element %lld of %lld %s", (long long)j, (long long)n,
                       dtype_name(summed[d]));
            }
            pair_close(&in);
            pair_close(&out);
        }
}

static void blocks_are_gathered(void) {
    int64_t ranks = comm_size(), rank = comm_rank();
    static const DType dtypes[] = {F32, I32, BF16, U8, I64};
    for (int d = 0; d < 5; d++)
        for (int i = 0; i < LENGTHS; i++) {
            int64_t n = lengths[i];
            Pair in = pair_open(dtypes[d], n, 1), out = pair_open(dtypes[d], n * ranks, 1);
            for (int64_t j = 0; j < n; j++) set(in.host, j, rank * 31 + j % 13);
            pair_upload(in);
            int64_t before = traffic_sent_bytes(TRAFFIC_OTHER);
            all_gather(groups.world, out.device, in.device, TRAFFIC_OTHER);
            EXPECT(traffic_sent_bytes(TRAFFIC_OTHER) - before ==
                       n * (int64_t)dtype_bytes(dtypes[d]) * (ranks - 1),
                   "n %lld", (long long)n);
            pair_download(out, "all_gather");
            for (int64_t j = 0; j < n * ranks; j++)
                EXPECT(holds(out.host, j, j / n * 31 + j % n % 13), "element %lld of %lld %s",
                       (long long)j, (long long)n, dtype_name(dtypes[d]));
            pair_close(&in);
            pair_close(&out);
        }
}

static void every_rank_can_broadcast(void) {
    for (int root = 0; root < comm_size(); root++)
        for (int i = 0; i < LENGTHS; i++) {
            Pair x = pair_open(BF16, lengths[i], 1);
            for (int64_t j = 0; j < lengths[i]; j++)
                set(x.host, j, comm_rank() == root ? 100 * root + j % 89 : 7);
            pair_upload(x);
            broadcast_tensor(groups.world, x.device, root);
            pair_download(x, "broadcast");
            for (int64_t j = 0; j < lengths[i]; j++)
                EXPECT(holds(x.host, j, 100 * root + j % 89), "element %lld from %d", (long long)j,
                       root);
            pair_close(&x);
        }
}

static void blocks_change_places(void) {
    int64_t ranks = comm_size(), rank = comm_rank();
    for (int64_t n = 0; n <= 5; n++) {
        Pair in = pair_open(I32, ranks, n), out = pair_open(I32, ranks, n);
        for (int64_t i = 0; i < n * ranks; i++) set(in.host, i, rank * 1000 + i / n * 10 + i % n);
        pair_upload(in);
        int64_t before = traffic_sent_bytes(TRAFFIC_COUNTS);
        all_to_all(groups.world, out.device, in.device, TRAFFIC_COUNTS);
        EXPECT(traffic_sent_bytes(TRAFFIC_COUNTS) - before == 4 * n * (ranks - 1), "n %lld",
               (long long)n);
        pair_download(out, "all_to_all");
        for (int64_t i = 0; i < n * ranks; i++)
            EXPECT(holds(out.host, i, i / n * 1000 + rank * 10 + i % n), "element %lld",
                   (long long)i);
        pair_close(&in);
        pair_close(&out);
    }
}

// How many rows `from` sends to `to` in each pattern of uneven and empty sends.
enum { PATTERNS = 8 };
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
    case 6: // what rank 0 sends and receives is even by chance, the rest is not
        return from == 0 || to == 0 ? 2 : 1 + (from * to) % 3;
    default: // more than a pipe holds
        return 700 + 31 * ((from + 2 * to) % 5);
    }
}

// An exchange of the pattern's rows. Runs lie one after the other, or scattered: in falling order
// of the ranks, with a row between them that nobody may touch.
typedef struct Exchange {
    int64_t send[MAX_RANKS], receive[MAX_RANKS], send_first[MAX_RANKS], receive_first[MAX_RANKS];
    bool scattered;
    int salt;
    Pair in, out, source, result;
} Exchange;

enum { UNTOUCHED = 12345 };

static int64_t row_value(int from, int to, int64_t row, int64_t column, int salt) {
    return (from * 4099 + to * 509 + row * 7 + column + salt * 1009) %
           32749; // bf16 holds it as bits
}

static int64_t lay_out(int64_t *first, const int64_t *rows, bool scattered) {
    int64_t total = 0;
    for (int i = 0; i < comm_size(); i++) {
        int p = scattered ? comm_size() - 1 - i : i;
        first[p] = total;
        total += rows[p] + (scattered ? 1 : 0);
    }
    return total;
}

static Exchange exchange_open(int pattern, DType dtype, int64_t width, bool scattered, int salt) {
    Exchange e = {.scattered = scattered, .salt = salt};
    for (int p = 0; p < comm_size(); p++) {
        e.send[p] = rows_between(pattern, comm_rank(), p);
        e.receive[p] = rows_between(pattern, p, comm_rank());
    }
    int64_t sent = lay_out(e.send_first, e.send, scattered);
    int64_t received = lay_out(e.receive_first, e.receive, scattered);
    e.source = pair_open(dtype, sent, width);
    e.in = pair_open(dtype, sent, width);
    e.out = pair_open(dtype, received, width);
    e.result = pair_open(dtype, received, width);
    for (int64_t i = 0; i < sent * width; i++) set(e.source.host, i, UNTOUCHED);
    for (int64_t i = 0; i < received * width; i++) set(e.out.host, i, UNTOUCHED);
    for (int p = 0; p < comm_size(); p++)
        for (int64_t i = 0; i < e.send[p] * width; i++)
            set(e.source.host, e.send_first[p] * width + i,
                row_value(comm_rank(), p, i / width, i % width, salt));
    pair_upload(e.source);
    pair_upload(e.out);
    return e;
}

// The rows are written by an op just before and read by one just after, and nobody waits for
// either: only the order of the streams keeps the exchange between them.
static Pending exchange_begin(Exchange *e) {
    RowRuns receive = {e->receive, e->scattered ? e->receive_first : NULL};
    RowRuns send = {e->send, e->scattered ? e->send_first : NULL};
    copy(&dev, e->in.device, e->source.device);
    return all_to_all_rows_begin(groups.world, e->out.device, receive, e->in.device, send,
                                 TRAFFIC_DISPATCH);
}

static void exchange_wait(Exchange *e, Pending *pending) {
    collective_wait(pending);
    EXPECT(!pending->group, "it stays pending");
    copy(&dev, e->result.device, e->out.device);
    fill_zero(&dev, e->out.device);
}

static void exchange_close(Exchange *e) {
    int64_t width = e->out.host.shape[1];
    pair_download(e->out, "the received rows");
    pair_download(e->result, "the copy of the received rows");
    for (int p = 0; p < comm_size(); p++) {
        for (int64_t i = 0; i < e->receive[p] * width; i++)
            EXPECT(holds(e->result.host, e->receive_first[p] * width + i,
                         row_value(p, comm_rank(), i / width, i % width, e->salt)),
                   "element %lld from rank %d of exchange %d", (long long)i, p, e->salt);
        for (int64_t i = 0; e->scattered && i < width; i++)
            EXPECT(
                holds(e->result.host, (e->receive_first[p] + e->receive[p]) * width + i, UNTOUCHED),
                "exchange %d wrote behind the run of rank %d", e->salt, p);
    }
    pair_close(&e->source);
    pair_close(&e->in);
    pair_close(&e->out);
    pair_close(&e->result);
}

static void rows_travel_unevenly(void) {
    static const DType dtypes[] = {F32, BF16};
    for (int pattern = 0; pattern < PATTERNS; pattern++)
        for (int d = 0; d < 2; d++)
            for (int scattered = 0; scattered < 2; scattered++) {
                int64_t width = 1 + 16 * ((pattern + d) % 2);
                Exchange e = exchange_open(pattern, dtypes[d], width, scattered, pattern);
                int64_t crossing = -e.send[comm_rank()];
                for (int p = 0; p < comm_size(); p++) crossing += e.send[p];
                int64_t before = traffic_sent_bytes(TRAFFIC_DISPATCH);
                Pending pending = exchange_begin(&e);
                int64_t counted = traffic_sent_bytes(TRAFFIC_DISPATCH) - before;
                EXPECT(counted == crossing * width * (int64_t)dtype_bytes(dtypes[d]),
                       "pattern %d: %lld bytes counted", pattern, (long long)counted);
                exchange_wait(&e, &pending);
                exchange_close(&e);
            }
}

// Four collectives on their way, of one group and of two kinds, waited for in another order; many
// times, since streams that nobody orders may fall into the right order by chance.
static void exchanges_overlap(void) {
    static const int order[] = {2, 0, 1};
    for (int round = 0; round < 10; round++) {
        Exchange e[3];
        Pending pending[3], sum_pending;
        Pair sum = pair_open(F32, 77, 1);
        Pair scratch = pair_open(F32, all_reduce_scratch_elements(comm_size(), 77), 1);
        for (int64_t i = 0; i < 77; i++) set(sum.host, i, comm_rank() + i + round);
        pair_upload(sum);
        for (int i = 0; i < 3; i++)
            e[i] = exchange_open(i == 0 ? 7 : i, i == 1 ? BF16 : F32, 8, i == 2, 10 * round + i);
        pending[0] = exchange_begin(&e[0]);
        sum_pending = all_reduce_sum_begin(groups.world, sum.device, REDUCE_FIXED_TREE,
                                           scratch.device, TRAFFIC_GRADIENTS);
        pending[1] = exchange_begin(&e[1]);
        pending[2] = exchange_begin(&e[2]);
        for (int i = 0; i < 3; i++) exchange_wait(&e[order[i]], &pending[order[i]]);
        collective_wait(&sum_pending);
        collective_wait(&sum_pending); // legal on a zeroed one
        pair_download(sum, "the sum");
        int64_t ranks = comm_size();
        for (int64_t i = 0; i < 77; i++)
            EXPECT(holds(sum.host, i, ranks * (ranks - 1) / 2 + ranks * (i + round)),
                   "element %lld of the sum", (long long)i);
        for (int i = 0; i < 3; i++) exchange_close(&e[i]);
        pair_close(&sum);
        pair_close(&scratch);
    }
}

static void padded_rows_travel(void) {
    enum { ROWS = 5, WIDTH = 24 };
    int64_t rows[MAX_RANKS], ranks = comm_size(), rank = comm_rank();
    for (int d = 0; d < 2; d++)
        for (int64_t count = 0; count <= ROWS; count += ROWS) {
            DType dtype = d ? BF16 : F32;
            for (int p = 0; p < ranks; p++) rows[p] = count;
            Pair in = pair_open(dtype, ranks * count, WIDTH);
            Pair out = pair_open(dtype, ranks * count, WIDTH);
            for (int64_t i = 0; i < tensor_elements(in.host); i++) set(in.host, i, rank * 3000 + i);
            pair_upload(in);
            RowRuns padded = {rows, NULL};
            Pending pending = all_to_all_rows_begin(groups.world, out.device, padded, in.device,
                                                    padded, TRAFFIC_DISPATCH);
            memset(rows, 0xff, sizeof rows); // used up
            collective_wait(&pending);
            pair_download(out, "the received rows");
            int64_t block = count * WIDTH;
            for (int64_t i = 0; i < tensor_elements(out.host); i++)
                EXPECT(holds(out.host, i, i / block * 3000 + rank * block + i % block),
                       "element %lld of %s", (long long)i, dtype_name(dtype));
            pair_close(&in);
            pair_close(&out);
        }
}

// Rank 0 waits for its device before a collective of the hosts, the others after it; the device's
// work crosses ranks.
static void hosts_and_devices_go_on_independently(void) {
    for (int round = 0; round < 5; round++) {
        Pair x = pair_open(I64, 30000, 1);
        for (int64_t i = 0; i < 30000; i++) set(x.host, i, i + round);
        pair_upload(x);
        all_reduce_sum(groups.world, x.device, REDUCE_ANY_ORDER, (Tensor){0}, TRAFFIC_OTHER);
        if (comm_rank() == round % comm_size()) device_synchronize(&dev);
        int64_t one = 1;
        all_reduce_sum(groups.world, tensor_1d(&one, I64, 1), REDUCE_ANY_ORDER, (Tensor){0},
                       TRAFFIC_OTHER);
        EXPECT(one == comm_size(), "%lld", (long long)one);
        pair_download(x, "the sum");
        for (int64_t i = 0; i < 30000; i++)
            EXPECT(holds(x.host, i, (i + round) * comm_size()), "element %lld", (long long)i);
        pair_close(&x);
    }
    collectives_check(); // nothing has failed
}

static void close_device(void) {
    process_groups_close(&groups);
    collectives_check(); // nothing to look at
    device_close(&dev);
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"every rank opens a device, and groups with it", open_device},
        {"the fixed tree gives the host's bits, in any length and dtype",
         the_tree_has_the_hosts_bits},
        {"the fixed tree works in expert-parallel and replica groups", the_tree_works_in_subgroups},
        {"sums of whole numbers in any order are exact", sums_in_any_order_are_exact},
        {"blocks of a sum reach their ranks", sums_are_scattered},
        {"gathered blocks reach all ranks", blocks_are_gathered},
        {"every rank can broadcast, also nothing", every_rank_can_broadcast},
        {"equal blocks change places", blocks_change_places},
        {"rows travel, uneven, empty and scattered runs included", rows_travel_unevenly},
        {"four collectives are on their way at once", exchanges_overlap},
        {"rows travel in equal numbers", padded_rows_travel},
        {"hosts and devices go on independently", hosts_and_devices_go_on_independently},
        {"groups and device can be closed", close_device},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
