// moetrain upcycle CHECKPOINT NEW.h5 moe.experts=N …

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/config_difference.h"
#include "launcher/checkpoint_config.h"
#include "launcher/config_print.h"
#include "launcher/verbs.h"
#include "worker/upcycle.h"

// clang-format off
static const char HELP[] =
    "  moetrain upcycle CHECKPOINT NEW.h5 moe.experts=N [key=value ...]   experts from a dense model, with its logits:\n"
    "                                                                   copies, or with a smaller moe.d_ff slices\n";
// clang-format on

static bool check(CommandLine *line, Error *err) {
    return line->word_count == 1 ||
           error_set(err, EXIT_CONFIG,
                     "command line: upcycle needs a dense checkpoint and the name of a new one: "
                     "moetrain upcycle CHECKPOINT NEW.h5 moe.experts=8");
}

// By which the routers of moa layers choose, too, and weigh: these layers stay what they are.
static bool is_of_heads(const char *key) {
    static const char *const keys[] = {"moe.router",         "moe.normalize_top_k",
                                       "moe.scaling_factor", "moe.noise_in_evaluation",
                                       "moe.gate_bias",      "moe.bias_update"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return false;
}

// What may become another function, since the new weights are made for it.
static bool is_of_experts(const ModelConfig *model, const char *key) {
    if (model_has_mixer(model, MIXER_MOA) && is_of_heads(key)) return false;
    return strncmp(key, "moe.", 4) == 0 || strcmp(key, "model.feed_forward") == 0;
}

// Everything else computes what it did.
static bool check_changes(const Config *dense, const Config *config, Error *err) {
    char *before = config_to_yaml(dense, false), *after = config_to_yaml(config, false);
    KeyRule *rules = config_key_rules(config);
    ConfigChanges changes;
    config_changes_find(&changes, before, after, rules);
    bool ok = true;
    for (int i = 0; ok && i < changes.count; i++) {
        const KeyChange *change = &changes.list[i];
        const char *key = change->rule->key;
        if (change->rule->kind != KIND_FUNCTION || is_of_experts(&dense->train.model, key))
            continue;
        ok = error_set(err, EXIT_CONFIG,
                       "command line: upcycling changes the new experts' keys alone, and %s%s is "
                       "%.100s in %.300s, here %.100s; leave it out",
                       key, is_of_heads(key) ? ", which moa layers obey, too," : "", change->saved,
                       dense->source, change->current);
    }
    config_changes_free(&changes);
    free(rules);
    free(before);
    free(after);
    return ok;
}

static bool is_dense(const ModelConfig *model) {
    for (int64_t layer = 0; layer < model->layers; layer++)
        if (model_feed_forward(model, layer) != FEED_FORWARD_DENSE) return false;
    return true;
}

// The checkpoint's configuration, and that of the new one: how wide experts are, and where all
// layers are dense which of them have experts, follows anew from what the line says.
static bool read_configs(Config *dense, Config *config, const CommandLine *line, Error *err) {
    char file[CONFIG_PATH_BYTES], *text = NULL;
    if (!checkpoint_path_resolve(line->path, file, err) ||
        !checkpoint_read_config(file, &text, err))
        return false;
    bool ok = config_read(dense, file, text, strlen(text), NULL, 0, err);
    config_text_forget(text, "moe.d_ff");
    if (ok && is_dense(&dense->train.model)) config_text_forget(text, "model.feed_forward");
    ok =
        ok &&
        config_read(config, file, text, strlen(text), line->overrides, line->override_count, err) &&
        check_changes(dense, config, err);
    free(text);
    return ok;
}

static int run(const CommandLine *line, Error *err) {
    Config *dense = config_new(), *config = config_new();
    bool ok = read_configs(dense, config, line, err) &&
              upcycle_check(&dense->train.model, &config->train.model, err);
    if (ok) {
        char *yaml = config_to_yaml(config, false);
        ok = upcycle_write(&(Upcycling){.dense = &dense->train.model,
                                        .config = &config->train,
                                        .config_yaml = yaml,
                                        .from = dense->source,
                                        .to = line->words[0]},
                           err);
        free(yaml);
    }
    free(config);
    free(dense);
    return ok ? EXIT_DONE : err->exit_code;
}

const Verb UPCYCLE_VERB = {
    .name = "upcycle",
    .help = HELP,
    .path = "a dense checkpoint and the name of a new one",
    .words = 1,
    .overrides = true,
    .check = check,
    .run = run,
};
