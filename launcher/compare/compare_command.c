// moetrain compare COMPARISON.yaml: trains the rows of a comparison, seed after seed, and writes
// what they come to. Called again it goes on: what is done is not done again.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "launcher/compare/compared_run.h"
#include "launcher/compare/comparison_file.h"
#include "launcher/compare/equal_flops.h"
#include "launcher/compare/result_files.h"
#include "launcher/compare/search.h"
#include "launcher/slurm/batch_script.h"
#include "launcher/verbs.h"
#include "worker/run/signals.h"

// clang-format off
static const char HELP[] =
    "  moetrain compare COMPARISON.yaml [options] [key=value ...]       trains its rows, seed by seed, and writes\n"
    "                                                                   tables; goes on where it was stopped\n"
    "      -np N              ranks of each run (1); --launcher TEXT as supervise has it\n"
    "      -o FOLDER          of runs and tables (runs/NAME); --plan: shows the rows alone\n"
    "      -N NODES           instead writes an sbatch script of one run a task, to --script FILE; with\n"
    "                         --ntasks-per-node and --time as slurm has them; --task N does one run\n";
// clang-format on

typedef struct CompareOptions {
    int64_t ranks;        // of a run
    const char *launcher; // of ranks, as supervise has it
    const char *output;   // the folder of runs and tables; NULL: runs/NAME of NAME.yaml
    bool plan;            // only shows the rows
    int64_t task;         // only this run, from 1; 0: all
    SlurmOptions slurm;   // with nodes: only writes a script, whose tasks do a run each
} CompareOptions;

static const CompareOptions DEFAULTS = {
    .ranks = 1,
    .slurm = {.launcher = "supervise", .tasks_per_node = 1, .tasks = SLURM_COMPARED_RUNS}};
static const CliOption OPTIONS[] = {
    CLI_WHOLE("-np", "a number of ranks from 1 to 65536", CompareOptions, ranks, 1, 65536),
    CLI_TEXT("--launcher", "mpirun, srun or a command line with {np}", CompareOptions, launcher),
    CLI_FLAG("--plan", CompareOptions, plan),
    CLI_TEXT("-o", "a folder", CompareOptions, output),
    CLI_WHOLE("--task", "the number of a run from 1", CompareOptions, task, 1, 1000000),
    SLURM_ROWS(CompareOptions, slurm.),
    CLI_TEXT("--script", "a file", CompareOptions, slurm.output),
    CLI_END};

typedef struct Command {
    const CompareOptions *options;
    Comparison comparison;
    char output[CONFIG_PATH_BYTES];
    ComparedRun *runs; // seed by seed, so that all rows are known early
    RunResult *results;
    int count;
    int64_t rungs[HALVING_RUNGS]; // steps, of the trials of successive halving
    int rung_count;               // 1 without it
} Command;

// ---- what there is to do ------------------------------------------------------------------------

// runs/NAME of NAME.yaml.
static void choose_output(Command *command, const char *path) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *suffix = strrchr(name, '.');
    int length = suffix && suffix > name ? (int)(suffix - name) : (int)strlen(name);
    if (command->options->output)
        snprintf(command->output, sizeof command->output, "%s", command->options->output);
    else
        snprintf(command->output, sizeof command->output, "runs/%.*s", length, name);
    command->comparison.output = command->output;
}

static bool check_overrides(const char *const *overrides, int count, Error *err) {
    for (int i = 0; i < count; i++)
        if (strncmp(overrides[i], "run.dir=", 8) == 0 || strncmp(overrides[i], "run.seed=", 9) == 0)
            return error_set(
                err, EXIT_CONFIG, "command line: %.8s is the comparison's; %s", overrides[i],
                overrides[i][4] == 'd' ? "name a folder with -o" : "write seeds there");
    return true;
}

static bool list_runs(Command *command, Error *err) {
    const Comparison *comparison = &command->comparison;
    size_t count = (size_t)comparison->row_count * (size_t)comparison->seed_count;
    command->runs = calloc(count, sizeof *command->runs);
    command->results = calloc(count, sizeof *command->results);
    CHECK_MEMORY(command->runs && command->results, "no memory for %zu runs", count);
    for (int s = 0; s < comparison->seed_count; s++) {
        for (int r = 0; r < comparison->row_count; r++) {
            ComparedRun *run = &command->runs[command->count++];
            *run = (ComparedRun){.row = r, .seed = s};
            int length = snprintf(run->dir, sizeof run->dir, "%s/%s/seed-%lld", command->output,
                                  comparison->rows[r].name, (long long)comparison->seeds[s]);
            if (length >= CONFIG_PATH_BYTES)
                return error_set(err, EXIT_CONFIG, "paths of more than %d bytes: '%.60s'",
                                 CONFIG_PATH_BYTES - 1, run->dir);
        }
    }
    return true;
}

// The run's configuration, to be freed by the caller; NULL with *err.
static Config *config_of(const Command *command, const ComparedRun *run, Error *err) {
    const Comparison *comparison = &command->comparison;
    Config *config = config_new();
    if (comparison_config(comparison, &comparison->rows[run->row], comparison->seeds[run->seed],
                          run->dir, config, err))
        return config;
    free(config);
    return NULL;
}

static bool check_runs(const Command *command, Error *err) {
    for (int i = 0; i < command->count; i++) {
        Config *config = config_of(command, &command->runs[i], err);
        bool ok = config && compared_run_check(&command->runs[i], config, err);
        free(config);
        if (!ok) return false;
    }
    return true;
}

// All trials have the same train.steps.
static bool plan_rungs(Command *command, Error *err) {
    const Search *search = &command->comparison.search;
    command->rung_count = 1;
    if (!search->halving) return true;
    Config *config = config_of(command, &command->runs[command->comparison.row_count - 1], err);
    if (!config) return false;
    int64_t total = config->train.steps;
    free(config);
    command->rung_count = halving_rungs(total, search->steps, search->factor, command->rungs);
    return command->rung_count > 1 ||
           error_set(err, EXIT_CONFIG,
                     "%s:%d: search: steps is %lld, which leaves nothing to halve of train.steps "
                     "(%lld) with factor %lld; set it to %lld or less",
                     command->comparison.source, search->line, (long long)search->steps,
                     (long long)total, (long long)search->factor,
                     (long long)(total / search->factor));
}

static bool prepare(Command *command, const char *path, Error *err) {
    Comparison *comparison = &command->comparison;
    choose_output(command, path);
    const SlurmOptions *slurm = &command->options->slurm;
    comparison->ranks =
        (int)(slurm->nodes > 0 ? slurm->nodes * slurm->tasks_per_node : command->options->ranks);
    if (!check_overrides(comparison->overrides, comparison->override_count, err) ||
        !comparison_file_read(comparison, path, err))
        return false;
    if (!grid_expand(comparison, err)) return false;
    for (int r = 0; r < comparison->row_count; r++)
        if (!comparison_plan(comparison, &comparison->rows[r], err)) return false;
    if (!search_draw(comparison, err)) return false;
    return equal_flops_solve(comparison, err) && list_runs(command, err) &&
           check_runs(command, err) && plan_rungs(command, err);
}

// ---- doing it -----------------------------------------------------------------------------------

static ComparedResults results_of(const Command *command) {
    return (ComparedResults){command->runs, command->results, command->count};
}

static void read_result(Command *command, int i, const Config *config) {
    run_result_free(&command->results[i]);
    int64_t until = command->runs[i].until;
    run_result_read(&command->results[i], command->runs[i].dir,
                    until > 0 ? until : config->train.steps);
}

static void say_result(const Command *command, int i) {
    const Comparison *comparison = &command->comparison;
    const ComparedRun *run = &command->runs[i];
    const RunResult *result = &command->results[i];
    const char *name = comparison->rows[run->row].name;
    long long seed = (long long)comparison->seeds[run->seed];
    char time[CLOCK_DURATION_BYTES];
    if (result->done)
        log_info("run %d of %d: %s, seed %lld: loss %.4f after %lld steps in %s", i + 1,
                 command->count, name, seed, result->val_loss, (long long)result->step,
                 clock_duration(result->seconds, time));
    else
        log_info("run %d of %d: %s, seed %lld: stopped after step %lld; see %s/compare.log", i + 1,
                 command->count, name, seed, (long long)result->step, run->dir);
}

// Trains a run unless it is done. *stopped: no other is to be begun. Returns its exit code.
static int do_run(Command *command, int i, bool *stopped, Error *err) {
    const ComparedRun *run = &command->runs[i];
    Config *config = config_of(command, run, err);
    if (!config) return err->exit_code;
    read_result(command, i, config);
    int exit_code = EXIT_DONE;
    if (!command->results[i].done) {
        exit_code = compared_run_train(run, config, command->comparison.ranks,
                                       command->options->launcher, err);
        read_result(command, i, config);
        if (!err->message[0]) say_result(command, i);
    }
    if (command->results[i].done && run->until == 0 && !signals_received() &&
        compared_run_time_inference(run, config, err))
        read_result(command, i, config);
    free(config);
    if (command->results[i].done)
        exit_code = EXIT_DONE; // perhaps before its last step
    else if (exit_code == EXIT_DONE)
        exit_code = EXIT_BUG; // it says so, and is not
    *stopped = err->message[0] || exit_code == EXIT_REQUEUE || signals_received();
    return exit_code;
}

// What came of all runs.
typedef struct Course {
    bool stopped;
    int failed, first, first_code; // how many, the first of them, and its exit code
} Course;

// What the other tasks of an array have done by now.
static bool read_results(Command *command, Error *err) {
    for (int i = 0; i < command->count; i++) {
        Config *config = config_of(command, &command->runs[i], err);
        if (!config) return false;
        read_result(command, i, config);
        free(config);
    }
    return true;
}

static bool do_runs_of_rung(Command *command, int rung, Course *course, Error *err) {
    Comparison *comparison = &command->comparison;
    for (int i = 0; i < command->count && !course->stopped; i++) {
        ComparedRun *run = &command->runs[i];
        const ComparedRow *row = &comparison->rows[run->row];
        bool last = rung == command->rung_count - 1;
        if (row->out || (rung > 0 && !row->trial)) continue;
        if (command->options->task > 0 && i + 1 != command->options->task) continue;
        run->until = row->trial && !last ? command->rungs[rung] : 0;
        int code = do_run(command, i, &course->stopped, err);
        if (err->message[0]) return false;
        if (code != EXIT_DONE && code != EXIT_REQUEUE && course->failed++ == 0)
            course->first_code = code, course->first = i;
        if (command->options->task > 0 && !read_results(command, err)) return false;
        if (!results_write(comparison, results_of(command), err)) return false;
    }
    return true;
}

// Ends the worst trials of a rung that is done.
static void end_trials(Command *command, int rung) {
    Comparison *comparison = &command->comparison;
    int rows = comparison->row_count, trials = (int)comparison->search.trials;
    double *losses = calloc((size_t)rows, sizeof *losses);
    bool *in = calloc((size_t)rows, sizeof *in);
    CHECK_MEMORY(losses && in, "no memory for %d trials", rows);
    for (int i = 0; i < command->count; i++) { // NaN where a run has failed
        const RunResult *result = &command->results[i];
        losses[command->runs[i].row] += result->done ? result->val_loss : NAN;
    }
    for (int r = 0; r < rows; r++) in[r] = comparison->rows[r].trial && !comparison->rows[r].out;
    int keep = halving_left(trials, comparison->search.factor, rung + 1);
    halving_select(losses, in, rows, keep);
    for (int r = 0; r < rows; r++) comparison->rows[r].out = comparison->rows[r].trial && !in[r];
    log_info("after %lld steps %d of %d trials go on", (long long)command->rungs[rung], keep,
             trials);
    free(in);
    free(losses);
}

static int do_runs(Command *command, Error *err) {
    Course course = {.first_code = EXIT_DONE};
    for (int rung = 0; rung < command->rung_count && !course.stopped; rung++) {
        if (!do_runs_of_rung(command, rung, &course, err)) return err->exit_code;
        if (rung + 1 < command->rung_count && !course.stopped) end_trials(command, rung);
    }
    table_print(stdout, &command->comparison, results_of(command));
    if (course.stopped) {
        log_info("stopped, everything is saved; run the same command again to go on");
        return EXIT_REQUEUE;
    }
    if (course.failed > 0) {
        const ComparedRun *first = &command->runs[course.first];
        RunResult *result = &command->results[course.first];
        if (!result->failed)
            compared_run_last_error(first, result->message, sizeof result->message);
        error_set(err, (ExitCode)course.first_code,
                  "%d of %d runs failed, %s first: %s; see its compare.log", course.failed,
                  command->count, first->dir, result->message);
    }
    return course.first_code;
}

// ---- as a job -----------------------------------------------------------------------------------

static bool check(CommandLine *line, Error *err) {
    const CompareOptions *options = line->options;
    if (options->slurm.nodes > 0 && options->plan)
        return error_set(err, EXIT_CONFIG,
                         "command line: -N NODES writes a script, whose tasks do the runs; leave "
                         "--plan out");
    return slurm_tasks_check(&options->slurm, options->task, err);
}

static bool check_tasks(const Command *command, Error *err) {
    const CompareOptions *options = command->options;
    bool tasks = options->slurm.nodes > 0 || options->task > 0;
    if (tasks && command->comparison.search.halving)
        return error_set(
            err, EXIT_CONFIG,
            "%s:%d: search: the tasks of an array do not wait for each other, as kind: "
            "halving needs it; take kind: random, or run all in one job",
            command->comparison.source, command->comparison.search.line);
    if (options->task > command->count)
        return error_set(err, EXIT_CONFIG, "command line: --task is %lld, but there are %d runs",
                         (long long)options->task, command->count);
    return true;
}

// The tasks get the same words, and the folder by its name.
static bool write_job(const Command *command, const char *path, Error *err) {
    const Comparison *comparison = &command->comparison;
    int count = comparison->override_count;
    const char **words = calloc((size_t)count + 2, sizeof *words);
    SlurmTask *tasks = calloc((size_t)command->count, sizeof *tasks);
    CHECK_MEMORY(words && tasks, "no memory for %d runs", command->count);
    words[0] = "-o";
    words[1] = command->output;
    for (int i = 0; i < count; i++) words[i + 2] = comparison->overrides[i];
    bool ok = true;
    for (int i = 0; ok && i < command->count; i++) {
        tasks[i] = (SlurmTask){config_of(command, &command->runs[i], err), comparison->ranks};
        ok = tasks[i].config != NULL;
    }
    const char *slash = strrchr(command->output, '/');
    ok = ok &&
         batch_script_write_tasks(&command->options->slurm, tasks, command->count,
                                  slash ? slash + 1 : command->output, path, words, count + 2, err);
    for (int i = 0; i < command->count; i++) free(tasks[i].config);
    free(tasks);
    free(words);
    return ok;
}

// Nothing is begun unless every run is a legal one. Returns the exit code: 0 when all are done, 75
// when it was asked to stop, else that of the first run that failed, the others being tried all the
// same.
static int run(const CommandLine *line, Error *err) {
    const CompareOptions *options = line->options;
    const char *path = line->path;
    Command command = {.options = options};
    command.comparison.overrides = line->overrides;
    command.comparison.override_count = line->override_count;
    int exit_code = EXIT_DONE;
    if (!prepare(&command, path, err) || !check_tasks(&command, err)) {
        exit_code = err->exit_code;
    } else if (options->slurm.nodes > 0) {
        exit_code = write_job(&command, path, err) ? EXIT_DONE : err->exit_code;
    } else if (options->plan) {
        table_print(stdout, &command.comparison, results_of(&command));
    } else {
        log_show_time();
        exit_code = do_runs(&command, err);
    }
    for (int i = 0; i < command.count; i++) run_result_free(&command.results[i]);
    free(command.runs);
    free(command.results);
    comparison_free(&command.comparison);
    return exit_code;
}

const Verb COMPARE_VERB = {
    .name = "compare",
    .help = HELP,
    .path = "a comparison",
    .overrides = true,
    .starts_runs = true,
    .options = OPTIONS,
    .options_bytes = sizeof(CompareOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run = run,
};
