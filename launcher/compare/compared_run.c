#include "launcher/compare/compared_run.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "launcher/config.h"
#include "launcher/compare/run_result.h"
#include "launcher/config_print.h"
#include "launcher/supervisor/rank_launcher.h"
#include "worker/run/json_file.h"
#include "worker/run/run_dir.h"
#include "worker/run/signals.h"

enum { PATH_BYTES = CONFIG_PATH_BYTES + 32, INFERENCE_TOKENS = 128 };
static const char LOG_NAME[] = "compare.log";
static const double POLL_SECONDS = 0.05;
static const double ASK_SECONDS = 0.5; // between requests to stop: it may just be starting

// ---- before it ----------------------------------------------------------------------------------

bool compared_run_check(const ComparedRun *run, const Config *config, Error *err) {
    char path[PATH_BYTES], *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/compare.yaml", run->dir);
    if (access(path, F_OK) != 0) return true;
    if (!config_load_text(path, &text, &bytes, err)) return false;
    char *saved = strndup(text, bytes), *current = config_to_yaml(config, false);
    CHECK_MEMORY(saved, "out of memory");
    KeyRule *rules = config_key_rules(config);
    ConfigChanges changes;
    config_changes_find(&changes, saved, current, rules);
    const KeyChange *wrong = NULL;
    for (int i = changes.count - 1; i >= 0; i--)
        if (changes.list[i].rule->kind != KIND_FREE) wrong = &changes.list[i];
    bool ok =
        !wrong || error_set(err, EXIT_CONFIG,
                            "%s was begun with %s %.200s, and is to have %.200s; name another "
                            "folder with -o, or remove this one",
                            run->dir, wrong->rule->key, wrong->saved, wrong->current);
    config_changes_free(&changes);
    free(rules);
    free(current);
    free(saved);
    free(text);
    return ok;
}

static bool write_config(const ComparedRun *run, const Config *config, const char *path,
                         Error *err) {
    char temporary[PATH_BYTES + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    char *yaml = config_to_yaml(config, false), *portable = run_dir_portable_config(yaml);
    bool ok = run_dir_open(run->dir, err) &&
              (file_replace(path, temporary, portable, strlen(portable), err) ||
               error_prefix(err, "%s", path));
    free(portable);
    free(yaml);
    return ok;
}

// ---- its process --------------------------------------------------------------------------------

static void add_quoted(FILE *out, const char *redirection, const char *dir, const char *name) {
    fprintf(out, " %s'", redirection);
    for (const char *c = dir; *c; c++) fprintf(out, *c == '\'' ? "'\\''" : "%c", *c);
    fprintf(out, "/%s'", name);
}

// What starts a program with its output in files of the run, whose path may have any character:
// stdout in `name`, stderr in compare.log. To be freed by the caller.
static char *build_command(const ComparedRun *run, const char *name) {
    char *command = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&command, &bytes);
    CHECK_MEMORY(out, "out of memory");
    fputs("env", out);
    add_quoted(out, strcmp(name, LOG_NAME) == 0 ? ">>" : ">", run->dir, name);
    add_quoted(out, "2>>", run->dir, LOG_NAME);
    fclose(out);
    CHECK_MEMORY(command, "out of memory");
    return command;
}

// Begins this program anew with the words behind its name, which words[0] is to become.
static bool start(RankLauncher *process, const ComparedRun *run, const char *output, int ranks,
                  char **words, Error *err) {
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, PATH_MAX - 1);
    if (length <= 0)
        return error_set(err, EXIT_IO, "cannot start %s: %s", run->dir, strerror(errno));
    self[length] = 0;
    words[0] = self;
    char *command = build_command(run, output);
    bool ok = rank_launcher_start(process, command, ranks, "", 1, words, "compare", err);
    free(command);
    return ok;
}

static int wait_for(RankLauncher *process) {
    for (double asked = 0; !process->ended;) {
        rank_launcher_serve(process, POLL_SECONDS);
        double now = clock_seconds();
        if (signals_received() && now - asked > ASK_SECONDS && rank_launcher_ask(process))
            asked = now;
    }
    rank_launcher_close(process);
    return process->exit_code;
}

int compared_run_train(const ComparedRun *run, const Config *config, int ranks,
                       const char *launcher, Error *err) {
    char path[PATH_BYTES], number[16], until[48];
    snprintf(path, sizeof path, "%s/compare.yaml", run->dir);
    snprintf(number, sizeof number, "%d", ranks);
    snprintf(until, sizeof until, "run.stop_at=%lld", (long long)run->until);
    char *words[] = {NULL,
                     (char[]){"supervise"},
                     path,
                     (char[]){"-np"},
                     number,
                     (char[]){"--launcher"},
                     (char *)launcher,
                     run->until ? until : NULL,
                     NULL};
    RankLauncher process;
    if (!write_config(run, config, path, err) || !start(&process, run, LOG_NAME, ranks, words, err))
        return err->exit_code;
    return wait_for(&process);
}

bool compared_run_time_inference(const ComparedRun *run, const Config *config, Error *err) {
    char path[PATH_BYTES], tokens[32];
    snprintf(path, sizeof path, "%s/%s", run->dir, INFERENCE_NAME);
    json_t *known = json_file_read(path);
    json_decref(known);
    if (known) return true;
    int64_t most =
        config->train.context < INFERENCE_TOKENS ? config->train.context : INFERENCE_TOKENS;
    snprintf(tokens, sizeof tokens, "%lld", (long long)most);
    char *words[] = {NULL,
                     (char[]){"generate"},
                     (char *)run->dir,
                     (char[]){"--json"},
                     (char[]){"--timings"},
                     (char[]){"--temperature"},
                     (char[]){"0"},
                     (char[]){"--tokens"},
                     tokens,
                     NULL};
    RankLauncher process;
    if (!start(&process, run, INFERENCE_NAME, 1, words, err)) return false;
    wait_for(&process);
    return true;
}
