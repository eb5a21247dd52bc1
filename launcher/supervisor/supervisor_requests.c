#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "launcher/status.h"
#include "launcher/supervisor/attempt_journal.h"
#include "launcher/supervisor/supervisor.h"
#include "worker/run/json_file.h"
#include "worker/run/run_requests.h"

static bool answer_status(const Supervisor *supervisor, char *answer, size_t room, Error *err) {
    json_t *all = status_read(supervisor->train.run_dir, err);
    if (!all) return false;
    json_object_set_new(all, "start", json_integer(supervisor->number));
    json_object_set_new(all, "waiting", json_boolean(!supervisor->alive));
    char *text = json_dumps(all, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(all);
    bool fits = text && strlen(text) < room;
    if (fits) snprintf(answer, room, "%s", text);
    free(text);
    return fits || error_set(err, EXIT_CONFIG, "the status is too long; read RUN/status.json");
}

// The value of a key in a configuration's text.
static json_t *value_of(const char *yaml, const char *key) {
    size_t length = strlen(key);
    for (const char *line = yaml; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, length) == 0 && strncmp(line + length, ": ", 2) == 0)
            return json_stringn(line + length + 2, strcspn(line + length + 2, "\n"));
    }
    return NULL;
}

// Leaves RUN/request.json for the ranks; what they have not taken yet stays asked.
static bool leave_request(const Supervisor *supervisor, bool save, Error *err) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/request.json", supervisor->train.run_dir);
    json_t *before = json_file_read(path), *settings = json_object();
    save = save || json_is_true(json_object_get(before, "checkpoint"));
    json_decref(before);
    char *yaml = config_to_yaml(supervisor->config, false);
    for (const char *const *key = LIVE_KEYS; *key; key++)
        json_object_set_new(settings, *key, value_of(yaml, *key));
    free(yaml);
    return json_file_replace(path,
                             json_pack("{s:b, s:o}", "checkpoint", save, "settings", settings)) ||
           error_set(err, EXIT_IO, "%s: cannot write; is the disk full?", path);
}

static bool answer_checkpoint(const Supervisor *supervisor, char *answer, size_t room, Error *err) {
    if (!supervisor->alive)
        return error_set(err, EXIT_CONFIG,
                         "no rank is alive; the newest checkpoint is that of step "
                         "%lld",
                         (long long)supervisor->progress.saved_step);
    if (!leave_request(supervisor, true, err)) return false;
    snprintf(answer, room,
             "a checkpoint is saved after the step that runs; `moetrain status` shows "
             "it");
    return true;
}

// ---- set ----------------------------------------------------------------------------------------

// Reads the configuration again, with `set` in the place of what was set of that key before.
static Config *read_with(const Supervisor *supervisor, const char *set, TrainConfig *train,
                         Error *err) {
    const char *words[SUPERVISOR_WORDS];
    int count = 0;
    char *text = NULL;
    size_t bytes = 0;
    for (int i = 0; i < supervisor->override_count; i++) words[count++] = supervisor->overrides[i];
    for (int i = 0; i < supervisor->set_count; i++) words[count++] = supervisor->sets[i];
    words[count++] = set; // the last of a key holds
    Config *config = config_new();
    bool ok = config_load_text(supervisor->path, &text, &bytes, err) &&
              config_read(config, supervisor->path, text, bytes, words, count, err) &&
              config_check_ranks(config, supervisor->ranks, train, err);
    free(text);
    if (ok) return config;
    free(config);
    return NULL;
}

static void remember(Supervisor *supervisor, const char *key, const char *set) {
    size_t length = strlen(key) + 1;
    int i = 0;
    while (i < supervisor->set_count && strncmp(supervisor->sets[i], set, length) != 0) i++;
    CHECK(i < SUPERVISOR_SETS, "more than %d keys were set", SUPERVISOR_SETS);
    snprintf(supervisor->sets[i], SUPERVISOR_SET_BYTES, "%s", set);
    if (i == supervisor->set_count) supervisor->set_count++;
}

static bool answer_set(Supervisor *supervisor, const ControlRequest *request, char *answer,
                       size_t room, Error *err) {
    char set[SUPERVISOR_SET_BYTES], now[CLOCK_UTC_BYTES];
    TrainConfig train;
    snprintf(set, sizeof set, "%s=%s", request->key, request->value);
    Config *config = read_with(supervisor, set, &train, err);
    if (!config) return false;
    Config *before = supervisor->config;
    supervisor->config = config;
    if (supervisor->alive && !leave_request(supervisor, false, err)) {
        supervisor->config = before;
        free(config);
        return false;
    }
    free(before);
    supervisor->train = train;
    remember(supervisor, request->key, set);
    log_info("supervise: set %s", set);
    attempt_journal_add(supervisor->train.run_dir,
                        json_pack("{s:s, s:s, s:i}", "time", clock_utc(now), "set", set, "number",
                                  supervisor->number));
    snprintf(answer, room, "%s after the step that runs, and after every restart", set);
    return true;
}

bool supervisor_answer(void *context, const ControlRequest *request, char *answer, size_t room,
                       Error *err) {
    Supervisor *supervisor = context;
    switch (request->verb) {
    case CONTROL_STATUS:
        return answer_status(supervisor, answer, room, err);
    case CONTROL_CHECKPOINT:
        return answer_checkpoint(supervisor, answer, room, err);
    case CONTROL_SET:
        return answer_set(supervisor, request, answer, room, err);
    case CONTROL_STOP:
        kill(getpid(), SIGTERM); // taken like any other request to stop
        snprintf(answer, room, "the run is saved and ends after the step that runs");
        return true;
    }
    return false;
}
