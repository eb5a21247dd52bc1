#include "worker/plan_host.h"

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "worker/data/batch.h"
#include "worker/evaluate.h"
#include "worker/optimizer/optimizer.h"
#include "worker/routing_record.h"
#include "worker/watch/recheck.h"
#include "worker/watch/replica_check.h"
#include "worker/watch/step_digests.h"

// Pages of libraries that training touches first, beyond what they had after the start: HDF5 and
// its buffers at the first save, the MPI library's fragments by rank, a matrix library's packed
// blocks and malloc's arena by thread. Measured with Open MPI 4.1, HDF5 1.10 and oneDNN 2.6 on 1 to
// 8 ranks of one host: 3.5 to 6.5 MiB in all.
static const size_t library_growth = (size_t)8 << 20;
static const size_t library_bytes_a_rank = (size_t)256 << 10;
static const size_t library_bytes_a_thread = (size_t)3 << 19;

// The model's own tables: blocks, parameters, offsets.
static size_t table_bytes(const Model *model) {
    size_t blocks = 0;
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        blocks += block_bytes(&model->blocks[layer]);
    return blocks + mtp_bytes(&model->mtp) + gradients_host_bytes(&model->gradients) +
           (size_t)model->params.capacity * sizeof(Param) +
           (size_t)model->work.shape.dense_parts * sizeof(int64_t) + model->host_arena.peak_bytes;
}

// Lists and hashes of a checkpoint that is written, read back and verified, and the block that is
// in work. A dataset for each parameter's values and each state that the optimizer keeps of it.
static size_t checkpoint_bytes(const Model *model, const Optimizer *optimizer) {
    double blocks = 0;
    size_t datasets = 64;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        int sets = 1;
        for (int s = 0; s < optimizer->state_count; s++)
            sets += optimizer_has_state(optimizer, s, i);
        datasets += (size_t)sets;
        double rows = row->kind == PARAM_EXPERT ? (double)row->shape[0] : 1;
        double bytes = 4.0 * (double)param_elements(row) / rows;
        blocks += sets * rows * (1 + bytes / BLOCK_BYTES);
    }
    size_t a_dataset = sizeof(SavedTensor) + 3 * sizeof(Dataset) + 2 * sizeof(ManifestRecord);
    return BLOCK_BYTES + datasets * a_dataset +
           (size_t)blocks * (2 * sizeof(Hash) + sizeof(int64_t));
}

static size_t history_bytes(const TrainConfig *config, const Model *model) {
    UtilizationHistory history;
    utilization_shape(&history, model->stats.columns, model->stats.column_count);
    int64_t every = config->utilization_every > 0 ? config->utilization_every : config->log_every;
    int64_t room = utilization_room(&history), rows = config->steps / every + 1;
    double share = (double)(rows < room ? rows + 1 : room + 1) / (double)(room + 1);
    size_t bytes = (size_t)(share * (double)utilization_bytes(&history)) + 4096;
    utilization_free(&history);
    return bytes;
}

// Elements of a run's values and of all its states.
static int64_t elements_saved(const Model *model, const Optimizer *optimizer, int run) {
    int64_t elements = model->params.elements[run];
    for (int s = 0; s < optimizer->state_count && run < GRADIENT_RUNS; s++)
        elements += optimizer->states[s].params.elements[run];
    return elements;
}

// What rank 0 copies of a CPU's state for checkpoint.async: the experts it holds, and its share of
// the rest.
static size_t copy_bytes(const Model *model, const Optimizer *optimizer, int64_t ranks) {
    double elements = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *row = &model->params.rows[i];
        double sets = 1, whole = (double)param_elements(row);
        for (int s = 0; s < optimizer->state_count; s++)
            sets += optimizer_has_state(optimizer, s, i);
        elements +=
            sets * (row->kind == PARAM_EXPERT ? whole * (double)row->count / (double)row->shape[0]
                                              : whole / (double)ranks);
    }
    return (size_t)elements * sizeof(float);
}

void plan_host_memory(Plan *plan, const TrainConfig *config, const Model *trained,
                      const Model *evaluated, const PlanHost *host) {
    size_t scratch = thread_scratch_most(model_cost(trained).scratch);
    bool documents = config->data.documents == DOCUMENTS_MASK;
    Optimizer optimizer;
    optimizer_measure(&optimizer, trained, &config->optimizer);
    plan->host_bytes = table_bytes(trained) +
                       batch_bytes(trained->work.shape.B, trained->work.shape.T, documents,
                                   config->model.mtp.layers) +
                       checkpoint_bytes(trained, &optimizer) + history_bytes(config, trained) +
                       routing_record_bytes(config, trained) + recheck_bytes(trained, config);
    if (config->check_replicas_every > 0)
        plan->host_bytes += replica_check_bytes(trained, &optimizer);
    plan->host_bytes += step_digests_bytes(config->digest_every, trained, &optimizer);
    if (evaluated->blocks) {
        size_t other = thread_scratch_most(model_cost(evaluated).scratch);
        scratch = other > scratch ? other : scratch;
        plan->host_bytes +=
            table_bytes(evaluated) + batch_bytes(evaluated->work.shape.B, evaluated->work.shape.T,
                                                 evaluation_reads_documents(config), 0);
    }
    bool on_device = host->place == ON_DEVICE;
    plan->thread_bytes = on_device ? 0 : scratch * (size_t)host->threads;
    // A device's parameters and their states are copied to the host when they are saved or loaded.
    if (on_device)
        for (int run = 0; run < PARAM_RUNS; run++)
            plan->host_bytes += (size_t)elements_saved(trained, &optimizer, run) * sizeof(float);
    if (config->checkpoint_async)
        plan->host_bytes += history_bytes(config, trained) +
                            (on_device ? 0 : copy_bytes(trained, &optimizer, host->ranks));
    optimizer_free(&optimizer);
    plan->library_bytes = library_growth + library_bytes_a_rank * (size_t)host->ranks +
                          library_bytes_a_thread * (size_t)host->threads;
}
