// The phases of a run, and numbers that change on one rank.
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/file_io.h"
#include "checkpoint/verify.h"
#include "comm/comm.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "worker/evaluate.h"
#include "worker/trainer.h"
#include "worker/watch/watchdog.h"

#include "fault.h"
#include "wrap.h"

// ---- numbers ------------------------------------------------------------------------------------

// One bit of an element's bytes (little-endian: bit 31 of an f32 is its sign).
static void flip(char *element, size_t bytes, int bit) {
    bit %= (int)(8 * bytes);
    element[bit / 8] ^= (char)(1 << bit % 8);
}

// An f32 tensor's element, on whatever device.
static void change_element(Device *dev, Tensor x, const Fault *fault) {
    float value;
    Tensor there = tensor_range(x, fault->element % tensor_elements(x), 1);
    Tensor here = tensor_1d(&value, F32, 1);
    if (there.place == ON_HOST) {
        here = there;
    } else {
        device_download(dev, here, there);
    }
    float *number = tensor_f32(here);
    if (fault->kind == FAULT_NAN) *number = NAN;
    if (fault->kind == FAULT_FLIP) flip((char *)number, sizeof *number, fault->bit);
    if (there.place == ON_DEVICE) device_upload(dev, there, here);
}

static void multiply(Device *dev, Tensor x, double factor) {
    float *values = malloc(tensor_bytes(x));
    Tensor here = x.place == ON_HOST ? x : tensor_1d(values, F32, tensor_elements(x));
    if (x.place == ON_DEVICE) device_download(dev, here, x);
    for (int64_t i = 0; i < tensor_elements(x); i++) tensor_f32(here)[i] *= (float)factor;
    if (x.place == ON_DEVICE) device_upload(dev, x, here);
    free(values);
}

static void change(Device *dev, Tensor x, const Fault *fault) {
    if (fault->kind == FAULT_SCALE) {
        multiply(dev, x, fault->factor);
    } else {
        change_element(dev, x, fault);
    }
}

static const FaultKind changes[] = {FAULT_NAN, FAULT_FLIP, FAULT_SCALE};

// The parameter that a fault names, or the first that the set has here.
static void change_parameter(Model *model, ParamSet set, FaultTarget target) {
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const Fault *fault = fault_due(changes[i], target);
        if (!fault) continue;
        const ParamTable *table = &model->params;
        const Param *row = fault->tensor[0] ? param_find(table, fault->tensor) : table->rows;
        if (!row || (target == IN_GRADIENT && row->run == RUN_RULE)) {
            fprintf(stderr, "moetrain: error: MOETRAIN_FAULT: no such parameter: %s\n",
                    fault->tensor);
            _exit(2);
        }
        fault_say(fault, "%s %s, element %lld", target == IN_WEIGHT ? "weight" : "gradient of",
                  row->name, (long long)fault->element);
        change(model->work.dev, param_tensor(table, set, (int)(row - table->rows)), fault);
    }
}

// ---- results of ops ----------------------------------------------------------------------------

static void change_result(Device *dev, const char *op, Tensor out) {
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const Fault *fault = fault_due_in_result(changes[i], op);
        if (!fault) continue;
        fault_say(fault, "result of %s", op);
        change(dev, out, fault);
    }
}

WRAP(void, matmul_forward, Device *dev, Tensor y, Tensor x, Tensor w, Segments rows) {
    __real_matmul_forward(dev, y, x, w, rows);
    change_result(dev, "matmul_forward", y);
}

WRAP(void, normalize_forward, Device *dev, Tensor out, Tensor statistics, Tensor sum, Tensor x,
     Tensor branch, NormParams params, NormRule rule) {
    __real_normalize_forward(dev, out, statistics, sum, x, branch, params, rule);
    change_result(dev, "normalize_forward", out);
}

WRAP(void, attention_forward, Device *dev, Tensor out, Tensor lse, Tensor largest, Tensor qkv,
     AttentionRule rule) {
    __real_attention_forward(dev, out, lse, largest, qkv, rule);
    change_result(dev, "attention_forward", out);
}

WRAP(void, attention_backward, Device *dev, Tensor dqkv, Tensor dsinks, Tensor dout, Tensor qkv,
     Tensor out, Tensor lse, AttentionRule rule) {
    __real_attention_backward(dev, dqkv, dsinks, dout, qkv, out, lse, rule);
    change_result(dev, "attention_backward", dqkv);
}

WRAP(void, activation_forward, Device *dev, Tensor out, Tensor in, Activation kind) {
    __real_activation_forward(dev, out, in, kind);
    change_result(dev, "activation_forward", out);
}

WRAP(void, router_forward, Device *dev, Routing routing, RouterSums sums, Tensor logits,
     Tensor bias, RouterRule rule) {
    __real_router_forward(dev, routing, sums, logits, bias, rule);
    change_result(dev, "router_forward", routing.weights);
}

WRAP(void, router_backward, Device *dev, Tensor dlogits, Tensor dweights, Routing routing,
     Tensor logits, RouterRule rule, Tensor balance, float z_scale) {
    __real_router_backward(dev, dlogits, dweights, routing, logits, rule, balance, z_scale);
    change_result(dev, "router_backward", dlogits);
}

WRAP(void, combine_forward, Device *dev, Tensor out, Tensor y, Tensor slot_row, Tensor weights) {
    __real_combine_forward(dev, out, y, slot_row, weights);
    change_result(dev, "combine_forward", out);
}

WRAP(void, slot_weights_forward, Device *dev, Tensor dispatch, Tensor combine, Tensor logits,
     int64_t T) {
    __real_slot_weights_forward(dev, dispatch, combine, logits, T);
    change_result(dev, "slot_weights_forward", combine);
}

WRAP(void, product_keys_forward, Device *dev, Tensor ids, Tensor weights, Tensor first,
     Tensor second) {
    __real_product_keys_forward(dev, ids, weights, first, second);
    change_result(dev, "product_keys_forward", weights);
}

WRAP(void, named_sums, Device *dev, Tensor out, NamedTables tables, Tensor ids, int64_t parts) {
    __real_named_sums(dev, out, tables, ids, parts);
    change_result(dev, "named_sums", out);
}

// ---- phases, in the order of a run --------------------------------------------------------------

WRAP(void, comm_init, int *argc, char ***argv) {
    fault_pass(PHASE_START);
    __real_comm_init(argc, argv);
}

// Who wants to see what is said after ten minutes would wait for so long.
WRAP(void, watchdog_begin, void) {
    if (fault_is_planned(PHASE_START))
        watchdog_start(3, 3);
    else
        __real_watchdog_begin();
}

WRAP(bool, session_open, Session *session, const TrainConfig *config, Error *err) {
    fault_pass(PHASE_INIT);
    return __real_session_open(session, config, err);
}

WRAP(bool, checkpoint_load, const char *path, Checkpoint *checkpoint, Error *err) {
    fault_pass(PHASE_LOAD);
    return __real_checkpoint_load(path, checkpoint, err);
}

WRAP(StepMetrics, report_begin_step, Trainer *trainer) {
    fault_begin_step(trainer->state.step + 1);
    change_parameter(&trainer->model, trainer->model.values, IN_WEIGHT);
    return __real_report_begin_step(trainer);
}

WRAP(bool, batch_read_training, BatchBuffer *batch, const DataMix *mix, DataCursor cursor,
     Error *err) {
    fault_pass(PHASE_DATA);
    bool ok = __real_batch_read_training(batch, mix, cursor, err);
    const Fault *spike = ok ? fault_due(FAULT_SPIKE, IN_ACTIVATION) : NULL;
    if (spike) {
        fault_say(spike, "a micro-batch has its inputs as targets");
        copy(batch->dev, batch->targets, batch->tokens);
    }
    return ok;
}

WRAP(Residual, block_forward, Block *block, Work *work, Statistics *stats, Residual in) {
    fault_pass(PHASE_FORWARD);
    return __real_block_forward(block, work, stats, in);
}

WRAP(Pending, all_to_all_rows_begin, Group *group, Tensor out, RowRuns receive, Tensor in,
     RowRuns send, TrafficKind kind) {
    fault_pass(PHASE_ALL_TO_ALL);
    return __real_all_to_all_rows_begin(group, out, receive, in, send, kind);
}

WRAP(void, all_to_all_rows, Group *group, Tensor out, RowRuns receive, Tensor in, RowRuns send,
     TrafficKind kind) {
    fault_pass(PHASE_ALL_TO_ALL);
    __real_all_to_all_rows(group, out, receive, in, send, kind);
}

// What leaves is a copy with other bits, as if the wire had changed them; the sender's own stay.
WRAP(int, MPI_Isend, const void *data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
     MPI_Request *request) {
    const Fault *fault = fault_due(FAULT_FLIP, IN_MESSAGE);
    if (!fault) fault = fault_due(FAULT_NAN, IN_MESSAGE);
    int row_bytes = 0;
    MPI_Type_size(type, &row_bytes);
    size_t bytes = (size_t)count * (size_t)row_bytes, f32 = sizeof(float);
    if (!fault || bytes < f32) return __real_MPI_Isend(data, count, type, to, tag, comm, request);
    char *sent = malloc(bytes); // given back by the end of the process
    memcpy(sent, data, bytes);
    size_t element = (size_t)fault->element % (bytes / f32) * f32;
    static const float nan = NAN;
    if (fault->kind == FAULT_NAN) memcpy(sent + element, &nan, sizeof nan);
    if (fault->kind == FAULT_FLIP) flip(sent + element, f32, fault->bit);
    fault_say(fault, "message of %zu bytes to rank %d of its group", bytes, to);
    return __real_MPI_Isend(sent, count, type, to, tag, comm, request);
}

WRAP(void, all_gather, Group *group, Tensor out, Tensor in, TrafficKind kind) {
    __real_all_gather(group, out, in, kind);
    if (out.place == ON_HOST) change_result(NULL, "all_gather", out);
}

WRAP(void, reduce_scatter_sum, Group *group, Tensor out, Tensor in, TrafficKind kind) {
    __real_reduce_scatter_sum(group, out, in, kind);
    if (out.place == ON_HOST) change_result(NULL, "reduce_scatter_sum", out);
}

WRAP(void, block_backward, Block *block, Work *work, Tensor dx) {
    fault_pass(PHASE_BACKWARD);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const Fault *fault = fault_due(changes[i], IN_ACTIVATION);
        if (!fault) continue;
        fault_say(fault, "gradient of the residual stream");
        change(work->dev, dx, fault);
    }
    __real_block_backward(block, work, dx);
}

WRAP(double, optimizer_gradient_norm, Optimizer *optimizer, Model *model) {
    change_parameter(model, model->gradients.sum, IN_GRADIENT);
    return __real_optimizer_gradient_norm(optimizer, model);
}

WRAP(void, optimizer_update, Optimizer *optimizer, Model *model, double lr, int64_t t,
     double grad_scale) {
    fault_pass(PHASE_OPTIMIZER);
    __real_optimizer_update(optimizer, model, lr, t, grad_scale);
}

WRAP(bool, evaluate_model, Model *model, DataFile *file, BatchBuffer *batch,
     const TrainConfig *config, DocumentLosses *documents, Evaluation *result, Error *err) {
    fault_pass(PHASE_EVALUATION);
    return __real_evaluate_model(model, file, batch, config, documents, result, err);
}

WRAP(bool, file_write_at, int fd, const void *data, size_t bytes, int64_t offset, Error *err) {
    fault_pass(PHASE_WRITE);
    return __real_file_write_at(fd, data, bytes, offset, err);
}

// Of these calls the one of a save, between the last written byte and the name.
WRAP(bool, verify_together, const char *path, VerifyDepth depth, Error *err) {
    fault_pass(PHASE_COMMIT);
    return __real_verify_together(path, depth, err);
}

WRAP(void, comm_finalize, void) {
    fault_pass(PHASE_LEAVE);
    __real_comm_finalize();
}
