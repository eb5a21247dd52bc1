#include "launcher/slurm/batch_script.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/threads.h"
#include "launcher/config.h"
#include "launcher/config_rules.h"
#include "slurm_templates.h"
#include "worker/plan.h"
#include "worker/run/time_limit.h"

enum { MOST_POINTS = 1000 };

// ---- options ------------------------------------------------------------------------------------

double sbatch_time_seconds(const char *text) {
    static const double units[] = {86400, 3600, 60, 1};
    bool has_days = strchr(text, '-') != NULL;
    long part[4];
    int parts = 0;
    for (const char *at = text;;) {
        char *next;
        if (*at < '0' || *at > '9' || parts == 4) return -1;
        part[parts++] = strtol(at, &next, 10);
        if (!*next) break;
        if (*next != (has_days && parts == 1 ? '-' : ':')) return -1;
        at = next + 1;
    }
    // The last of one or two is minutes or seconds.
    int first = has_days ? 0 : parts == 3 ? 1 : 2;
    if (has_days ? parts < 2 : parts > 3) return -1;
    double seconds = 0;
    for (int i = 0; i < parts; i++) seconds += (double)part[i] * units[first + i];
    return seconds;
}

static const char *template_of(const SlurmOptions *options) {
    if (options->array) return array_text;
    if (options->tasks == SLURM_COMPARED_RUNS) return compare_text;
    if (options->tasks == SLURM_SCALE_POINTS) return scale_text;
    if (strcmp(options->launcher, "srun") == 0) return srun_text;
    if (strcmp(options->launcher, "mpirun") == 0) return mpirun_text;
    return strcmp(options->launcher, "supervise") == 0 ? supervise_text : NULL;
}

bool slurm_options_check(const SlurmOptions *options, Error *err) {
    if (options->nodes == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: slurm needs -N NODES; --ntasks-per-node N are the ranks on "
                         "each");
    if (!template_of(options))
        return error_set(err, EXIT_CONFIG,
                         "command line: --launcher is '%.60s', but must be supervise, srun or "
                         "mpirun",
                         options->launcher);
    if (options->array && strcmp(options->launcher, "supervise") != 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: runs of an --array are started by supervise; leave "
                         "--launcher %s out",
                         options->launcher);
    if (options->time && sbatch_time_seconds(options->time) <= 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: --time is '%.60s', but must be minutes, "
                         "hours:minutes:seconds or days-hours:minutes:seconds",
                         options->time);
    return true;
}

bool slurm_tasks_check(const SlurmOptions *options, int64_t task, Error *err) {
    bool script = options->nodes > 0;
    if (!script && (options->output || options->time))
        return error_set(err, EXIT_CONFIG,
                         "command line: --script, --ntasks-per-node and --time are of a batch "
                         "script; add -N NODES, or leave them out");
    if (script && task > 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: -N NODES writes a script, whose tasks do the runs; leave "
                         "--task out");
    return !script || slurm_options_check(options, err);
}

// ---- the runs -----------------------------------------------------------------------------------

typedef struct Point {
    char *words[MOST_WORDS]; // key=value, into `text`
    int word_count;
    int ranks;
    char text[CONFIG_PATH_BYTES];
} Point;

// Takes the next of the lines; -np N is fewer ranks than there is room for.
static bool take_point(const char **lines, int room, Point *point, Error *err) {
    size_t length = strcspn(*lines, ";\n");
    *point = (Point){.ranks = room};
    if (length >= sizeof point->text)
        return error_set(err, EXIT_CONFIG, "command line: a run of --array is longer than %zu",
                         sizeof point->text);
    snprintf(point->text, sizeof point->text, "%.*s", (int)length, *lines);
    *lines += length + ((*lines)[length] != 0);
    char *rest = NULL;
    for (char *word = strtok_r(point->text, " \t", &rest); word;
         word = strtok_r(NULL, " \t", &rest)) {
        if (strcmp(word, "-np") == 0) {
            const char *ranks = strtok_r(NULL, " \t", &rest);
            point->ranks = ranks ? (int)strtol(ranks, NULL, 10) : 0;
            if (point->ranks < 1 || point->ranks > room)
                return error_set(err, EXIT_CONFIG,
                                 "command line: --array has -np %.20s, but must have 1 to %d, the "
                                 "ranks that the nodes have room for",
                                 ranks ? ranks : "", room);
        } else if (!strchr(word, '=') || word[0] == '-' || strpbrk(word, "'\"\\$`")) {
            return error_set(err, EXIT_CONFIG,
                             "command line: --array has '%.60s', but must have key=value and -np N "
                             "without quotes, runs parted by ';'",
                             word);
        } else if (point->word_count < MOST_WORDS) {
            point->words[point->word_count++] = word;
        }
    }
    return true;
}

// Whether it is a legal run; *train is its configuration. `base`: the rest of the command line.
static bool check_point(const char *path, const char *const *base, int base_count,
                        const Point *point, TrainConfig *train, Error *err) {
    const char *words[2 * MOST_WORDS];
    int count = 0;
    char *text = NULL;
    size_t bytes = 0;
    for (int i = 0; i < base_count && count < MOST_WORDS; i++) words[count++] = base[i];
    for (int i = 0; i < point->word_count; i++) words[count++] = point->words[i];
    Config *config = config_new();
    bool ok = config_load_text(path, &text, &bytes, err) &&
              config_read(config, path, text, bytes, words, count, err) &&
              config_check_ranks(config, point->ranks, train, err);
    free(text);
    free(config);
    return ok;
}

// What a job needs, the most that any of its runs does.
typedef struct Needs {
    double node_mib;
    int64_t saved_bytes;
    int64_t threads; // of a rank; 0: whatever there is
    bool gpus;
    int points; // 0: no array
} Needs;

static bool add_needs(Needs *needs, const TrainConfig *config, int ranks, int64_t on_a_node,
                      Error *err) {
    TrainConfig train = *config;
    Plan plan;
    bool gpus = strcmp(train.device, "cuda") == 0;
    int here = ranks < on_a_node ? ranks : (int)on_a_node;
    PlanHost host = {.ranks = ranks,
                     .threads = threads_choose((int)train.threads, here, here).threads,
                     .place = gpus ? ON_DEVICE : ON_HOST};
    if (!plan_resolve_vocabulary(&train, NULL, err) || !plan_make(&train, host, &plan, err))
        return false;
    // Tokens that one rank has on top of its share are missing on the others.
    double bytes = (double)plan_process_bytes(&plan, host.place, true) +
                   (double)(here - 1) * (double)plan_process_bytes(&plan, host.place, false);
    needs->node_mib = fmax(needs->node_mib, bytes / 1048576.0);
    needs->saved_bytes =
        plan.saved_bytes > needs->saved_bytes ? plan.saved_bytes : needs->saved_bytes;
    needs->threads = train.threads > needs->threads ? train.threads : needs->threads;
    needs->gpus |= gpus;
    return true;
}

static bool find_needs(const SlurmOptions *options, const Config *config, const char *path,
                       const char *const *overrides, int override_count, Needs *needs, Error *err) {
    int room = (int)(options->nodes * options->tasks_per_node);
    TrainConfig train;
    *needs = (Needs){0};
    if (!options->array)
        return config_check_ranks(config, room, &train, err) &&
               add_needs(needs, &train, room, options->tasks_per_node, err);
    Point *point = malloc(sizeof *point);
    CHECK_MEMORY(point, "no memory for a run of an array");
    bool ok = true;
    for (const char *lines = options->array; ok && *lines && needs->points < MOST_POINTS;) {
        needs->points++;
        ok = take_point(&lines, room, point, err);
        if (!ok) break;
        ok = (check_point(path, overrides, override_count, point, &train, err) &&
              add_needs(needs, &train, point->ranks, options->tasks_per_node, err)) ||
             error_prefix(err, "run %d of --array", needs->points);
    }
    free(point);
    return ok;
}

// ---- the script ---------------------------------------------------------------------------------

static void put_quoted(FILE *out, const char *word) {
    fputc('\'', out);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc(*word, out);
    fputc('\'', out);
}

// Seconds before its end at which Slurm is to tell a job that is not told by its own clock; whole
// minutes, as Slurm counts. 0: too short a job.
static int signal_seconds(const Needs *needs, const char *time) {
    double lead = 60 * ceil((60 + 3 * save_seconds_assumed(needs->saved_bytes)) / 60);
    double limit = time ? sbatch_time_seconds(time) : INFINITY;
    return lead <= limit / 2 ? (int)lead : 0;
}

// sbatch reads its lines word by word and knows no way to write these within quotes.
static bool fits_a_directive(const char *what, const char *text, Error *err) {
    return !strpbrk(text, "\"\\\n") ||
           error_set(err, EXIT_CONFIG,
                     "%s '%.200s' has a quote, a backslash or an end of a line, which a line of "
                     "sbatch cannot have; use another name",
                     what, text);
}

static void put_options(FILE *out, const SlurmOptions *options, const Needs *needs,
                        const char *name, const char *folder) {
    int lead = signal_seconds(needs, options->time);
    fprintf(out, "#SBATCH --job-name=\"%s\" --chdir=\"%s\"\n", name, folder);
    fprintf(out, "#SBATCH --nodes=%lld --ntasks-per-node=%lld", (long long)options->nodes,
            (long long)options->tasks_per_node);
    if (needs->threads > 0) fprintf(out, " --cpus-per-task=%lld", (long long)needs->threads);
    if (needs->gpus) fprintf(out, " --gres=gpu:%lld", (long long)options->tasks_per_node);
    if (options->time) fprintf(out, " --time=%s", options->time);
    if (needs->points) fprintf(out, " --array=1-%d", needs->points);
    // A tenth more, for what the kernel keeps for the job beside its processes.
    fprintf(out, "\n# planned for the ranks of a node: %.0f MiB at most\n", needs->node_mib);
    fprintf(out, "#SBATCH --mem=%.0fM\n", ceil(1.1 * needs->node_mib));
    fprintf(out, "#SBATCH --requeue --open-mode=append");
    if (options->tasks == SLURM_SCALE_POINTS) fputs(" --exclusive", out); // they are timed
    if (lead) fprintf(out, " --signal=B:USR1@%d", lead);
    fputc('\n', out);
}

static void put_words(FILE *out, const char *path, const char *const *overrides,
                      int override_count) {
    char resolved[PATH_MAX];
    fputs("set --", out);
    fputc(' ', out);
    put_quoted(out, realpath(path, resolved) ? resolved : path);
    for (int i = 0; i < override_count; i++) {
        fputc(' ', out);
        put_quoted(out, overrides[i]);
    }
    fputc('\n', out);
}

static void put_points(FILE *out, const char *array) {
    fputs("points='", out);
    for (; *array; array++) fputc(*array == ';' ? '\n' : *array, out);
    fputs("'\n", out);
}

static bool starts_with(const char *line, const char *text) {
    return strncmp(line, text, strlen(text)) == 0;
}

// The template without its head, with what it takes from the environment filled in.
static void put_template(FILE *out, const SlurmOptions *options, const char *source,
                         const char *self, const char *path, const char *const *overrides,
                         int override_count) {
    const char *line = strstr(template_of(options), "\nsource=");
    CHECK(line, "launcher/slurm/: a template without a line of source=");
    for (line++; *line;) {
        size_t length = strcspn(line, "\n");
        if (starts_with(line, "source=")) {
            fputs("source=", out);
            put_quoted(out, source);
            fputc('\n', out);
        } else if (starts_with(line, "moetrain=")) {
            fputs("moetrain=", out);
            put_quoted(out, self);
            fputc('\n', out);
            put_words(out, path, overrides, override_count);
        } else if (starts_with(line, "points=")) {
            put_points(out, options->array);
        } else if (starts_with(line, "[ -r \"$source/")) {
            // what follows is in the script
        } else if (starts_with(line, ". \"$source/")) {
            fprintf(out, "\n%s", job_text);
        } else {
            fprintf(out, "%.*s\n", (int)length, line);
        }
        line += length + (line[length] != 0);
    }
}

// The program's file, and the folder of its source, where launcher/mpirun is; empty: not found.
static bool find_program(char self[PATH_MAX], char source[PATH_MAX], Error *err) {
    char launcher[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", self, PATH_MAX - 1);
    if (length <= 0)
        return error_set(err, EXIT_IO, "cannot find this program: /proc/self/exe cannot be read");
    self[length] = 0;
    snprintf(source, PATH_MAX, "%s", self);
    for (int up = 0; up < 3; up++) { // build/release/moetrain
        char *slash = strrchr(source, '/');
        if (slash) *slash = 0;
    }
    snprintf(launcher, sizeof launcher, "%s/launcher/mpirun", source);
    if (access(launcher, X_OK) != 0) source[0] = 0;
    return true;
}

static void put_script(FILE *out, const SlurmOptions *options, const Needs *needs, const char *name,
                       const char *folder, const char *source, const char *self, const char *path,
                       const char *const *overrides, int override_count) {
    fputs("#!/bin/bash\n# Written by moetrain; submit it with sbatch.\n", out);
    put_options(out, options, needs, name, folder);
    put_template(out, options, source, self, path, overrides, override_count);
}

static bool write_script(const SlurmOptions *options, const Needs *needs, const char *name,
                         const char *path, const char *const *words, int word_count, Error *err) {
    char self[PATH_MAX], source[PATH_MAX], folder[PATH_MAX] = ".";
    (void)!getcwd(folder, sizeof folder);
    if (!fits_a_directive("run.dir", name, err) ||
        !fits_a_directive("the current folder", folder, err) || !find_program(self, source, err))
        return false;
    if (strcmp(options->launcher, "mpirun") == 0 && !source[0])
        return error_set(err, EXIT_CONFIG,
                         "command line: --launcher mpirun needs launcher/mpirun of the source "
                         "folder, three above %.200s; use srun",
                         self);
    FILE *out = options->output ? fopen(options->output, "we") : stdout;
    bool ok = out != NULL;
    if (ok) put_script(out, options, needs, name, folder, source, self, path, words, word_count);
    if (out && out != stdout)
        ok = fclose(out) == 0;
    else if (out)
        ok = fflush(out) == 0 && !ferror(out);
    return ok || error_set(err, EXIT_IO, "%s: cannot write: %s",
                           options->output ? options->output : "standard output", strerror(errno));
}

bool batch_script_write(const SlurmOptions *options, const Config *config, const char *path,
                        const char *const *overrides, int override_count, Error *err) {
    const char *run_dir = config->train.run_dir, *slash = strrchr(run_dir, '/');
    Needs needs;
    return find_needs(options, config, path, overrides, override_count, &needs, err) &&
           write_script(options, &needs, slash ? slash + 1 : run_dir, path, overrides,
                        override_count, err);
}

bool batch_script_write_tasks(const SlurmOptions *options, const SlurmTask *tasks, int count,
                              const char *name, const char *path, const char *const *words,
                              int word_count, Error *err) {
    Needs needs = {.points = count};
    TrainConfig train;
    for (int i = 0; i < count; i++)
        if (!config_check_ranks(tasks[i].config, tasks[i].ranks, &train, err) ||
            !add_needs(&needs, &train, tasks[i].ranks, options->tasks_per_node, err))
            return error_prefix(err, "task %d", i + 1);
    return write_script(options, &needs, name, path, words, word_count, err);
}
