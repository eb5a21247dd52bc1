// Ranks that do not do the same together: the argument names what rank 1 does otherwise than the
// others. In a build with MOETRAIN_DEBUG it ends with one message that has both; in others it hangs
// or goes wrong elsewhere, so it is not run there.
#include <stdio.h>
#include <string.h>

#include "comm/collectives.h"
#include "comm/comm.h"

static bool odd; // this rank is the other one
static char data[4096], more[4096];

static Tensor numbers(DType dtype, int64_t n) {
    return tensor_1d(data, dtype, n);
}

static void sum(Group *group, DType dtype, int64_t n, ReduceOrder order, TrafficKind kind) {
    all_reduce_sum(group, numbers(dtype, n), order, tensor_1d(more, dtype, n), kind);
}

static void length(Group *group) {
    sum(group, F32, odd ? 7 : 8, REDUCE_ANY_ORDER, TRAFFIC_GRADIENTS);
}
static void nothing_at_all(Group *group) {
    sum(group, F32, odd ? 0 : 8, REDUCE_ANY_ORDER, TRAFFIC_GRADIENTS);
}
static void dtype(Group *group) {
    sum(group, odd ? I32 : F32, 8, REDUCE_ANY_ORDER, TRAFFIC_GRADIENTS);
}
static void order(Group *group) {
    sum(group, F32, 8, odd ? REDUCE_ANY_ORDER : REDUCE_FIXED_TREE, TRAFFIC_GRADIENTS);
}
static void kind(Group *group) {
    sum(group, F32, 8, REDUCE_ANY_ORDER, odd ? TRAFFIC_STATISTICS : TRAFFIC_GRADIENTS);
}
static void root(Group *group) {
    broadcast(group, data, 16, odd ? 1 : 0);
}
static void call(Group *group) {
    if (odd)
        barrier(group);
    else
        sum(group, F64, 3, REDUCE_ANY_ORDER, TRAFFIC_STATISTICS);
}
static void group_of_all(Group *group) {
    barrier(odd ? comm_world() : group);
}
// The kind that a rank that returns alone makes: the others agree, it goes on or leaves.
static void agreement(Group *group) {
    Error err = {0};
    if (odd)
        broadcast(group, data, 16, 0);
    else
        comm_agree(true, &err);
}
static void rows(Group *group) {
    int64_t send[8] = {0}, receive[8] = {0};
    for (int p = 0; p < group_size(group); p++) send[p] = receive[p] = 2;
    if (odd) receive[0] = 3;
    Tensor in = tensor_2d(data, F32, 16, 4), out = tensor_2d(more, F32, 17, 4);
    all_to_all_rows(group, out, (RowRuns){receive, NULL}, in, (RowRuns){send, NULL},
                    TRAFFIC_DISPATCH);
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(Group *group);
    } plants[] = {
        {"length", length}, {"nothing_at_all", nothing_at_all},
        {"dtype", dtype},   {"order", order},
        {"kind", kind},     {"root", root},
        {"call", call},     {"group_of_all", group_of_all},
        {"rows", rows},     {"agreement", agreement},
    };
    comm_init(&argc, &argv);
    odd = comm_rank() == 1;
    ProcessGroups groups = process_groups_open(1, NULL);
    for (size_t i = 0; i < sizeof plants / sizeof *plants; i++)
        if (argc > 1 && strcmp(argv[1], plants[i].name) == 0) plants[i].run(groups.world);
    barrier(groups.world);
    process_groups_close(&groups);
    comm_finalize();
    return 0;
}
