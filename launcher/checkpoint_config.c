#include "launcher/checkpoint_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/checkpoint_list.h"
#include "launcher/cli.h"
#include "launcher/config_print.h"
#include "launcher/config_value.h"
#include "model/loss.h"
#include "worker/data/data_format.h"
#include "worker/restore.h"
#include "worker/run/run_changes.h"

// ---- the file -----------------------------------------------------------------------------------

// The newest checkpoint of a folder; *found stays empty when it has none.
static bool find_newest(const char *folder, char found[CONFIG_PATH_BYTES], Error *err) {
    CheckpointList list;
    found[0] = '\0';
    if (!checkpoint_list_read(&list, folder, err)) return false;
    int length = 0;
    char name[CHECKPOINT_NAME_BYTES];
    if (list.count > 0) {
        checkpoint_name(list.steps[0], name);
        length = snprintf(found, CONFIG_PATH_BYTES, "%s/%s", folder, name);
    }
    checkpoint_list_free(&list);
    return length < CONFIG_PATH_BYTES ||
           error_set(err, EXIT_CHECKPOINT, "%.400s: the path is too long", folder);
}

bool checkpoint_find_newest(const char *folder, char found[CONFIG_PATH_BYTES], Error *err) {
    char inner[CONFIG_PATH_BYTES];
    int length = (int)strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    if (snprintf(inner, sizeof inner, "%.*s/checkpoints", length, folder) >= (int)sizeof inner)
        return error_set(err, EXIT_CHECKPOINT, "%.400s: the path is too long", folder);
    if (!find_newest(inner, found, err)) return false;
    inner[length] = '\0'; // the folder without slashes at its end
    return found[0] || find_newest(inner, found, err);
}

// Whether a file begins as a checkpoint does.
static bool is_checkpoint(const char *path) {
    char magic[8] = "";
    FILE *file = fopen(path, "rb");
    bool ok = file && fread(magic, 1, sizeof magic, file) == sizeof magic &&
              memcmp(magic, "MOETRAIN", sizeof magic) == 0;
    if (file) fclose(file);
    return ok;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length > tail && strcmp(text + length - tail, end) == 0;
}

// False, with what may have been meant, when the file is a configuration.
static bool refuse_config(const char *path, Error *err) {
    char *text = NULL, newest[CONFIG_PATH_BYTES] = "";
    size_t bytes = 0;
    Error ignored = {0};
    Config *config = config_new();
    bool legal = config_load_text(path, &text, &bytes, &ignored) &&
                 config_read(config, path, text, bytes, NULL, 0, &ignored);
    bool is_config = legal || ends_with(path, ".yaml") || ends_with(path, ".yml");
    if (legal && checkpoint_find_newest(config->train.run_dir, newest, &ignored) && newest[0])
        error_set(err, EXIT_CHECKPOINT,
                  "%.400s: is a configuration, not a checkpoint; the newest of its run is %s", path,
                  newest);
    else if (is_config)
        error_set(
            err, EXIT_CHECKPOINT,
            "%.400s: is a configuration, not a checkpoint; name RUN/checkpoints/step-….h5, or "
            "a run's folder for its newest%s%s",
            path, legal ? "; this one's has none: " : "", legal ? config->train.run_dir : "");
    free(config);
    free(text);
    return !is_config;
}

bool checkpoint_path_resolve(const char *path, char resolved[CONFIG_PATH_BYTES], Error *err) {
    struct stat status;
    bool exists = stat(path, &status) == 0;
    if (snprintf(resolved, CONFIG_PATH_BYTES, "%s", path) >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_CHECKPOINT, "%.400s…: the path is too long", path);
    if (exists && S_ISREG(status.st_mode)) return is_checkpoint(path) || refuse_config(path, err);
    if (!exists || !S_ISDIR(status.st_mode))
        return true; // the reader of the file says what is wrong
    if (!checkpoint_find_newest(path, resolved, err)) return false;
    return resolved[0] ||
           error_set(err, EXIT_CHECKPOINT,
                     "%.400s: is a folder without checkpoints; name a checkpoint, RUN/checkpoints/"
                     "step-….h5, or a run's folder for its newest",
                     path);
}

bool checkpoint_is_no_config(const char *path, const char *text, size_t bytes, Error *err) {
    bool checkpoint = (bytes >= 8 && memcmp(text, "MOETRAIN", 8) == 0) ||
                      (bytes >= 8 && memcmp(text, "\x89HDF\r\n\x1A\n", 8) == 0);
    return !checkpoint ||
           error_set(
               err, EXIT_CONFIG,
               "%.400s: is a checkpoint, not a configuration; moetrain evaluate, generate and "
               "inspect read it, and training goes on from it with moetrain CONFIG.yaml "
               "resume=%.400s",
               path, path);
}

// ---- its configuration --------------------------------------------------------------------------

static bool is_override_of(const char *override, const char *key) {
    size_t length = strlen(key);
    return strncmp(override, key, length) == 0 && override[length] == '=';
}

// What a token is and how many there are belongs to the weights.
static bool check_vocabulary(const Config *stored, const char *override, Error *err) {
    const DataConfig *facts = &stored->train.data;
    DataFormat format = data_format_resolve(facts);
    Config *changed = config_copy(stored);
    Error ignored = {0}; // of an illegal value, which config_read reports
    const char *key = is_override_of(override, "data.format") ? "data.format" : "data.vocab_size";
    int row = config_key_find(key);
    bool legal = config_value_parse(config_key(row), strchr(override, '=') + 1, "/",
                                    config_key_field(&changed->train, row), &ignored);
    if (strcmp(key, "data.vocab_size") == 0) changed->train.data.format = format;
    DataFormat wanted = data_format_resolve(&changed->train.data);
    int64_t size = changed->train.data.vocab_size;
    int64_t fact = format == DATA_BYTES ? 256 : facts->vocab_size;
    bool ok = !legal || (wanted == format && (size == facts->vocab_size || size == fact));
    free(changed);
    if (ok) return true;
    if (wanted != format)
        return error_set(err, EXIT_CONFIG,
                         "command line: data.format is %s, but the tokens of %.400s are %s, which "
                         "belongs to its weights; leave data.format out",
                         data_format_name(wanted), stored->source, data_format_name(format));
    if (format == DATA_CHARACTERS || format == DATA_TOKENIZER)
        return error_set(err, EXIT_CONFIG,
                         "command line: data.vocab_size is %lld, but the vocabulary of %.400s is "
                         "the %s; leave data.vocab_size out",
                         (long long)size, stored->source,
                         format == DATA_TOKENIZER ? "tokens of its tokenizer"
                                                  : "characters of its training text");
    return error_set(err, EXIT_CONFIG,
                     "command line: data.vocab_size is %lld, but %.400s has a vocabulary of %lld, "
                     "which belongs to its weights; leave data.vocab_size out",
                     (long long)size, stored->source, (long long)fact);
}

// Overrides without those that change nothing: data.train, which is not read and whose name must
// not decide what a token is, and what repeats the vocabulary.
static bool filter_overrides(const Config *stored, const char *const *overrides, int count,
                             const char **kept, int *kept_count, Error *err) {
    *kept_count = 0;
    for (int i = 0; i < count; i++) {
        bool vocabulary = is_override_of(overrides[i], "data.vocab_size");
        if ((vocabulary || is_override_of(overrides[i], "data.format")) &&
            !check_vocabulary(stored, overrides[i], err))
            return false;
        if (is_override_of(overrides[i], "data.tokenizer"))
            return error_set(err, EXIT_CONFIG,
                             "command line: the tokenizer of %.400s is in the checkpoint, since it "
                             "belongs to its weights; leave data.tokenizer out",
                             stored->source);
        bool repeats = vocabulary && stored->train.data.vocab_size == 0;
        if (!repeats && !is_override_of(overrides[i], "data.train"))
            kept[(*kept_count)++] = overrides[i];
    }
    return true;
}

// Whether the changed model has the tensors of the file, config->source.
static bool weights_fit(const Config *config) {
    ModelConfig changed = config->train.model;
    int64_t embedding[3];
    Error ignored = {0};
    if (!checkpoint_read_shape(config->source, "parameters/embedding", embedding, &ignored))
        return true;
    changed.vocab_size = embedding[0];
    Model model;
    model_measure(&model, &changed, model_split_alone(config->train.context), NULL);
    bool fits = restore_fits(config->source, &model.params, NULL);
    model_free(&model);
    return fits;
}

// What the weights compute is theirs: a changed function key is refused unless resume.allow names
// it.
static bool check_changes(const Config *config, DataFormat stored_format, const char *stored_yaml,
                          Error *err) {
    Config *changed = config_copy(config);
    changed->train.data.format = stored_format; // the same tokens, perhaps by another name
    char *yaml = config_to_yaml(changed, false);
    KeyRule *rules = config_key_rules(changed);
    bool fits = weights_fit(config);
    bool ok = run_changes_check(&(RunChanges){.checkpoint = config->source,
                                              .saved_yaml = stored_yaml,
                                              .current_yaml = yaml,
                                              .rules = rules,
                                              .allow = config->train.resume_allow,
                                              .fits = fits,
                                              .weights_only = true},
                                err);
    free(rules);
    free(yaml);
    free(changed);
    return ok;
}

void config_text_forget(char *text, const char *key) {
    size_t length = strlen(key);
    for (char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, key, length) == 0 && line[length] == ':') *line = '#';
}

// How training was cut binds nobody who reads its checkpoint.
static void forget_cut(char *text) {
    static const char *const keys[] = {"train.shards", "train.micro_batches",
                                       "moe.max_expert_replicas"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) config_text_forget(text, keys[i]);
}

// Files of earlier programs call train.objective so, which had one value.
static void forget_earlier(char *text) {
    char *line = strstr(text, "model.objective: causal\n");
    if (line) *line = '#';
}

// A masked model has a token more than a causal one of the same data: no resume.allow makes one
// of the other.
static bool check_objective(const Config *config, ObjectiveKind stored, Error *err) {
    ObjectiveKind asked = config->train.model.objective;
    return asked == stored ||
           error_set(err, EXIT_CONFIG,
                     "command line: train.objective is %s, but %.400s is a %s model, which belongs "
                     "to its weights; leave train.objective out",
                     choice_row(OBJECTIVE_CHOICES, (int)asked)->word, config->source,
                     choice_row(OBJECTIVE_CHOICES, (int)stored)->word);
}

bool checkpoint_config_read(Config *config, const char *path, const char *const *overrides,
                            int override_count, Error *err) {
    char file[CONFIG_PATH_BYTES], *text = NULL;
    const char *kept[MOST_OVERRIDES];
    int kept_count = 0;
    if (!checkpoint_path_resolve(path, file, err) || !checkpoint_read_config(file, &text, err))
        return false;
    size_t bytes = strlen(text);
    forget_cut(text);
    forget_earlier(text);
    bool ok = config_read(config, file, text, bytes, NULL, 0, err) &&
              filter_overrides(config, overrides, override_count, kept, &kept_count, err);
    DataFormat format = config->train.data.format;
    ObjectiveKind objective = config->train.model.objective;
    ok = ok && config_read(config, file, text, bytes, kept, kept_count, err) &&
         check_objective(config, objective, err) &&
         (kept_count == 0 || check_changes(config, format, text, err));
    free(text);
    return ok;
}
