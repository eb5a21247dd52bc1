#include "model/exchange_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

static const Choice CHECKS[] = {
    [CHECK_EXCHANGES_AUTO] = {"auto", "on where rows travel through the memory of hosts: on CPUs"},
    [CHECK_EXCHANGES_ON] = {"on", "always"},
    [CHECK_EXCHANGES_OFF] = {"off", "never"},
};
const ChoiceTable EXCHANGE_CHECKS_CHOICES = CHOICE_TABLE(CHECKS);

static const char *const way_names[EXCHANGE_WAYS] = {
    [DISPATCH_TOKENS] = "dispatch of tokens",
    [COMBINE_OUTPUTS] = "combine of outputs",
    [DISPATCH_GRADIENTS] = "dispatch of the outputs' gradients",
    [COMBINE_GRADIENTS] = "combine of the inputs' gradients",
};

// The first of its peers' places.
static int64_t place_of(const Work *work, int64_t layer, ExchangeWay way, ExchangeSide side) {
    return ((layer * EXCHANGE_WAYS + way) * EXCHANGE_SIDES + side) * work->shape.ep_size;
}

static int64_t places(const Work *work) {
    return place_of(work, model_blocks(work->config), (ExchangeWay)0, (ExchangeSide)0);
}

void exchange_check_layout(ExchangeCheck *check, Work *work, Statistics *stats, Arena *activations,
                           ExchangeChecks wanted) {
    bool on_host = !work->dev || work->dev->place == ON_HOST;
    *check = (ExchangeCheck){0};
    check->on = work->training && work->shape.ep_size > 1 &&
                (wanted == CHECK_EXCHANGES_ON || (wanted == CHECK_EXCHANGES_AUTO && on_host));
    work->exchange_check = check;
    if (!check->on) return;
    check->column = statistics_counts(stats, EXCHANGE_COLUMN, STATISTICS_MODEL, EXCHANGE_REMAINDER);
    check->sums = arena_2d(activations, I64, places(work), 2);
    check->host_sums = arena_mirror(work->host, check->sums);
    check->rows = arena_1d(work->host, I64, places(work));
    check->remainder = arena_1d(work->host, I64, EXCHANGE_REMAINDER);
}

void exchange_check_clear(ExchangeCheck *check, Work *work) {
    if (!check->on) return;
    fill_zero(work->dev, check->sums);
    memset(check->rows.data, 0, tensor_bytes(check->rows));
}

void exchange_check_add(Work *work, int64_t layer, ExchangeWay way, ExchangeSide side, Tensor rows,
                        RowRuns runs) {
    ExchangeCheck *check = work->exchange_check;
    if (!check || !check->on) return;
    int64_t ep = work->shape.ep_size, own = work->shape.ep_rank;
    int64_t first = place_of(work, layer, way, side);
    checksums(work->dev, tensor_rows(check->sums, first, ep), rows,
              (CheckedRuns){.count = ep, .first = runs.first, .rows = runs.rows, .except = own});
    for (int64_t peer = 0; peer < ep; peer++)
        if (peer != own) tensor_i64(check->rows)[first + peer] += runs.rows[peer];
}

static void add_with_sign(const ExchangeCheck *check, int64_t first, int64_t count, bool minus,
                          uint64_t remainder[EXCHANGE_REMAINDER]) {
    const int64_t *sums = tensor_i64(check->host_sums), *rows = tensor_i64(check->rows);
    for (int64_t i = first; i < first + count; i++) {
        uint64_t of[] = {(uint64_t)rows[i], (uint64_t)sums[2 * i], (uint64_t)sums[2 * i + 1]};
        for (int k = 0; k < EXCHANGE_REMAINDER; k++) remainder[k] += minus ? -of[k] : of[k];
    }
}

void exchange_check_add_up(ExchangeCheck *check, Work *work, const Statistics *stats) {
    if (!check->on) return;
    uint64_t remainder[EXCHANGE_REMAINDER] = {0};
    int64_t ep = work->shape.ep_size;
    device_download(work->dev, check->host_sums, check->sums);
    for (int64_t i = 0; i < places(work); i += ep)
        add_with_sign(check, i, ep, i / ep % EXCHANGE_SIDES == SIDE_RECEIVED, remainder);
    memcpy(check->remainder.data, remainder, sizeof remainder);
    device_upload(work->dev, statistics_count_range(stats, check->column, EXCHANGE_REMAINDER),
                  check->remainder);
}

// ---- who ----------------------------------------------------------------------------------------

// What the ranks of the group sent, and where they are.
typedef struct Peers {
    int64_t *sums, *rows; // (ep, places, 2), (ep, places)
    char (*hosts)[64];
} Peers;

static Peers gather(const ExchangeCheck *check, const Work *work) {
    Group *group = work->groups.expert_parallel;
    int64_t ep = work->shape.ep_size, n = places(work);
    char host[64] = "";
    Peers peers = {calloc((size_t)(ep * n), 2 * sizeof *peers.sums),
                   calloc((size_t)(ep * n), sizeof *peers.rows), calloc((size_t)ep, sizeof host)};
    CHECK_MEMORY(peers.sums && peers.rows && peers.hosts, "no memory for the sums of %lld ranks",
                 (long long)ep);
    snprintf(host, sizeof host, "%.63s", comm_host());
    all_gather(group, tensor_1d(peers.sums, I64, ep * n * 2),
               tensor_reshape_1d(check->host_sums, 2 * n), TRAFFIC_OTHER);
    all_gather(group, tensor_1d(peers.rows, I64, ep * n), check->rows, TRAFFIC_OTHER);
    all_gather(group, tensor_1d(peers.hosts, U8, ep * (int64_t)sizeof host),
               tensor_1d(host, U8, sizeof host), TRAFFIC_OTHER);
    return peers;
}

// Whether this rank received from `peer` what that had sent.
static bool arrived(const ExchangeCheck *check, const Work *work, const Peers *peers, int64_t layer,
                    ExchangeWay way, int64_t peer, Error *err) {
    int64_t ep = work->shape.ep_size, own = work->shape.ep_rank;
    int64_t here = place_of(work, layer, way, SIDE_RECEIVED) + peer;
    int64_t there = peer * places(work) + place_of(work, layer, way, SIDE_SENT) + own;
    int64_t rows = tensor_i64(check->rows)[here], sent = peers->rows[there];
    if (rows == sent && memcmp(tensor_i64(check->host_sums) + 2 * here, peers->sums + 2 * there,
                               2 * sizeof *peers->sums) == 0)
        return true;
    int64_t first = work->shape.rank / ep * ep;
    return error_set(err, EXIT_COMMUNICATION,
                     "layer %lld, %s: rank %lld on %s did not receive what rank %lld on %s sent "
                     "(%lld rows sent, %lld received, checksums %s); the step is not applied and "
                     "nothing is saved. Go on from the last checkpoint; if it happens again look "
                     "for the memory and the network of these hosts",
                     (long long)layer, way_names[way], (long long)(first + own), comm_host(),
                     (long long)(first + peer), peers->hosts[peer], (long long)sent,
                     (long long)rows, rows == sent ? "differ" : "of different rows");
}

static bool find(const ExchangeCheck *check, const Work *work, const Peers *peers, Error *err) {
    for (int64_t layer = 0; layer < model_blocks(work->config); layer++)
        for (int way = 0; way < EXCHANGE_WAYS; way++)
            for (int64_t peer = 0; peer < work->shape.ep_size; peer++)
                if (peer != work->shape.ep_rank &&
                    !arrived(check, work, peers, layer, (ExchangeWay)way, peer, err))
                    return false;
    return true;
}

bool exchange_check_verify(const ExchangeCheck *check, Work *work, const Statistics *stats,
                           Error *err) {
    if (!check->on) return true;
    const int64_t *remainder = statistics_count_values(stats, EXCHANGE_COLUMN, STATISTICS_MODEL);
    bool zero = true; // the same on every rank
    for (int k = 0; k < EXCHANGE_REMAINDER; k++) zero = zero && remainder[k] == 0;
    if (zero) return true;
    Peers peers = gather(check, work);
    bool ok = find(check, work, &peers, err);
    free(peers.sums);
    free(peers.rows);
    free(peers.hosts);
    if (!comm_agree_named(ok, err)) return false;
    return error_set(err, EXIT_COMMUNICATION,
                     "the sums of what was sent and received differ over all ranks and agree "
                     "between each two: the sum over ranks itself was damaged; go on from the "
                     "last checkpoint");
}
