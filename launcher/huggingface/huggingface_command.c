// moetrain export hf, moetrain import hf.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "launcher/checkpoint_config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "launcher/huggingface/config_json.h"
#include "launcher/huggingface/family_fit.h"
#include "launcher/verbs.h"
#include "worker/huggingface/export_model.h"
#include "worker/huggingface/import_model.h"

// clang-format off
static const char EXPORT_HELP[] =
    "  moetrain export hf CHECKPOINT FOLDER [options] [key=value ...]   for Hugging Face's transformers\n"
    "      --dtype TYPE       f32 or bf16 (f32)\n"
    "      --shard-size N     bytes of a file at most (5000000000)\n";
// clang-format on

// clang-format off
static const char IMPORT_HELP[] =
    "  moetrain import hf FOLDER CHECKPOINT.h5 [key=value ...]     a model of theirs: to generate, evaluate, train on\n";
// clang-format on

static bool check(CommandLine *line, Error *err) {
    bool export = line->verb == &EXPORT_VERB;
    const char *verb = line->verb->name;
    if (strcmp(line->path, "hf") != 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: %s knows the form hf, not '%.60s': moetrain %s hf %s", verb,
                         line->path, verb, export ? "CHECKPOINT FOLDER" : "FOLDER CHECKPOINT.h5");
    return line->word_count == 2 ||
           error_set(err, EXIT_CONFIG, "command line: %s hf needs %s", verb,
                     export ? "a checkpoint and the name of a new folder"
                            : "a folder with config.json and the name of a new checkpoint");
}

// ---- export -------------------------------------------------------------------------------------

static bool describe(const Config *config, ModelExport *wanted, char **json, Error *err) {
    int64_t vocab_size;
    if (!family_choose(config, &wanted->family, err) ||
        !export_vocab_size(config->source, &vocab_size, err))
        return false;
    *json = config_json_write(config, wanted->family, vocab_size, wanted->options.type);
    wanted->config_json = *json;
    wanted->alternate = wanted->family->latents;
    return true;
}

static int run_export(const CommandLine *line, Error *err) {
    if (comm_size() > 1) {
        error_set(err, EXIT_CONFIG, "export works with one rank, not %d; run it without mpirun",
                  comm_size());
        return err->exit_code;
    }
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    const ExportOptions *options = line->options;
    ModelExport wanted = {.folder = line->words[1], .options = *options};
    char *json = NULL;
    CHECK_MEMORY(train, "out of memory");
    bool ok = checkpoint_config_read(config, line->words[0], line->overrides, line->override_count,
                                     err) &&
              describe(config, &wanted, &json, err) && config_resolve_ranks(config, 1, train, err);
    int exit_code = ok ? export_model(train, config->source, &wanted, err) : err->exit_code;
    free(json);
    free(train);
    free(config);
    return exit_code;
}

static bool take_dtype(CommandLine *line, const char *value) {
    ExportOptions *options = line->options;
    bool narrow = strcmp(value, "bf16") == 0;
    options->type = narrow ? STORED_BF16 : STORED_F32;
    return narrow || strcmp(value, "f32") == 0;
}

static const ExportOptions EXPORT_DEFAULTS = {.type = STORED_F32, .shard_bytes = 5000000000};
static const CliOption EXPORT_OPTIONS[] = {CLI_TAKEN("--dtype", "f32 or bf16", take_dtype),
                                           CLI_WHOLE("--shard-size", "a number of bytes from 1",
                                                     ExportOptions, shard_bytes, 1, MOST_DIGITS),
                                           CLI_END};

const Verb EXPORT_VERB = {
    .name = "export",
    .help = EXPORT_HELP,
    .path = "hf, a checkpoint and a new folder",
    .words = 2,
    .overrides = true,
    .options = EXPORT_OPTIONS,
    .options_bytes = sizeof(ExportOptions),
    .defaults = &EXPORT_DEFAULTS,
    .check = check,
    .run_ranks = run_export,
};

// ---- import -------------------------------------------------------------------------------------

enum { PATH_BYTES = CONFIG_PATH_BYTES + 8 };

// NAME.h5 and NAME.yaml, of which neither may be there.
static bool name_files(const char *checkpoint, char yaml[PATH_BYTES], Error *err) {
    const char *tail = ".h5";
    size_t length = strlen(checkpoint), end = strlen(tail);
    if (length >= CONFIG_PATH_BYTES)
        return error_set(err, EXIT_IO, "path too long: %.60s...", checkpoint);
    if (length <= end || strcmp(checkpoint + length - end, tail) != 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.400s' is to be the checkpoint; give it a name that ends "
                         "in .h5",
                         checkpoint);
    snprintf(yaml, PATH_BYTES, "%.*s.yaml", (int)(length - end), checkpoint);
    const char *there = access(checkpoint, F_OK) == 0 ? checkpoint
                        : access(yaml, F_OK) == 0     ? yaml
                                                      : NULL;
    return !there ||
           error_set(err, EXIT_IO, "%.400s exists; remove it or choose another name", there);
}

// Takes the line of a key out of `yaml`.
static void drop_line(char *yaml, const char *key, size_t length) {
    for (char *line = yaml; line && *line;) {
        char *end = strchr(line, '\n');
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            memmove(line, end + 1, strlen(end + 1) + 1);
            return;
        }
        line = end ? end + 1 : NULL;
    }
}

// The folder's tokenizer, unless the command line says what a token is. One that this program does
// not honour is told, and tokens are numbers. False with exit 4 where it has more tokens than the
// embedding has rows.
static bool open_tokenizer(Tokenizer **tokenizer, const CommandLine *line, const ConfigJson *json,
                           char path[PATH_BYTES + 16], Error *err) {
    char here[CONFIG_PATH_BYTES] = "";
    const char *folder = line->words[0];
    Error why = {0};
    for (int i = 0; i < line->override_count; i++)
        if (strncmp(line->overrides[i], "data.format=", 12) == 0) return true;
    if (folder[0] != '/' && !getcwd(here, sizeof here)) here[0] = '\0';
    snprintf(path, PATH_BYTES + 16, "%s%s%.*s/tokenizer.json", here, here[0] ? "/" : "",
             (int)(CONFIG_PATH_BYTES - 1 - strlen(here)), folder);
    if (access(path, F_OK) != 0) return true;
    if (!tokenizer_read(tokenizer, path, NULL, &why)) {
        log_warn("%s; tokens are numbers", why.message);
        return true;
    }
    return (*tokenizer)->size <= json->vocab_size ||
           error_set(err, EXIT_CHECKPOINT,
                     "%s: %lld tokens, but the embedding has %lld rows; the files do not belong "
                     "together: take those of one model, or leave tokenizer.json out",
                     path, (long long)(*tokenizer)->size, (long long)json->vocab_size);
}

// What a token is, which config.json does not say: that of the tokenizer, or a number. Then what
// the command line says.
static void add_keys(ConfigJson *json, const CommandLine *line, const char *tokenizer) {
    char *text = NULL;
    size_t bytes = 0;
    const int64_t most = (int64_t)UINT16_MAX + 1;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    fprintf(out, "%sdata.format: %s\ndata.vocab_size: %lld\n", json->yaml,
            tokenizer                  ? "tokenizer"
            : json->vocab_size <= most ? "uint16"
                                       : "uint32",
            (long long)json->vocab_size);
    if (tokenizer) fprintf(out, "data.tokenizer: \"%s\"\n", tokenizer);
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    free(json->yaml);
    json->yaml = text;
    for (int i = 0; i < line->override_count; i++) {
        const char *given = line->overrides[i], *equals = strchr(given, '=');
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)(equals - given), given);
        int row = config_key_find(key);
        if (row < 0 || config_key(row)->type == OPTION_PATH) continue; // paths start elsewhere
        drop_line(json->yaml, key, strlen(key));
        if (asprintf(&text, "%s%s: %s\n", json->yaml, key, equals + 1) > 0) {
            free(json->yaml);
            json->yaml = text;
        }
    }
    if (strstr(json->yaml, "data.format: bytes\n")) // which have a size of their own
        drop_line(json->yaml, "data.vocab_size", strlen("data.vocab_size"));
}

static bool read_config(Config *config, const CommandLine *line, const ConfigJson *json,
                        const char *yaml_path, Error *err) {
    const char *overrides[MOST_OVERRIDES + 2], *folder = line->words[0];
    const char *name = strrchr(yaml_path, '/');
    char source[PATH_BYTES + 32], train[PATH_BYTES + 16], run[PATH_BYTES + 16];
    int count = 0;
    name = name ? name + 1 : yaml_path;
    // Nothing trains on the folder; the checkpoint says where its weights came from.
    snprintf(train, sizeof train, "data.train=%s", folder);
    snprintf(run, sizeof run, "run.dir=runs/%.*s", (int)(strlen(name) - strlen(".yaml")), name);
    snprintf(source, sizeof source, "%s/config.json in keys of moetrain", folder);
    overrides[count++] = train;
    overrides[count++] = run;
    for (int i = 0; i < line->override_count; i++) overrides[count++] = line->overrides[i];
    return config_read(config, source, json->yaml, strlen(json->yaml), overrides, count, err);
}

// The keys of the model and of what tokens are, and `init`: what remains to be said is the data.
static bool write_yaml(const char *path, const CommandLine *line, const ConfigJson *json,
                       Error *err) {
    char here[CONFIG_PATH_BYTES] = "";
    const char *checkpoint = line->words[1];
    if (checkpoint[0] != '/' && !getcwd(here, sizeof here)) here[0] = '\0';
    char *yaml = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&yaml, &bytes);
    CHECK_MEMORY(out, "out of memory");
    fprintf(out, "# A %s model of Hugging Face's, from %s. To train it further:\n",
            json->family->model_type, line->words[0]);
    fprintf(out, "#   mpirun -np N moetrain %s data.train=FILE\n\n", path);
    fprintf(out, "init: \"%s%s%s\"\n%s", here, here[0] ? "/" : "", checkpoint, json->yaml);
    fclose(out);
    CHECK_MEMORY(yaml, "out of memory");
    bool ok = file_make(path, yaml, bytes, err);
    free(yaml);
    return ok;
}

static bool import_folder(Config *config, const CommandLine *line, const ConfigJson *json,
                          const Tokenizer *tokenizer, const char *yaml_path, Error *err) {
    if (!read_config(config, line, json, yaml_path, err) ||
        !family_holds(json->family, config, err))
        return false;
    char *yaml = config_to_yaml(config, false);
    const ModelImport wanted = {.family = json->family,
                                .alternate = json->alternate,
                                .quantization = json->quantization,
                                .vocab_size = json->vocab_size,
                                .tokenizer = tokenizer,
                                .config_yaml = yaml,
                                .folder = line->words[0],
                                .checkpoint = line->words[1]};
    bool ok = import_model(&config->train, &wanted, err) && write_yaml(yaml_path, line, json, err);
    free(yaml);
    return ok;
}

static int run_import(const CommandLine *line, Error *err) {
    ConfigJson json = {0};
    char yaml_path[PATH_BYTES], tokenizer_path[PATH_BYTES + 16];
    Tokenizer *tokenizer = NULL;
    if (!name_files(line->words[1], yaml_path, err) ||
        !config_json_read(&json, line->words[0], err))
        return err->exit_code;
    if (json.unread[0])
        log_warn("%s/config.json: %s: not read, and taken to change nothing", line->words[0],
                 json.unread);
    Config *config = config_new();
    bool ok = open_tokenizer(&tokenizer, line, &json, tokenizer_path, err);
    if (ok) add_keys(&json, line, tokenizer ? tokenizer_path : NULL);
    ok = ok && import_folder(config, line, &json, tokenizer, yaml_path, err);
    tokenizer_free(tokenizer);
    if (ok) printf("%s: with data.train=FILE the configuration that trains from it\n", yaml_path);
    free(config);
    free(json.yaml);
    free(json.unread);
    return ok ? EXIT_DONE : err->exit_code;
}

const Verb IMPORT_VERB = {
    .name = "import",
    .help = IMPORT_HELP,
    .path = "hf, a folder and a new checkpoint",
    .words = 2,
    .overrides = true,
    .check = check,
    .run = run_import,
};
