// From the shell to a configured rank. Training, evaluation and generation are collective: rank 0
// reads the configuration, every rank gets its bytes, and all ranks leave with one exit code.
// Everything else works without MPI; started under mpirun all the same it speaks once.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/routing_process.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "launcher/checkpoint_command.h"
#include "launcher/checkpoint_config.h"
#include "launcher/cli.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "launcher/data_command.h"
#include "launcher/huggingface/huggingface_command.h"
#include "launcher/status.h"
#include "launcher/supervisor/control_socket.h"
#include "launcher/upcycle_command.h"
#include "launcher/version.h"
#include "worker/compare_ranks.h"
#include "worker/data/vocabulary.h"
#include "worker/diff_runs.h"
#include "worker/evaluate.h"
#include "worker/inspect.h"
#include "worker/plan.h"
#include "worker/plan_data.h"
#include "worker/run/signals.h"
#include "worker/train.h"
#include "worker/watch/watchdog.h"

// The rank that mpirun or srun gave this process, before MPI is up.
static int launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "SLURM_PROCID"};
    for (int i = 0; i < 3; i++) {
        const char *rank = getenv(names[i]);
        if (rank) return (int)strtol(rank, NULL, 10);
    }
    return 0;
}

// Whether mpirun or srun has started this process. (SLURM_PROCID alone is also set for a batch
// script.)
static bool is_launched(void) {
    return getenv("OMPI_COMM_WORLD_RANK") || getenv("PMIX_RANK");
}

static bool reads_checkpoint(Verb verb) {
    return verb == VERB_EVALUATE || verb == VERB_GENERATE || verb == VERB_INSPECT ||
           verb == VERB_ANALYSE;
}

// From the YAML file or the checkpoint that the line names, with the line's overrides. Not
// collective.
static bool load_config(Config *config, const CommandLine *line, Error *err) {
    if (reads_checkpoint(line->verb))
        return checkpoint_config_read(config, line->path, line->overrides, line->override_count,
                                      err);
    char *text = NULL;
    size_t bytes = 0;
    bool ok =
        config_load_text(line->path, &text, &bytes, err) &&
        checkpoint_is_no_config(line->path, text, bytes, err) &&
        config_read(config, line->path, text, bytes, line->overrides, line->override_count, err);
    free(text);
    return ok;
}

// ---- verbs of all ranks -------------------------------------------------------------------------

// Rank 0 loads, since other ranks may not see the file; then the number of ranks is checked, with
// the same answer everywhere. Collective over all ranks.
static bool share_config(Config *config, TrainConfig *train, const CommandLine *line, Error *err) {
    watchdog_beat("reading the configuration");
    bool ok = comm_rank() != 0 || load_config(config, line, err);
    if (!comm_follow(ok, err)) return false;
    broadcast(comm_world(), config, config_bytes(), 0);
    return reads_checkpoint(line->verb) ? config_resolve_ranks(config, comm_size(), train, err)
                                        : config_check_ranks(config, comm_size(), train, err);
}

static int run_collective(const CommandLine *line, Error *err) {
    if (line->verb == VERB_EXPORT) return huggingface_export(line, err);
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    CHECK_MEMORY(train, "out of memory");
    int exit_code = EXIT_CONFIG;
    if (!share_config(config, train, line, err)) {
        exit_code = err->exit_code;
    } else if (line->verb == VERB_EVALUATE) {
        exit_code = evaluate_run(train, config->source, &line->evaluate, err);
    } else if (line->verb == VERB_ANALYSE) {
        exit_code = analyse_run(train, config->source, &line->analyse, err);
    } else if (line->verb == VERB_GENERATE) {
        exit_code = generate_run(train, config->source, &line->generate, err);
    } else {
        char *yaml = config_to_yaml(config, false);
        KeyRule *rules = config_key_rules(config);
        exit_code = train_run(train, yaml, rules, err);
        free(rules);
        free(yaml);
    }
    free(train);
    free(config);
    return exit_code;
}

// ---- verbs of one process -----------------------------------------------------------------------

static int run_plan(const Config *config, int ranks, Error *err) {
    TrainConfig train;
    Vocabulary vocabulary = {0};
    if (!config_check_ranks(config, ranks, &train, err)) return err->exit_code;
    if (!vocabulary_open(&vocabulary, &train.data, err)) return err->exit_code;
    train.model.vocab_size = model_vocab_size(&train.model, vocabulary.size);
    int exit_code = plan_run(&train, ranks, err);
    if (exit_code == EXIT_DONE && !plan_print_data(&train, &vocabulary, err))
        exit_code = err->exit_code;
    vocabulary_free(&vocabulary);
    return exit_code;
}

// Asks the supervisor of a run.
static bool run_control(const CommandLine *line, Error *err) {
    char request[CONTROL_LINE_BYTES];
    if (line->verb == VERB_SET)
        snprintf(request, sizeof request, "set %s %s", line->overrides[0], line->overrides[1]);
    else
        snprintf(request, sizeof request, "%s",
                 line->verb == VERB_STOP ? "stop" : "checkpoint-now");
    return control_socket_ask(line->path ? line->path : ".", request, err);
}

static int run_train_tokenizer(const CommandLine *line, Error *err) {
    const char *texts[1 + MOST_WORDS] = {line->path};
    memcpy(texts + 1, line->words, (size_t)line->word_count * sizeof *texts);
    return train_tokenizer_run(texts, 1 + line->word_count, &line->train_tokenizer, err);
}

static int run_single(const CommandLine *line, Error *err) {
    if (line->verb == VERB_USAGE) {
        cli_print_help(stdout);
        return EXIT_DONE;
    }
    if (line->verb == VERB_VERSION) return version_print(stdout, err) ? EXIT_DONE : err->exit_code;
    if (line->verb == VERB_HELP && !line->path) {
        config_print_keys(stdout);
        return EXIT_DONE;
    }
    if (line->verb == VERB_HELP)
        return config_print_key(stdout, line->path, err) ? EXIT_DONE : err->exit_code;
    if (line->verb == VERB_STATUS)
        return status_print(line->path ? line->path : ".", line->json, err) ? EXIT_DONE
                                                                            : err->exit_code;
    if (line->verb == VERB_CHECKPOINT) return checkpoint_command_run(line, err);
    if (line->verb == VERB_DATA) return data_command_run(line, err);
    if (line->verb == VERB_COMPARE)
        return compare_run(&line->compare, line->path, line->overrides, line->override_count, err);
    if (line->verb == VERB_DIFF_RUNS) return diff_runs(line->path, line->words[0], err);
    if (line->verb == VERB_IMPORT) return huggingface_import(line, err);
    if (line->verb == VERB_UPCYCLE) return upcycle_command_run(line, err);
    if (line->verb == VERB_TOKENIZE) return tokenize_run(line->path, &line->tokenize, err);
    if (line->verb == VERB_CONVERT_TOKENIZER)
        return convert_tokenizer_run(line->path, &line->train_tokenizer, err);
    if (line->verb == VERB_TRAIN_TOKENIZER) return run_train_tokenizer(line, err);
    if (line->verb == VERB_CHECKPOINT_NOW || line->verb == VERB_STOP || line->verb == VERB_SET)
        return run_control(line, err) ? EXIT_DONE : err->exit_code;
    char checkpoint[CONFIG_PATH_BYTES];
    if (line->verb == VERB_INSPECT && line->digest)
        return checkpoint_path_resolve(line->path, checkpoint, err)
                   ? inspect_digest(checkpoint, err)
                   : err->exit_code;

    Config *config = config_new();
    int exit_code = EXIT_DONE;
    if (!load_config(config, line, err)) {
        exit_code = err->exit_code;
    } else if (line->verb == VERB_INSPECT) {
        exit_code = inspect_run(&config->train, config->source, err);
    } else if (line->verb == VERB_PLAN) {
        exit_code = run_plan(config, line->ranks, err);
    } else if (line->verb == VERB_SLURM) {
        exit_code = batch_script_write(&line->slurm, config, line->path, line->overrides,
                                       line->override_count, err)
                        ? EXIT_DONE
                        : err->exit_code;
    } else if (line->verb == VERB_SUPERVISE) {
        exit_code = supervise_run(&line->supervise, config, line->path, line->overrides,
                                  line->override_count, err);
    } else {
        char *yaml = config_to_yaml(config, true);
        fputs(yaml, stdout);
        free(yaml);
    }
    free(config);
    return exit_code;
}

// Started with a standard stream closed, the next file to be opened would take its number and
// receive our messages.
static void fill_standard_streams(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0) close(fd);
}

int main(int argc, char **argv) {
    if (routing_process_asked(argc, argv)) return routing_process_run(); // a rank has started it
    signals_install(); // before all else: a request to stop may come at once
    fill_standard_streams();
    Error err = {0};
    CommandLine line;
    int rank = launched_rank();
    log_set_rank(rank);
    bool ok = cli_parse(&line, argc, argv, &err);
    if (!ok && argc < 2 && rank == 0) cli_print_usage(stderr);
    bool collective =
        ok && (line.verb == VERB_TRAIN || line.verb == VERB_EVALUATE ||
               line.verb == VERB_GENERATE || line.verb == VERB_ANALYSE || line.verb == VERB_EXPORT);
    bool together = collective || is_launched();
    if (collective) {
        watchdog_begin();
        watchdog_beat("starting MPI");
    }
    if (together) { // also where one rank needs no others: they may have been told something else
        comm_init(&argc, &argv);
        ok = compare_programs(argc - 1, argv + 1, &err) && comm_agree(ok, &err);
    }
    bool passes_on = line.verb == VERB_SUPERVISE || line.verb == VERB_COMPARE;
    if (!collective && !passes_on) signals_release();
    int exit_code = err.exit_code;
    if (ok && collective) exit_code = run_collective(&line, &err);
    if (ok && !collective && rank == 0) exit_code = run_single(&line, &err); // rank 0 speaks
    if (ok && !collective && together) broadcast(comm_world(), &exit_code, sizeof exit_code, 0);
    if (exit_code != EXIT_DONE && err.message[0]) log_error("%s", err.message);
    if (collective) watchdog_leave(exit_code);
    if (together) comm_finalize();
    watchdog_stop();
    return exit_code;
}
