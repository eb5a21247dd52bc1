// moetrain scale CONFIG.yaml --np 1,2,4: trains a few steps on each number of ranks and tells what
// the ranks are good for. Called again it goes on: what is done is not done again.
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "launcher/cli_numbers.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/line_config.h"
#include "launcher/scale/scale_table.h"
#include "launcher/slurm/batch_script.h"
#include "launcher/supervisor/rank_launcher.h"
#include "launcher/verbs.h"
#include "model/moe_layer.h"
#include "worker/run/run_dir.h"
#include "worker/run/signals.h"

// clang-format off
static const char HELP[] =
    "  moetrain scale CONFIG.yaml --np 1,2,4 [options] [key=value ...]  trains a few steps on each number of ranks:\n"
    "                                                                   efficiency, and what it is lost to\n"
    "      --weak             the batch grows with the ranks; --experts: and moe.experts; else neither (--strong)\n"
    "      --steps N          that are measured (20), after --warm-up N (5); --repeats N: runs of a point (3)\n"
    "      --launcher TEXT    as supervise has it; --oversubscribe: more ranks than CPUs\n"
    "      -o FOLDER          of runs, scale.csv and scale.svg (runs/NAME-scale-MODE)\n"
    "      -N NODES           instead writes an sbatch script of one point a task, to --script FILE; with\n"
    "                         --ntasks-per-node and --time as slurm has them; --task N does one point\n";
// clang-format on

enum { MOST_POINTS = 64 };

typedef struct ScaleOptions {
    const char *ranks; // "1,2,4"
    bool weak, strong, experts, oversubscribe;
    int64_t steps, warm_up, repeats;
    int64_t task; // only this point, from 1; 0: all
    const char *launcher, *output;
    SlurmOptions slurm; // with nodes: only writes a script, whose tasks do a point each
    int numbers[MOST_POINTS], count; // of `ranks`
} ScaleOptions;

static const ScaleOptions DEFAULTS = {
    .steps = 20,
    .warm_up = 5,
    .repeats = 3,
    .slurm = {.launcher = "supervise", .tasks_per_node = 1, .tasks = SLURM_SCALE_POINTS}};
static const CliOption OPTIONS[] = {
    CLI_TEXT("--np", "numbers of ranks that grow, joined by commas", ScaleOptions, ranks),
    CLI_TEXT("-np", "numbers of ranks that grow, joined by commas", ScaleOptions, ranks),
    CLI_FLAG("--strong", ScaleOptions, strong),
    CLI_FLAG("--weak", ScaleOptions, weak),
    CLI_FLAG("--experts", ScaleOptions, experts),
    CLI_WHOLE("--steps", "a number of steps from 1 to 100000", ScaleOptions, steps, 1, 100000),
    CLI_WHOLE("--warm-up", "a number of steps from 0 to 100000", ScaleOptions, warm_up, 0, 100000),
    CLI_WHOLE("--repeats", "a number of runs from 1 to 100", ScaleOptions, repeats, 1, 100),
    CLI_WHOLE("--task", "the number of a point from 1", ScaleOptions, task, 1, 2 * MOST_POINTS),
    CLI_TEXT("--launcher", "mpirun, srun or a command line with {np}", ScaleOptions, launcher),
    CLI_FLAG("--oversubscribe", ScaleOptions, oversubscribe),
    CLI_TEXT("-o", "a folder", ScaleOptions, output),
    SLURM_ROWS(ScaleOptions, slurm.),
    CLI_TEXT("--script", "a file", ScaleOptions, slurm.output),
    CLI_END};

// ---- what is asked for --------------------------------------------------------------------------

static bool read_numbers(ScaleOptions *options) {
    for (const char *at = options->ranks;; at++) {
        char word[16];
        int64_t ranks = 0;
        size_t length = strcspn(at, ",");
        snprintf(word, sizeof word, "%.*s", (int)(length < 15 ? length : 15), at);
        if (options->count == MOST_POINTS || !whole_number(word, 1, 65536, &ranks)) return false;
        if (options->count > 0 && ranks <= options->numbers[options->count - 1]) return false;
        options->numbers[options->count++] = (int)ranks;
        at += length;
        if (!*at) return true;
    }
}

static int cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                       : (int)sysconf(_SC_NPROCESSORS_ONLN);
}

// How many ranks there is room for, each on a CPU of its own: on the nodes of the job that is to be
// written, in the Slurm job that this is, or on this machine. Where the user starts the ranks only
// he knows.
static bool check_room(const ScaleOptions *options, Error *err) {
    const SlurmOptions *slurm = &options->slurm;
    const char *job = getenv("SLURM_JOB_ID"), *tasks = job ? getenv("SLURM_NTASKS") : NULL;
    int most = options->numbers[options->count - 1], room = INT_MAX;
    const char *launcher = options->launcher ? options->launcher : launcher_here();
    bool mpirun = strcmp(launcher, "mpirun") == 0, srun = strcmp(launcher, "srun") == 0;
    if (slurm->nodes > 0)
        room = (int)(slurm->nodes * slurm->tasks_per_node);
    else if (tasks && (mpirun || srun))
        room = (int)strtol(tasks, NULL, 10);
    else if (mpirun && !job)
        room = cpus();
    if (most <= room) return true;
    if (slurm->nodes > 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: %d ranks are more than the %d task%s of the job; take "
                         "fewer, or more with -N and --ntasks-per-node",
                         most, room, room == 1 ? "" : "s");
    return options->oversubscribe ||
           error_set(err, EXIT_CONFIG,
                     "command line: %d ranks share %d %s, which says nothing of %d; take fewer, or "
                     "--oversubscribe",
                     most, room, tasks ? "tasks of this job" : "CPUs here", most);
}

static bool check(CommandLine *line, Error *err) {
    ScaleOptions *options = line->options;
    if (!options->ranks || !read_numbers(options))
        return error_set(err, EXIT_CONFIG,
                         "command line: scale needs --np LIST, at most %d numbers of ranks that "
                         "grow, joined by commas, as 1,2,4%s%.60s%s",
                         MOST_POINTS, options->ranks ? ", not '" : "",
                         options->ranks ? options->ranks : "", options->ranks ? "'" : "");
    if (options->weak + options->strong + options->experts > 1)
        return error_set(
            err, EXIT_CONFIG,
            "command line: --strong, --weak and --experts exclude each other; give one");
    if (getenv("OMPI_COMM_WORLD_RANK"))
        return error_set(err, EXIT_CONFIG,
                         "command line: scale starts mpirun by itself; leave it out");
    return slurm_tasks_check(&options->slurm, options->task, err) && check_room(options, err);
}

// moe.experts where it is one number; 0 where each layer has its own.
static int64_t experts_of(const Config *config) {
    char *yaml = config_to_yaml(config, false), *found = strstr(yaml, "\nmoe.experts: ");
    int64_t experts = found ? strtoll(found + strlen("\nmoe.experts: "), NULL, 10) : 0;
    free(yaml);
    return experts;
}

// runs/NAME-scale-MODE of NAME.yaml.
static void choose_output(const ScaleOptions *options, const char *path, ScaleMode mode,
                          char output[CONFIG_PATH_BYTES]) {
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const char *suffix = strrchr(name, '.');
    int length = suffix && suffix > name ? (int)(suffix - name) : (int)strlen(name);
    if (options->output)
        snprintf(output, CONFIG_PATH_BYTES, "%s", options->output);
    else
        snprintf(output, CONFIG_PATH_BYTES, "runs/%.*s-scale-%s", length, name,
                 SCALE_MODE_NAMES[mode]);
}

// Whether moe.force has a router to force.
static bool is_routed(const ModelConfig *model) {
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (FEED_FORWARDS[model_feed_forward(model, layer)].kind == &MOE_FEED_FORWARD) return true;
    return false;
}

// Each number of ranks with the model's own routing and, where there is a router, with one that
// spreads tokens evenly.
static bool plan_points(const ScaleOptions *options, const ScalePlan *plan, bool routes,
                        ScalePoint *points, int *count, Error *err) {
    for (int i = 0; i < options->count; i++) {
        for (int even = 0; even <= routes; even++) {
            ScalePoint *point = &points[(*count)++];
            *point = (ScalePoint){.ranks = options->numbers[i], .even = even};
            if (!scale_point_plan(plan, point, err)) return false;
        }
    }
    return options->task <= *count ||
           error_set(err, EXIT_CONFIG, "command line: --task is %lld, but there are %d points",
                     (long long)options->task, *count);
}

// ---- doing it -----------------------------------------------------------------------------------

static void warn_of_load(void) {
    double load = 0;
    if (getloadavg(&load, 1) == 1 && load > 0.3)
        log_warn("this machine is busy: its load was %.1f in the last minute; times will tell of "
                 "that, too",
                 load);
}

static void say_point(const ScalePlan *plan, const ScalePoint *point, int64_t repeat) {
    ScalePoint read = *point;
    scale_point_read(plan, &read);
    log_info("%d rank%s, %s routing, run %lld of %lld: %.2f ms a step", point->ranks,
             point->ranks == 1 ? "" : "s", point->even ? "even" : "learned", (long long)repeat,
             (long long)plan->repeats, read.step_ms);
}

typedef struct Course {
    int code;           // of the first run that failed, or EXIT_REQUEUE
    int failed_point;   // of that run
    int64_t failed_run; // 0: none has
} Course;

// Runs of different points take turns, so that a machine that becomes slower does so for all. False
// with *err where one cannot be started.
static bool run_points(const ScalePlan *plan, const ScaleOptions *options, ScalePoint *points,
                       int count, Course *course, Error *err) {
    for (int64_t repeat = 1; repeat <= plan->repeats; repeat++) {
        for (int i = 0; i < count; i++) {
            if (options->task > 0 && i + 1 != options->task) continue;
            int code = scale_point_run(plan, &points[i], repeat, err);
            if (err->message[0]) return false;
            if (code == EXIT_REQUEUE || signals_received()) {
                course->code = EXIT_REQUEUE;
                return true;
            }
            if (code == EXIT_DONE)
                say_point(plan, &points[i], repeat);
            else if (course->failed_run == 0)
                *course = (Course){code, i, repeat};
        }
    }
    return true;
}

static bool tell(const ScalePlan *plan, ScalePoint *points, int count, Course course, Error *err) {
    for (int i = 0; i < count; i++) scale_point_read(plan, &points[i]);
    scale_find_losses(points, count);
    scale_print_table(stdout, points, count);
    scale_print_conclusion(stdout, points, count);
    if (!scale_write_files(plan->output, plan->mode, points, count, err)) return false;
    if (course.code == EXIT_REQUEUE) log_info("stopped; run the same command again to go on");
    if (course.failed_run == 0 || course.code == EXIT_REQUEUE) return true;
    ScalePoint *point = &points[course.failed_point];
    if (!point->message[0]) scale_point_last_error(plan, point, course.failed_run);
    return error_set(err, (ExitCode)course.code,
                     "run %lld on %d ranks with %s routing failed: %s; see its scale.log in "
                     "%s/np-%d",
                     (long long)course.failed_run, point->ranks, point->even ? "even" : "learned",
                     point->message, plan->output, point->ranks);
}

// The tasks get the same words, and the folder by its name.
static bool write_job(const ScaleOptions *options, const ScalePlan *plan, const ScalePoint *points,
                      int count, Error *err) {
    static const char *const modes[] = {"--strong", "--weak", "--experts"};
    const char *words[MOST_OVERRIDES + 16];
    char numbers[3][24];
    SlurmTask tasks[2 * MOST_POINTS];
    const int64_t of_runs[3] = {plan->steps, plan->warm_up, plan->repeats};
    static const char *const names[3] = {"--steps", "--warm-up", "--repeats"};
    int word_count = 0, task_count = 0;
    words[word_count++] = "--np";
    words[word_count++] = options->ranks;
    words[word_count++] = modes[plan->mode];
    for (int i = 0; i < 3; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%lld", (long long)of_runs[i]);
        words[word_count++] = names[i];
        words[word_count++] = numbers[i];
    }
    if (options->launcher) words[word_count++] = "--launcher";
    if (options->launcher) words[word_count++] = options->launcher;
    words[word_count++] = "-o";
    words[word_count++] = plan->output;
    for (int i = 0; i < plan->override_count; i++) words[word_count++] = plan->overrides[i];
    bool ok = true;
    for (int i = 0; ok && i < count; i++) {
        tasks[i] = (SlurmTask){scale_point_config(plan, &points[i], 1, err), points[i].ranks};
        ok = tasks[i].config != NULL;
        task_count += ok;
    }
    const char *slash = strrchr(plan->output, '/');
    ok = ok &&
         batch_script_write_tasks(&options->slurm, tasks, count, slash ? slash + 1 : plan->output,
                                  plan->path, words, word_count, err);
    for (int i = 0; i < task_count; i++) free(tasks[i].config);
    return ok;
}

static bool measure(const ScaleOptions *options, const ScalePlan *plan, ScalePoint *points,
                    int count, Course *course, Error *err) {
    if (!run_dir_open(plan->output, err)) return false;
    if (options->oversubscribe) setenv("SLURM_OVERCOMMIT", "1", 0); // srun's, as mpirun has its own
    log_show_time();
    warn_of_load();
    return run_points(plan, options, points, count, course, err) &&
           tell(plan, points, count, *course, err);
}

static int scale(const CommandLine *line, Config *config, Error *err) {
    const ScaleOptions *options = line->options;
    ScaleMode mode = options->experts ? SCALE_EXPERTS : options->weak ? SCALE_WEAK : SCALE_STRONG;
    char output[CONFIG_PATH_BYTES];
    ScalePoint points[2 * MOST_POINTS];
    Course course = {.code = EXIT_DONE};
    int count = 0;
    choose_output(options, line->path, mode, output);
    ScalePlan plan = {.path = line->path,
                      .overrides = line->overrides,
                      .override_count = line->override_count,
                      .mode = mode,
                      .steps = options->steps,
                      .warm_up = options->warm_up,
                      .repeats = options->repeats,
                      .batch = config->train.batch,
                      .experts = experts_of(config),
                      .context = config->train.context,
                      .first_ranks = options->numbers[0],
                      .launcher = options->launcher,
                      .output = output};
    bool routes = is_routed(&config->train.model);
    if (mode == SCALE_EXPERTS && (!routes || plan.experts == 0)) {
        error_set(err, EXIT_CONFIG, "command line: --experts makes moe.experts grow, %s",
                  routes ? "which is a list here; write one number"
                         : "but no layer has a router; take --weak");
    } else if (config_load_text(line->path, &plan.text, &plan.bytes, err) &&
               plan_points(options, &plan, routes, points, &count, err)) {
        if (options->slurm.nodes > 0)
            write_job(options, &plan, points, count, err);
        else
            measure(options, &plan, points, count, &course, err);
    }
    free(plan.text);
    return err->message[0] ? (int)err->exit_code : course.code;
}

static int run(const CommandLine *line, Error *err) {
    return with_line_config(line, CONFIG_OF_FILE, scale, err);
}

const Verb SCALE_VERB = {
    .name = "scale",
    .help = HELP,
    .path = "a configuration",
    .overrides = true,
    .starts_runs = true,
    .options = OPTIONS,
    .options_bytes = sizeof(ScaleOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run = run,
};
