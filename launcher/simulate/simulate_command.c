// moetrain simulate CONFIG.yaml -np N --cluster FILE.yaml: a step on a described cluster.
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/file_io.h"
#include "comm/comm.h"
#include "launcher/checkpoint_config.h"
#include "launcher/line_config.h"
#include "launcher/simulate/cluster_file.h"
#include "launcher/simulate/measured_steps.h"
#include "launcher/verbs.h"
#include "worker/plan.h"
#include "worker/simulation/measure_cluster.h"

// clang-format off
static const char HELP[] =
    "  moetrain simulate CONFIG.yaml -np N --cluster FILE.yaml [key=value ...]  a step on 1, 2, 4, ... N ranks of a\n"
    "                                                             described cluster (configs/clusters)\n"
    "      --cluster here                 this machine: measured, under mpirun -np 2 with its messages; -o FILE: of it\n"
    "      --load even|skewed|CHECKPOINT  of experts: skewed as moe.force=skewed, or as in a checkpoint's history (even)\n"
    "      --measured scale.csv           of `moetrain scale`: beside it, the first point telling the speed of a rank\n";
// clang-format on

typedef struct SimulateOptions {
    int64_t ranks; // 0: not said
    const char *cluster, *load, *measured, *output;
} SimulateOptions;

static const SimulateOptions DEFAULTS = {.load = "even"};
static const CliOption OPTIONS[] = {
    CLI_WHOLE("-np", "a number of ranks from 1 to 65536", SimulateOptions, ranks, 1, 65536),
    CLI_TEXT("--cluster", "a file as in configs/clusters", SimulateOptions, cluster),
    CLI_TEXT("--load", "even, skewed or a checkpoint", SimulateOptions, load),
    CLI_TEXT("--measured", "a scale.csv", SimulateOptions, measured),
    CLI_TEXT("-o", "a new file of the cluster", SimulateOptions, output),
    CLI_END};

static const Verb MEASURING_VERB; // the same, on this machine

static bool check(CommandLine *line, Error *err) {
    const SimulateOptions *options = line->options;
    if (options->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: simulate needs -np N, the most ranks to simulate");
    if (!options->cluster)
        return error_set(err, EXIT_CONFIG,
                         "command line: simulate needs --cluster FILE.yaml, or --cluster here; "
                         "configs/clusters has some");
    if (strcmp(options->cluster, "here") == 0) line->verb = &MEASURING_VERB;
    return true;
}

static bool read_cluster(const char *path, Cluster *cluster, Error *err) {
    char *text = NULL;
    size_t bytes = 0;
    bool ok =
        config_load_text(path, &text, &bytes, err) && cluster_read(cluster, path, text, bytes, err);
    free(text);
    return ok;
}

static void choose_points(Forecast *forecast, int64_t ranks) {
    for (int64_t n = 1; n < 2 * ranks; n *= 2) {
        int of = (int)(n < ranks ? n : ranks);
        forecast->points[forecast->count++] = (ForecastPoint){.ranks = of, .measured_ms = NAN};
    }
}

static bool read_load(const char *word, ExpertLoad *load, CheckpointInfo *info, Error *err) {
    char path[CONFIG_PATH_BYTES];
    if (strcmp(word, "even") == 0) return true;
    load->kind = strcmp(word, "skewed") == 0 ? LOAD_SKEWED : LOAD_RECORDED;
    if (load->kind == LOAD_SKEWED) return true;
    load->history = &info->utilization;
    return (checkpoint_path_resolve(word, path, err) && checkpoint_read_info(path, info, err)) ||
           error_prefix(err, "--load");
}

static bool read_vocabulary(const TrainConfig *train, int64_t *vocab_size, Error *err) {
    TrainConfig resolved = *train;
    if (!plan_resolve_vocabulary(&resolved, NULL, err)) return false;
    *vocab_size = resolved.model.vocab_size;
    return true;
}

static bool write_cluster(const char *path, const Cluster *cluster, Error *err) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    cluster_print(out, cluster);
    fclose(out);
    bool ok = file_replace_shared(path, text, bytes, err) || error_prefix(err, "-o %s", path);
    free(text);
    return ok;
}

// The table for a cluster, whose `reached` may be found by what was measured.
static bool simulate(const SimulateOptions *options, const Config *config, Cluster *cluster,
                     Error *err) {
    Forecast forecast = {0};
    ExpertLoad load = {0};
    CheckpointInfo info = {0};
    int64_t vocab_size = 0, batch = config->train.batch;
    choose_points(&forecast, options->ranks);
    bool ok = read_vocabulary(&config->train, &vocab_size, err) &&
              read_load(options->load, &load, &info, err) &&
              (!options->measured || measured_steps_read(&forecast, options->measured, batch,
                                                         load.kind == LOAD_EVEN, err)) &&
              forecast_make(&forecast, config, vocab_size, cluster, load, options->measured != NULL,
                            err) &&
              (!options->output || write_cluster(options->output, cluster, err));
    if (ok) {
        if (options->measured)
            printf("rank.reached is %.4g by the first measured point\n", cluster->reached);
        forecast_print(stdout, &forecast);
        forecast_print_conclusion(stdout, &forecast);
    }
    checkpoint_free_info(&info);
    return ok;
}

static int simulate_described(const CommandLine *line, Config *config, Error *err) {
    const SimulateOptions *options = line->options;
    Cluster cluster;
    bool ok =
        read_cluster(options->cluster, &cluster, err) && simulate(options, config, &cluster, err);
    return ok ? EXIT_DONE : err->exit_code;
}

static int run(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, simulate_described, err);
}

static int simulate_measured(const CommandLine *line, const Config *config,
                             const TrainConfig *train, Error *err) {
    const SimulateOptions *options = line->options;
    Cluster cluster;
    if (!measure_cluster(&cluster, train, options->ranks, err)) return err->exit_code;
    bool ok = comm_rank() != 0 || simulate(options, config, &cluster, err);
    return comm_follow(ok, err) ? EXIT_DONE : err->exit_code;
}

static int run_ranks(const CommandLine *line, Error *err) {
    return with_shared_config(line, CONFIG_OF_FILE, simulate_measured, err);
}

#define SIMULATE                                                                                   \
    .name = "simulate", .help = HELP, .path = "a configuration", .overrides = true,                \
    .options = OPTIONS, .options_bytes = sizeof(SimulateOptions), .defaults = &DEFAULTS,           \
    .check = check

const Verb SIMULATE_VERB = {SIMULATE, .run = run};
static const Verb MEASURING_VERB = {SIMULATE, .run_ranks = run_ranks};
