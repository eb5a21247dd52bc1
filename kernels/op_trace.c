#include "kernels/op_trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/log.h"

typedef struct OpTrace {
    Backend backend; // of the device: the bare one but for its ops, which write, and its end
    FILE *file;
    char *path;
    int64_t ops; // so far
    Tensor sums; // (1, 2) i64 on the device
} OpTrace;

// ---- what an op takes, one by one ---------------------------------------------------------------

static uint64_t hash_of(Device *dev, const OpTrace *trace, Tensor x) {
    int64_t sums[2], rows = x.shape[0];
    dev->bare->op.fill_zero(dev, trace->sums);
    dev->bare->op.checksums(dev, trace->sums, x,
                            (CheckedRuns){.count = 1, .rows = &rows, .except = -1});
    dev->bare->download(dev, sums, trace->sums.data, sizeof sums);
    return checksums_hash(sums);
}

// `member` of what is called `name`; NULL: that itself.
static void trace_member(Device *dev, OpTrace *trace, const char *name, const char *member,
                         Tensor x) {
    fprintf(trace->file, " %s%s%s=", name, member ? "." : "", member ? member : "");
    if (!x.data) {
        fprintf(trace->file, "-");
        return;
    }
    fprintf(trace->file, "%s", dtype_name(x.dtype));
    for (int i = 0; i < x.rank; i++)
        fprintf(trace->file, "%c%lld", i == 0 ? '[' : ',', (long long)x.shape[i]);
    fprintf(trace->file, "]:%016llx", (unsigned long long)hash_of(dev, trace, x));
}

static void trace_tensor(Device *dev, OpTrace *trace, const char *name, Tensor x) {
    trace_member(dev, trace, name, NULL, x);
}

static void trace_integer(Device *dev, OpTrace *trace, const char *name, long long value) {
    (void)dev;
    fprintf(trace->file, " %s=%lld", name, value);
}

static void trace_number(Device *dev, OpTrace *trace, const char *name, double value) {
    (void)dev;
    fprintf(trace->file, " %s=%.17g", name, value);
}

static void trace_nothing(Device *dev, OpTrace *trace, const char *name, ...) {
    (void)dev, (void)trace, (void)name;
}

// f(a) f(b) … of at most nine.
#define EACH(f, ...)                                                                               \
    PICK(__VA_ARGS__, EACH_9, EACH_8, EACH_7, EACH_6, EACH_5, EACH_4, EACH_3, EACH_2, EACH_1, )    \
    (f, __VA_ARGS__)
#define COUNT(...)                                   PICK(__VA_ARGS__, 9, 8, 7, 6, 5, 4, 3, 2, 1, )
#define PICK(a, b, c, d, e, f, g, h, i, picked, ...) picked
#define EACH_1(f, a)                                 f(a)
#define EACH_2(f, a, ...)                            f(a) EACH_1(f, __VA_ARGS__)
#define EACH_3(f, a, ...)                            f(a) EACH_2(f, __VA_ARGS__)
#define EACH_4(f, a, ...)                            f(a) EACH_3(f, __VA_ARGS__)
#define EACH_5(f, a, ...)                            f(a) EACH_4(f, __VA_ARGS__)
#define EACH_6(f, a, ...)                            f(a) EACH_5(f, __VA_ARGS__)
#define EACH_7(f, a, ...)                            f(a) EACH_6(f, __VA_ARGS__)
#define EACH_8(f, a, ...)                            f(a) EACH_7(f, __VA_ARGS__)
#define EACH_9(f, a, ...)                            f(a) EACH_8(f, __VA_ARGS__)

// The tensors of a struct; that none is left out shows in its size.
#define MEMBER(member) trace_member(dev, trace, name, #member, value.member);
#define STRUCT(Type, ...)                                                                          \
    _Static_assert(sizeof(Type) < (COUNT(__VA_ARGS__) + 1) * sizeof(Tensor),                       \
                   "a tensor is missing");                                                         \
    static void trace_##Type(Device *dev, OpTrace *trace, const char *name, Type value) {          \
        EACH(MEMBER, __VA_ARGS__)                                                                  \
    }
STRUCT(Segments, device_offsets)
STRUCT(QuantizedMatrix, values, scales)
STRUCT(NormParams, weight, bias)
STRUCT(QkNorm, q_weight, k_weight)
STRUCT(RowPositions, of_rows)
STRUCT(Dropout, rows)
STRUCT(Routing, ids, weights, lse, squares)
STRUCT(RouterSums, prob_sum, entropy_sum, lse2_sum, weight_mass, tokens_per_expert, dropped,
       first_choices)
STRUCT(RouterTotals, totals, routed, dropped)
STRUCT(NoisyLogits, raw, noisy, scale)
STRUCT(ExchangePlan, offsets, send_rows, receive_rows, to_expert, to_received)
STRUCT(ColumnMoments, mean, variance)
STRUCT(NamedRows, table, coefficients)
STRUCT(LaggingRows, updates, history, marks, listed)
STRUCT(CheckedRuns, index)

static void trace_NamedTables(Device *dev, OpTrace *trace, const char *name, NamedTables tables) {
    for (int64_t t = 0; t < tables.count; t++) trace_NamedRows(dev, trace, name, tables.rows[t]);
}

static void trace_AttentionRule(Device *dev, OpTrace *trace, const char *name,
                                AttentionRule value) {
    EACH(MEMBER, sinks, positions, slopes)
}

// ---- the ops ------------------------------------------------------------------------------------

// How a parameter of each type is written. `OF_##parameter` replaces the type in front of its name:
// OF_Tensor y is `trace_tensor, y`. A type without a row here does not compile.
#define OF_Tensor          trace_tensor,
#define OF_int64_t         trace_integer,
#define OF__Bool           trace_integer, // bool
#define OF_Activation      trace_integer,
#define OF_float           trace_number,
#define OF_double          trace_number,
#define OF_Segments        trace_Segments,
#define OF_QuantizedMatrix trace_QuantizedMatrix,
#define OF_NormParams      trace_NormParams,
#define OF_QkNorm          trace_QkNorm,
#define OF_RowPositions    trace_RowPositions,
#define OF_AttentionRule   trace_AttentionRule,
#define OF_Dropout         trace_Dropout,
#define OF_Routing         trace_Routing,
#define OF_RouterSums      trace_RouterSums,
#define OF_RouterTotals    trace_RouterTotals,
#define OF_NoisyLogits     trace_NoisyLogits,
#define OF_ExchangePlan    trace_ExchangePlan,
#define OF_ColumnMoments   trace_ColumnMoments,
#define OF_NamedRows       trace_NamedRows,
#define OF_NamedTables     trace_NamedTables,
#define OF_LaggingRows     trace_LaggingRows,
#define OF_CheckedRuns     trace_CheckedRuns,
#define OF_Arriving        trace_nothing, // its other rows would depend on when it is asked
#define OF_Scratch         trace_nothing,
// Rules and shapes: without tensors.
#define OF_NormRule         trace_nothing,
#define OF_AttentionShape   trace_nothing,
#define OF_RouterRule       trace_nothing,
#define OF_RouterNoise      trace_nothing,
#define OF_ExpertDraw       trace_nothing,
#define OF_CapacityRule     trace_nothing,
#define OF_BalanceRule      trace_nothing,
#define OF_VariationTerm    trace_nothing,
#define OF_DocumentTerm     trace_nothing,
#define OF_ExchangeCut      trace_nothing,
#define OF_RowNumbering     trace_nothing,
#define OF_ColumnBlocks     trace_nothing,
#define OF_AdamW            trace_nothing,
#define OF_Sgd              trace_nothing,
#define OF_Lion             trace_nothing,
#define OF_Momentum         trace_nothing,
#define OF_MatrixPolynomial trace_nothing,
#define OF_DecayedStep      trace_nothing,

#define ARGUMENT(parameter)     , ARGUMENT_OF(OF_##parameter)
#define ARGUMENT_OF(...)        ARGUMENT_PAIR(__VA_ARGS__)
#define ARGUMENT_PAIR(write, x) x
#define WRITE(parameter)        WRITE_OF(OF_##parameter)
#define WRITE_OF(...)           WRITE_PAIR(__VA_ARGS__)
#define WRITE_PAIR(write, x)    write(dev, trace, #x, x);

static void end_line(const OpTrace *trace) {
    fputc('\n', trace->file);
    if (ferror(trace->file))
        die(EXIT_IO, __FILE__, __LINE__, "cannot write %s: %s; free space on its disk", trace->path,
            strerror(errno));
}

#define OP(name, ...)                                                                              \
    static void name##_traced(Device *dev, __VA_ARGS__) {                                          \
        OpTrace *trace = (OpTrace *)dev->backend;                                                  \
        dev->bare->op.name(dev EACH(ARGUMENT, __VA_ARGS__));                                       \
        fprintf(trace->file, "%lld %s", (long long)++trace->ops, #name);                           \
        EACH(WRITE, __VA_ARGS__)                                                                   \
        end_line(trace);                                                                           \
    }
OPS(OP)
#undef OP

#define OP(name, ...) .name = name##_traced,
static const Ops traced_ops = {OPS(OP)};
#undef OP

// ---- opening ------------------------------------------------------------------------------------

static void op_trace_close(Device *dev) {
    OpTrace *trace = (OpTrace *)dev->backend;
    dev->backend = dev->bare;
    fclose(trace->file);
    device_release(dev, trace->sums.data, tensor_bytes(trace->sums));
    dev->backend->close(dev);
    free(trace->path);
    free(trace);
}

bool op_trace_open(Device *dev, const char *prefix, Error *err) {
    static int devices; // of this process that have been traced
    char further[32] = "";
    if (++devices > 1) snprintf(further, sizeof further, "-device-%d", devices);
    OpTrace *trace = calloc(1, sizeof *trace);
    CHECK_MEMORY(trace &&
                     asprintf(&trace->path, "%s-rank-%d%s.txt", prefix, log_rank(), further) > 0,
                 "no memory for a trace");
    trace->file = fopen(trace->path, "w");
    if (!trace->file) {
        error_set(err, EXIT_IO, "cannot write %s: %s", trace->path, strerror(errno));
        free(trace->path);
        free(trace);
        return false;
    }
    setvbuf(trace->file, NULL, _IOLBF, 0); // all lines are there when an op ends the process
    log_warn("tracing every op into %s: slow", trace->path);
    trace->backend = *dev->bare;
    trace->backend.op = traced_ops;
    trace->backend.close = op_trace_close;
    trace->sums = tensor_2d(NULL, I64, 1, 2);
    trace->sums.data = device_allocate(dev, tensor_bytes(trace->sums), "the trace of ops");
    trace->sums.place = dev->place;
    dev->backend = &trace->backend;
    return true;
}
