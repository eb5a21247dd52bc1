#include "worker/inspect.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "model/model.h"

// The heat map shows the newest row of the history in ten shades of an expert's share relative to
// an even one.
static const char shades[] = " .:-=+*#%@";

// Parameters in the file, over all experts, and those a token uses.
static void print_parameters(const CheckpointInfo *info, const ModelConfig *config) {
    static const char folder[] = "parameters/";
    const size_t folder_length = sizeof folder - 1;
    int64_t total = 0, active = 0;
    Model model; // as the configuration has it, for its table of parameters
    model_measure(&model, config,
                  (ModelSplit){.ranks = 1,
                               .expert_parallel = 1,
                               .shards = 1,
                               .sequences = 1,
                               .context = 1,
                               .micro_batches = 1},
                  NULL);
    for (int i = 0; i < info->tensor_count; i++) {
        const SavedTensor *tensor = &info->tensors[i];
        if (strncmp(tensor->name, folder, folder_length) != 0) continue;
        const Param *row = param_find(&model.params, tensor->name + folder_length);
        int64_t elements = tensor->shape[0] * tensor->shape[1] * tensor->shape[2];
        total += elements;
        active += row ? llround((double)elements * row->active) : elements;
    }
    model_free(&model);
    printf("parameters     %lld, %lld active for a token\n", (long long)total, (long long)active);
}

static void print_heat_map(const UtilizationHistory *history) {
    int64_t layers = history->layers, E = history->experts, row = history->rows - 1;
    if (row < 0) return;
    printf(
        "\nexpert load by layer, last %lld steps up to step %lld (even load = '%c', twice and more "
        "= '%c')\n",
        (long long)history->steps[row], (long long)history->step[row], shades[4], shades[9]);
    for (int64_t layer = 0; layer < layers; layer++) {
        const int64_t *routed = history->routed + (row * layers + layer) * E;
        const int64_t *dropped = history->dropped + (row * layers + layer) * E;
        int64_t sum = 0, lost = 0, busiest = 0;
        for (int64_t e = 0; e < E; e++) {
            int64_t load = routed[e] + dropped[e];
            sum += load;
            lost += dropped[e];
            if (load > busiest) busiest = load;
        }
        double mean = sum > 0 ? (double)sum / (double)E : 1;
        printf("%3lld |", (long long)layer);
        for (int64_t e = 0; e < E; e++) {
            double share = (double)(routed[e] + dropped[e]) / mean;
            int shade = (int)(share * 4.0 + 0.5);
            putchar(shades[shade > 9 ? 9 : shade]);
        }
        printf("| max/mean %.2f, dropped %.1f%%, entropy %.3f nats\n", (double)busiest / mean,
               sum > 0 ? 100.0 * (double)lost / (double)sum : 0.0,
               history->entropy[row * layers + layer]);
    }
}

static void print_run(const RunIdentity *run) {
    printf("run            %s%s\n", run->run[0] ? run->run : "unknown",
           run->healthy ? ""
                        : ", not healthy: its last step was not finite or worse than guessing");
    if (run->parent_step >= 0)
        printf("began from     step %lld of run %s, %s\n", (long long)run->parent_step,
               run->parent_run[0] ? run->parent_run : "unknown", run->began_from);
}

static void print_info(const CheckpointInfo *info, const TrainConfig *config,
                       const char *checkpoint_path) {
    const TrainState *state = &info->state;
    printf("checkpoint     %s\n", checkpoint_path);
    printf("written        %s by moetrain %s\n", info->created_utc, info->program_version);
    printf("step           %lld of %lld, %lld tokens, %lld steps skipped\n", (long long)state->step,
           (long long)config->steps, (long long)state->tokens, (long long)state->skipped_steps);
    printf("data           epoch %lld, window %lld, identity %s\n", (long long)state->data_epoch,
           (long long)state->data_index, state->data_id);
    print_run(&state->run);
    print_parameters(info, &config->model);
    printf("digest         %s\n", info->digest);
    print_heat_map(&info->utilization);
    printf("\ntensors\n");
    for (int i = 0; i < info->tensor_count; i++) {
        const SavedTensor *tensor = &info->tensors[i];
        printf("  %-52s %s (", tensor->name, dtype_name(tensor->dtype));
        for (int axis = 0; axis < tensor->rank; axis++)
            printf("%s%lld", axis ? ", " : "", (long long)tensor->shape[axis]);
        printf(")\n");
    }
    printf("\nconfiguration\n%s", info->config_yaml);
}

int inspect_run(const TrainConfig *config, const char *checkpoint_path, Error *err) {
    CheckpointInfo info;
    if (!checkpoint_read_info(checkpoint_path, &info, err)) return err->exit_code;
    print_info(&info, config, checkpoint_path);
    checkpoint_free_info(&info);
    return EXIT_DONE;
}

int inspect_digest(const char *checkpoint_path, Error *err) {
    char digest[40];
    if (!checkpoint_digest(checkpoint_path, digest, err)) return err->exit_code;
    printf("%s\n", digest);
    return EXIT_DONE;
}
