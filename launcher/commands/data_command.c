// moetrain data info FILE.

#include <stdlib.h>
#include <string.h>

#include "launcher/config.h"
#include "launcher/config_keys.h"
#include "launcher/config_value.h"
#include "launcher/verbs.h"
#include "worker/data/data_info.h"

// clang-format off
static const char HELP[] =
    "  moetrain data info FILE [key=value ...]                     what a data file is: tokens, documents, vocabulary\n";
// clang-format on

static bool check(CommandLine *line, Error *err) {
    if (strcmp(line->path, "info") == 0 && line->word_count == 1) return true;
    return error_set(err, EXIT_CONFIG,
                     "command line: data can info FILE, with data.format and other keys of data "
                     "behind it");
}

// A key of data alone: the rules that join them are of training.
static bool take_override(Config *config, const char *override, Error *err) {
    char name[64];
    const char *equals = strchr(override, '=');
    snprintf(name, sizeof name, "%.*s", (int)(equals - override), override);
    int row = strncmp(name, "data.", 5) == 0 ? config_key_find(name) : -1;
    if (row < 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is no key of data; `moetrain help data` lists them",
                         name);
    return config_value_parse(config_key(row), equals + 1, "",
                              config_key_field(&config->train, row), err) ||
           error_prefix(err, "command line");
}

static int run(const CommandLine *line, Error *err) {
    static const char DEFAULTS[] = "data.train: none\n";
    Config *config = config_new();
    bool ok = config_read(config, "data", DEFAULTS, sizeof DEFAULTS - 1, NULL, 0, err);
    for (int i = 0; ok && i < line->override_count; i++)
        ok = take_override(config, line->overrides[i], err);
    int exit_code = ok ? data_info_run(&config->train.data, line->words[0], err) : err->exit_code;
    free(config);
    return exit_code;
}

const Verb DATA_VERB = {
    .name = "data",
    .help = HELP,
    .path = "info FILE",
    .words = 1,
    .overrides = true,
    .check = check,
    .run = run,
};
