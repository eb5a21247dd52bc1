#include "worker/inspect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checkpoint.h"
#include "model/model.h"
#include "model/router_health.h"
#include "model/zero_experts.h"

// The heat map shows the newest row of the history in ten shades of an expert's share relative to
// an even one.
static const char shades[] = " .:-=+*#%@";

// Parameters in the file, over all experts, and those a token uses.
static void print_parameters(const CheckpointInfo *info, const ModelConfig *config) {
    static const char folder[] = "parameters/";
    const size_t folder_length = sizeof folder - 1;
    int64_t total = 0, active = 0;
    Model model; // as the configuration has it, for its table of parameters
    model_measure(&model, config, model_split_alone(1), NULL);
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

static void print_shades(const double *values, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += values[i];
    double mean = sum > 0 ? sum / (double)count : 1;
    putchar('|');
    for (int64_t i = 0; i < count; i++) {
        double shade = values[i] > 0 ? values[i] / mean * 4.0 + 0.5 : 0; // 0 where unknown
        putchar(shades[shade < 9 ? (int)shade : 9]);
    }
    putchar('|');
}

// What was asked of a layer's zero-computation experts; -1: there are none.
static int64_t zero_load(const UtilizationHistory *history, int64_t number, int64_t row) {
    const UtilizationSeries *zero = utilization_find(history, ZERO_COLUMN);
    for (int64_t layer = 0; zero && zero->kind == STATISTICS_COUNTS && layer < zero->layers;
         layer++) {
        int64_t sum = 0;
        if (zero->of[layer].number != number) continue;
        for (int64_t e = 0; e < zero->of[layer].values; e++)
            sum += utilization_counts(zero, row, layer)[e];
        return sum;
    }
    return -1;
}

static double percent(int64_t part, int64_t whole) {
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

// What was asked of every expert, and what is known beside it.
static void print_loads(const UtilizationHistory *history, int64_t row) {
    const UtilizationSeries *routed = utilization_find(history, "routed");
    const UtilizationSeries *dropped = utilization_find(history, "dropped");
    const UtilizationSeries *entropy = utilization_find(history, "entropy");
    const UtilizationSeries *squares = utilization_find(history, ROUTER_SQUARES_COLUMN);
    // A file made by hand may have any shapes.
    bool together = routed && dropped && entropy && routed->kind == STATISTICS_COUNTS &&
                    dropped->kind == STATISTICS_COUNTS && entropy->kind == STATISTICS_SCALAR &&
                    dropped->layers == routed->layers && dropped->width == routed->width &&
                    entropy->layers == routed->layers;
    if (!together || routed->layers == 0) return;
    if (squares && (squares->kind != STATISTICS_COUNTS || squares->layers != routed->layers ||
                    squares->width != 3))
        squares = NULL;
    double *loads = calloc((size_t)routed->width + 1, sizeof *loads);
    double *max_vio = calloc((size_t)routed->layers + 1, sizeof *max_vio);
    CHECK_MEMORY(loads && max_vio, "no memory for %lld experts", (long long)routed->width);
    printf(
        "\nexpert load by layer, last %lld steps up to step %lld (even load = '%c', twice and more "
        "= '%c')\n",
        (long long)history->steps[row], (long long)history->step[row], shades[4], shades[9]);
    for (int64_t layer = 0; layer < routed->layers; layer++) {
        int64_t E = routed->of[layer].values, sum = 0, lost = 0;
        for (int64_t e = 0; e < E; e++) {
            int64_t drops = utilization_counts(dropped, row, layer)[e];
            int64_t load = utilization_counts(routed, row, layer)[e] + drops;
            loads[e] = (double)load;
            sum += load;
            lost += drops;
        }
        printf("%3lld ", (long long)routed->of[layer].number);
        print_shades(loads, E);
        RouterHealth health = router_health(utilization_counts(routed, row, layer),
                                            utilization_counts(dropped, row, layer), E);
        char text[128];
        router_health_of_layer(health, E, text);
        char share[48] = "";
        int64_t zero = zero_load(history, routed->of[layer].number, row);
        sum += zero < 0 ? 0 : zero;
        if (zero >= 0) snprintf(share, sizeof share, ", zero %.1f%%", percent(zero, sum));
        printf(" %s%s, dropped %.1f%%, entropy %.3f nats", text, share, percent(lost, sum),
               utilization_sums(entropy, row, layer)[0]);
        if (squares)
            printf(", logit rms %.3g", root_mean_square(utilization_counts(squares, row, layer)));
        putchar('\n');
        max_vio[layer] = health.max_vio;
    }
    char text[96];
    router_health_over_layers(max_vio, routed->layers, text);
    printf("%s\n", text);
    free(loads);
    free(max_vio);
}

// More values than a line shows become sums of as many neighbours as fit, the last of fewer; how
// many is returned.
static int64_t fold_values(double *values, int64_t *count) {
    enum { SHOWN = 128 };
    int64_t run = (*count + SHOWN - 1) / SHOWN, folded = 0;
    for (int64_t i = 0; run > 1 && i < *count; i += run, folded++) {
        double sum = 0;
        for (int64_t k = i; k < i + run && k < *count; k++) sum += values[k];
        values[folded] = sum;
    }
    if (run > 1) *count = folded;
    return run;
}

// Behind the map of what some router asks of experts: how even it is.
static void print_health(const UtilizationSeries *series, int64_t row, int64_t layer) {
    bool loads = false;
    for (int place = 0; place < ROUTER_PLACES; place++)
        loads = loads || strcmp(series->name, ROUTER_NAMES[place].routed) == 0;
    if (!loads || series->kind != STATISTICS_COUNTS) return;
    char text[128];
    int64_t E = series->of[layer].values;
    router_health_of_layer(router_health(utilization_counts(series, row, layer), NULL, E), E, text);
    printf(" %s", text);
}

// Every other series of the history: figures of a layer one after the other, lists as a map.
static void print_series(const UtilizationSeries *series, int64_t row) {
    if (series->layers == 0) return;
    printf("\n%s by layer%s", series->name, series->kind == STATISTICS_SCALAR ? ":" : "\n");
    double *values = calloc((size_t)series->width + 1, sizeof *values);
    CHECK_MEMORY(values, "no memory for %lld values", (long long)series->width);
    for (int64_t layer = 0; layer < series->layers; layer++) {
        int64_t count = series->of[layer].values, number = series->of[layer].number;
        for (int64_t i = 0; i < count; i++)
            values[i] = series->kind == STATISTICS_COUNTS
                            ? (double)utilization_counts(series, row, layer)[i]
                            : utilization_sums(series, row, layer)[i];
        if (series->kind == STATISTICS_SCALAR) {
            printf(" %lld: %.4g%s", (long long)number, values[0],
                   layer + 1 < series->layers ? "," : "\n");
            continue;
        }
        double least = values[0], most = values[0];
        for (int64_t i = 1; i < count; i++) {
            least = fmin(least, values[i]);
            most = fmax(most, values[i]);
        }
        printf("%3lld ", (long long)number);
        int64_t run = 1;
        if (least < 0) {
            printf("from %.4g to %.4g", least, most);
        } else {
            run = fold_values(values, &count);
            print_shades(values, count);
        }
        if (run > 1) printf(" each of %lld", (long long)run);
        print_health(series, row, layer);
        putchar('\n');
    }
    free(values);
}

static void print_history(const UtilizationHistory *history) {
    static const char *const with_loads[] = {"routed", "dropped", "entropy", ROUTER_SQUARES_COLUMN};
    int64_t row = history->rows - 1;
    if (row < 0) return;
    print_loads(history, row);
    for (int i = 0; i < history->series_count; i++) {
        bool shown = false;
        for (size_t k = 0; k < sizeof with_loads / sizeof *with_loads; k++)
            shown = shown || strcmp(history->series[i].name, with_loads[k]) == 0;
        if (!shown) print_series(&history->series[i], row);
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
    print_history(&info->utilization);
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
