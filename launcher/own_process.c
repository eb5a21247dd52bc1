#include "launcher/own_process.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "kernels/clock.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/supervisor/rank_launcher.h"
#include "worker/run/run_dir.h"
#include "worker/run/signals.h"

static const double POLL_SECONDS = 0.05;
static const double ASK_SECONDS = 0.5; // between requests to stop: it may just be starting

// Paths may have any character.
static void add_quoted(FILE *out, const char *redirection, const char *dir, const char *name) {
    fprintf(out, " %s'", redirection);
    for (const char *c = dir; *c; c++) fprintf(out, *c == '\'' ? "'\\''" : "%c", *c);
    fprintf(out, "/%s'", name);
}

// What starts a program with its output in files. To be freed by the caller.
static char *build_command(const char *dir, const char *log, const char *output) {
    char *command = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&command, &bytes);
    CHECK_MEMORY(out, "out of memory");
    fputs("env", out);
    add_quoted(out, output ? ">" : ">>", dir, output ? output : log);
    add_quoted(out, "2>>", dir, log);
    fclose(out);
    CHECK_MEMORY(command, "out of memory");
    return command;
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

int own_process_run(const char *dir, const char *log, const char *output, const char *who,
                    char **words, Error *err) {
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, PATH_MAX - 1);
    if (length <= 0 && !words[0]) {
        error_set(err, EXIT_IO, "cannot start %s: %s", dir, strerror(errno));
        return err->exit_code;
    }
    self[length > 0 ? length : 0] = 0;
    if (!words[0]) words[0] = self;
    RankLauncher process;
    char *command = build_command(dir, log, output);
    bool ok = rank_launcher_start(&process, command, 1, "", 1, words, who, err);
    free(command);
    return ok ? wait_for(&process) : err->exit_code;
}

void own_process_last_error(const char *dir, const char *log, char *message, size_t bytes) {
    static const char mark[] = "moetrain: error: ";
    char path[PATH_MAX], *line = NULL;
    size_t room = 0;
    snprintf(message, bytes, "it has not said why");
    snprintf(path, sizeof path, "%s/%s", dir, log);
    FILE *file = fopen(path, "r");
    while (file && getline(&line, &room, file) > 0)
        if (strncmp(line, mark, strlen(mark)) == 0) {
            char *time = strstr(line, " | 20"); // of log_time
            line[time ? (size_t)(time - line) : strcspn(line, "\n")] = 0;
            snprintf(message, bytes, "%s", line + strlen(mark));
        }
    if (file) fclose(file);
    free(line);
}

bool own_process_check_config(const char *dir, const char *name, const Config *config,
                              const char *also, Error *err) {
    char path[PATH_MAX], *text = NULL;
    size_t bytes = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (access(path, F_OK) != 0) return true;
    if (!config_load_text(path, &text, &bytes, err)) return false;
    char *saved = strndup(text, bytes), *current = config_to_yaml(config, false);
    CHECK_MEMORY(saved, "out of memory");
    KeyRule *rules = config_key_rules(config);
    ConfigChanges changes;
    config_changes_find(&changes, saved, current, rules);
    const KeyChange *wrong = NULL;
    for (int i = changes.count - 1; i >= 0; i--) {
        const KeyRule *rule = changes.list[i].rule;
        if (rule->kind != KIND_FREE || (also && strcmp(rule->key, also) == 0))
            wrong = &changes.list[i];
    }
    bool ok =
        !wrong || error_set(err, EXIT_CONFIG,
                            "%s was begun with %s %.200s, and is to have %.200s; name another "
                            "folder with -o, or remove this one",
                            dir, wrong->rule->key, wrong->saved, wrong->current);
    config_changes_free(&changes);
    free(rules);
    free(current);
    free(saved);
    free(text);
    return ok;
}

bool own_process_write_config(const char *dir, const char *name, const Config *config, Error *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *yaml = config_to_yaml(config, false), *portable = run_dir_portable_config(yaml);
    bool ok =
        run_dir_open(dir, err) && (file_replace_shared(path, portable, strlen(portable), err) ||
                                   error_prefix(err, "%s", path));
    free(portable);
    free(yaml);
    return ok;
}

int own_process_train(const char *program, const char *dir, const char *name, const char *log,
                      const char *who, int ranks, const char *launcher, const char *word,
                      Error *err) {
    char path[PATH_MAX], number[16];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(number, sizeof number, "%d", ranks);
    char option[] = "--launcher";
    char *words[9] = {(char *)program, (char[]){"supervise"}, path, (char[]){"-np"}, number};
    int count = 5;
    if (launcher) words[count++] = option;
    if (launcher) words[count++] = (char *)launcher;
    if (word) words[count++] = (char *)word;
    return own_process_run(dir, log, NULL, who, words, err);
}
