#include "worker/run/run_requests.h"

#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "comm/collectives.h"
#include "kernels/log.h"
#include "worker/run/json_file.h"
#include "worker/run/run_dir.h"
#include "worker/save.h"

// ---- the keys -----------------------------------------------------------------------------------

typedef struct LiveKey {
    bool whole; // int64_t; otherwise double
    size_t offset;
} LiveKey;

enum { LIVE_KEY_COUNT = 6 };
const char *const LIVE_KEYS[LIVE_KEY_COUNT + 1] = {"log.every",        "eval.every",
                                                   "checkpoint.every", "checkpoint.keep_last",
                                                   "train.lr",         "train.min_lr"};
static const LiveKey FIELDS[LIVE_KEY_COUNT] = {
    {true, offsetof(TrainConfig, log_every)},
    {true, offsetof(TrainConfig, eval_every)},
    {true, offsetof(TrainConfig, checkpoint_every)},
    {true, offsetof(TrainConfig, keep.last)},
    {false, offsetof(TrainConfig, optimizer.lr)},
    {false, offsetof(TrainConfig, optimizer.min_lr)},
};

enum { VALUE_BYTES = 40 };
typedef struct Request {
    bool save, change;
    char values[LIVE_KEY_COUNT][VALUE_BYTES]; // as they stand in a configuration; of a change
} Request;

static struct {
    pthread_mutex_t mutex; // the watchdog's thread takes what the main thread obeys
    bool pending;
    Request request;
    char path[CONFIG_PATH_BYTES + 32]; // empty: nothing is begun
    char *yaml;                        // the configuration once it has changed
} shared = {.mutex = PTHREAD_MUTEX_INITIALIZER};

// ---- taking -------------------------------------------------------------------------------------

void run_requests_begin(const char *run_dir) {
    Error ignored;
    if (log_rank() != 0) return;
    pthread_mutex_lock(&shared.mutex);
    snprintf(shared.path, sizeof shared.path, "%s/request.json", run_dir);
    file_remove(shared.path, &ignored);
    pthread_mutex_unlock(&shared.mutex);
}

// Whether the text is a number that every one of our fields can hold; what the key allows was
// checked by who asks.
static bool is_number(const char *text) {
    char *end;
    if (!text || !text[0] || strlen(text) >= VALUE_BYTES) return false;
    double value = strtod(text, &end);
    return *end == '\0' && isfinite(value) && value >= 0 && value < 9e15;
}

// All keys or none.
static bool read_request(json_t *object, Request *request) {
    json_t *settings = json_object_get(object, "settings");
    *request = (Request){.save = json_is_true(json_object_get(object, "checkpoint")),
                         .change = settings != NULL};
    for (int i = 0; i < LIVE_KEY_COUNT && settings; i++) {
        const char *value = json_string_value(json_object_get(settings, LIVE_KEYS[i]));
        if (!is_number(value)) return false;
        snprintf(request->values[i], VALUE_BYTES, "%s", value);
    }
    return request->save || request->change;
}

void run_requests_beat(void) {
    char taken[sizeof shared.path + 16];
    Request request;
    Error err;
    pthread_mutex_lock(&shared.mutex);
    bool may = shared.path[0] && !shared.pending;
    pthread_mutex_unlock(&shared.mutex);
    if (!may || access(shared.path, F_OK) != 0) return;
    snprintf(taken, sizeof taken, "%s.taken", shared.path);
    if (!file_rename(shared.path, taken, &err)) return; // so that none that is written now is lost
    json_t *object = json_file_read(taken);
    file_remove(taken, &err);
    bool legal = read_request(object, &request);
    json_decref(object);
    if (!legal) {
        log_warn("%s: no request that can be read; it is ignored", shared.path);
        return;
    }
    pthread_mutex_lock(&shared.mutex);
    shared.request = request;
    shared.pending = true;
    pthread_mutex_unlock(&shared.mutex);
}

bool run_requests_pending(void) {
    pthread_mutex_lock(&shared.mutex);
    bool pending = shared.pending;
    pthread_mutex_unlock(&shared.mutex);
    return pending;
}

// ---- obeying ------------------------------------------------------------------------------------

// The text with the value of `key` replaced, to be freed by the caller.
static char *replace_value(const char *yaml, const char *key, const char *value) {
    size_t length = strlen(key);
    const char *line = yaml;
    while (line && (strncmp(line, key, length) != 0 || strncmp(line + length, ": ", 2) != 0)) {
        line = strchr(line, '\n');
        if (line) line++;
    }
    CHECK(line, "the configuration has no line of %s", key);
    size_t head = (size_t)(line - yaml) + length + 2, bytes = strlen(yaml) + strlen(value) + 1;
    char *changed = malloc(bytes);
    CHECK_MEMORY(changed, "no memory for a configuration of %zu bytes", bytes);
    snprintf(changed, bytes, "%.*s%s%s", (int)head, yaml, value, line + strcspn(line, "\n"));
    return changed;
}

// The same on every rank.
static void change_key(Trainer *trainer, int i, const char *value) {
    char *field = (char *)&trainer->config + FIELDS[i].offset;
    double number = strtod(value, NULL);
    double before = FIELDS[i].whole ? (double)*(int64_t *)field : *(double *)field;
    if (number == before) return;
    if (FIELDS[i].whole)
        *(int64_t *)field = (int64_t)number;
    else
        *(double *)field = number;
    log_info("%s is %s after step %lld (before: %g)", LIVE_KEYS[i], value,
             (long long)trainer->state.step, before);
    char *changed = replace_value(trainer->config_yaml, LIVE_KEYS[i], value);
    free(shared.yaml);
    trainer->config_yaml = shared.yaml = changed;
}

bool run_requests_obey(Trainer *trainer, Error *err) {
    Request request;
    pthread_mutex_lock(&shared.mutex);
    request = shared.request;
    shared.pending = false;
    pthread_mutex_unlock(&shared.mutex);
    broadcast(trainer->session.groups.world, &request, sizeof request, 0);
    for (int i = 0; i < LIVE_KEY_COUNT && request.change; i++)
        change_key(trainer, i, request.values[i]);
    Error failed = {0};
    if (request.change && log_rank() == 0 &&
        !run_dir_write_config(trainer->config.run_dir, trainer->config_yaml, &failed))
        log_warn("%s", failed.message);
    return !request.save || save_now(trainer, err);
}

void run_requests_end(void) {
    shared.path[0] = 0;
    shared.pending = false;
    free(shared.yaml);
    shared.yaml = NULL;
}
