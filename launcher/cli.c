#include "launcher/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/suggest.h"
#include "launcher/checkpoint_command.h"
#include "launcher/cli_numbers.h"
#include "launcher/config_keys.h"
#include "launcher/data_command.h"
#include "launcher/generate_command.h"
#include "launcher/habits.h"
#include "launcher/huggingface/huggingface_command.h"
#include "launcher/supervisor/live_hosts.h"
#include "launcher/upcycle_command.h"

// ---- what may be written ------------------------------------------------------------------------

typedef struct VerbRow {
    const char *name;
    Verb verb;
    const char *path; // what the first plain word is
    bool overrides;   // whether key=value may follow
    bool alone;       // whether the path may be left out
} VerbRow;

static const VerbRow VERBS[] = {
    {"evaluate", VERB_EVALUATE, "a checkpoint", true, false},
    {"generate", VERB_GENERATE, "a checkpoint", true, false},
    {"analyse", VERB_ANALYSE, "a checkpoint", true, false},
    {"inspect", VERB_INSPECT, "a checkpoint", false, false},
    {"plan", VERB_PLAN, "a configuration", true, false},
    {"help", VERB_HELP, "a key", false, true},
    {"supervise", VERB_SUPERVISE, "a configuration", true, false},
    {"slurm", VERB_SLURM, "a configuration", true, false},
    {"compare", VERB_COMPARE, "a comparison", true, false},
    {"checkpoint-now", VERB_CHECKPOINT_NOW, "a run directory", false, true},
    {"stop", VERB_STOP, "a run directory", false, true},
    {"set", VERB_SET, "a run directory", true, false},
    {"status", VERB_STATUS, "a run directory", false, true},
    {"checkpoint", VERB_CHECKPOINT, "verify, diff, export-npz or prune", false, false},
    {"data", VERB_DATA, "info FILE", true, false},
    {"diff-runs", VERB_DIFF_RUNS, "two run directories", false, false},
    {"export", VERB_EXPORT, "hf, a checkpoint and a new folder", true, false},
    {"import", VERB_IMPORT, "hf, a folder and a new checkpoint", true, false},
    {"upcycle", VERB_UPCYCLE, "a dense checkpoint and the name of a new one", true, false},
    {"convert-tokenizer", VERB_CONVERT_TOKENIZER, "a file of ranks", false, false},
    {"train-tokenizer", VERB_TRAIN_TOKENIZER, "a text", false, false},
    {"tokenize", VERB_TOKENIZE, "a text, or -", false, false},
};
enum { VERB_COUNT = sizeof VERBS / sizeof *VERBS };
// Without a word of its own; --print-config turns it into VERB_PRINT_CONFIG.
static const VerbRow TRAIN = {"train", VERB_TRAIN, "a configuration", true, false};

// Plain words that may follow the path.
static int words_of(Verb verb) {
    bool two = verb == VERB_CHECKPOINT || verb == VERB_EXPORT || verb == VERB_IMPORT;
    bool one = verb == VERB_DATA || verb == VERB_UPCYCLE || verb == VERB_DIFF_RUNS;
    if (two || one) return two ? 2 : 1;
    return verb == VERB_TRAIN_TOKENIZER ? MOST_WORDS : 0;
}

typedef struct OptionRow {
    const char *name;
    Verb verb;         // the one verb that has it
    const char *value; // what its value is; NULL: none
} OptionRow;

static const OptionRow OPTIONS[] = {
    {"--print-config", VERB_TRAIN, NULL},
    {"--choices", VERB_EVALUATE, "a file of JSON lines"},
    {"--json", VERB_EVALUATE, NULL},
    {"--weights", VERB_EVALUATE, "trained, f32, bf16, fp16, int8 or all"},
    {"--per-document", VERB_EVALUATE, NULL},
    {"--prompt", VERB_GENERATE, "a text"},
    {"--prompt-file", VERB_GENERATE, "a file, or - for standard input"},
    {"--prompts", VERB_GENERATE, "a file of JSON lines"},
    {"--interactive", VERB_GENERATE, NULL},
    {"--samples", VERB_GENERATE, "a number of texts from 1 to 1000000"},
    {"--stop", VERB_GENERATE, "a text that is not empty, at most 16 times"},
    {"--tokens", VERB_GENERATE, "a number of tokens from 1 to 1000000"},
    {"--temperature", VERB_GENERATE, "a number from 0 to 100"},
    {"--top-k", VERB_GENERATE, "a number of tokens; 0 is off"},
    {"--top-p", VERB_GENERATE, "a number above 0 and up to 1"},
    {"--repetition-penalty", VERB_GENERATE, "a number from 0.01 to 100"},
    {"--seed", VERB_GENERATE, "a whole number from 0"},
    {"--json", VERB_GENERATE, NULL},
    {"--weights", VERB_GENERATE, "trained, f32, bf16, fp16 or int8"},
    {"--logprobs", VERB_GENERATE, NULL},
    {"--experts", VERB_GENERATE, "the number of a layer, from 0"},
    {"--color", VERB_GENERATE, "auto, always or never"},
    {"--recompute", VERB_GENERATE, NULL},
    {"--data", VERB_ANALYSE, "data sets with commas between them"},
    {"-o", VERB_ANALYSE, "a new folder"},
    {"--digest", VERB_INSPECT, NULL},
    {"--json", VERB_STATUS, NULL},
    {"--dtype", VERB_EXPORT, "f32 or bf16"},
    {"--shard-size", VERB_EXPORT, "a number of bytes from 1"},
    {"--keep-last", VERB_CHECKPOINT, "a number of checkpoints from 1"},
    {"--keep-every", VERB_CHECKPOINT, "a number of steps from 1"},
    {"-np", VERB_SUPERVISE, "a number of ranks from 1 to 65536"},
    {"--launcher", VERB_SUPERVISE, "mpirun, srun or a command line with {np}"},
    {"--hosts", VERB_SUPERVISE, "host:slots, joined by commas"},
    {"--daemon", VERB_SUPERVISE, NULL},
    {"--wait", VERB_SUPERVISE, "a number of seconds from 0 to 300"},
    {"-np", VERB_PLAN, "a number of ranks from 1 to 65536"},
    {"-N", VERB_SLURM, "a number of nodes from 1 to 4096"},
    {"--ntasks-per-node", VERB_SLURM, "a number of ranks from 1 to 256"},
    {"--time", VERB_SLURM, "a time limit as sbatch has it"},
    {"--launcher", VERB_SLURM, "supervise, srun or mpirun"},
    {"--array", VERB_SLURM, "runs parted by ';', each key=value and -np N"},
    {"-o", VERB_SLURM, "a file"},
    {"-np", VERB_COMPARE, "a number of ranks from 1 to 65536"},
    {"--launcher", VERB_COMPARE, "mpirun, srun or a command line with {np}"},
    {"--plan", VERB_COMPARE, NULL},
    {"-o", VERB_COMPARE, "a folder"},
    {"--task", VERB_COMPARE, "the number of a run from 1"},
    {"-N", VERB_COMPARE, "a number of nodes from 1 to 4096"},
    {"--ntasks-per-node", VERB_COMPARE, "a number of ranks from 1 to 256"},
    {"--time", VERB_COMPARE, "a time limit as sbatch has it"},
    {"--script", VERB_COMPARE, "a file"},
    {"--pattern", VERB_CONVERT_TOKENIZER, "gpt2, llama3, qwen2 or o200k"},
    {"--special", VERB_CONVERT_TOKENIZER, "special tokens with commas between them"},
    {"-o", VERB_CONVERT_TOKENIZER, "a new tokenizer.json"},
    {"--vocab", VERB_TRAIN_TOKENIZER, "a number of tokens from 256 to 16777216"},
    {"--pattern", VERB_TRAIN_TOKENIZER, "gpt2, llama3, qwen2 or o200k"},
    {"--special", VERB_TRAIN_TOKENIZER, "special tokens with commas between them"},
    {"--threads", VERB_TRAIN_TOKENIZER, "a number of threads from 1 to 4096"},
    {"-o", VERB_TRAIN_TOKENIZER, "a new tokenizer.json"},
    {"--tokenizer", VERB_TOKENIZE, "a tokenizer.json or the ranks of tiktoken"},
    {"--pattern", VERB_TOKENIZE, "gpt2, llama3, qwen2 or o200k"},
    {"--decode", VERB_TOKENIZE, NULL},
    {"-o", VERB_TOKENIZE, "a new file, or -"},
};
enum { OPTION_COUNT = sizeof OPTIONS / sizeof *OPTIONS };

static const char *verb_name(Verb verb) {
    for (int row = 0; row < VERB_COUNT; row++)
        if (VERBS[row].verb == verb) return VERBS[row].name;
    return "moetrain CONFIG.yaml";
}

void cli_print_usage(FILE *out) {
    fprintf(out, "usage: mpirun -np N moetrain CONFIG.yaml [key=value ...]\n"
                 "       moetrain --help shows all commands, moetrain help all keys\n");
}

void cli_print_help(FILE *out) {
    fprintf(
        out,
        "moetrain trains Mixture-of-Experts language models on MPI ranks.\n"
        "\n"
        "  mpirun -np N moetrain CONFIG.yaml [key=value ...]     train; continues from the newest "
        "checkpoint\n"
        "  moetrain --print-config CONFIG.yaml [key=value ...]   every key, its value and where it "
        "came from\n"
        "  moetrain plan CONFIG.yaml -np N [key=value ...]       parameters, memory and traffic on "
        "N ranks\n"
        "  moetrain help [KEY or SECTION]                        what the keys mean\n"
        "\n"
        "  mpirun -np N moetrain evaluate CHECKPOINT [key=value ...]   loss on data.validation\n"
        "      --per-document     a line of JSON for each document, and one for all\n"
        "      --weights KIND     held in f32, bf16, fp16 or int8 (scales by row); all: a table of "
        "loss, bytes,\n"
        "                         speed and moved choices of experts (as train.precision has "
        "them)\n"
        "      --choices FILE     instead: how often the right one of several choices is the "
        "likeliest; lines of\n"
        "                         {\"context\": TEXT, \"choices\": [TEXT, ...], \"gold\": N}; "
        "--json: each answer\n"
        "  moetrain generate CHECKPOINT [options] [key=value ...]      text, one token after "
        "another\n"
        "      --prompt TEXT      what it continues (empty); --prompt-file FILE: a file, or - for "
        "standard input\n"
        "      --prompts FILE     lines {\"prompt\": TEXT}, which ranks share; answers are lines "
        "of "
        "--json\n"
        "      --interactive      what lines of standard input begin; an empty one goes on\n"
        "      --tokens N         how many tokens (200); --samples N: of how many texts (1)\n"
        "      --stop TEXT        ends a text before TEXT; may be given several times\n"
        "      --temperature X    0 always takes the most likely token (0.8)\n"
        "      --top-k N          choose among the N most likely tokens; 0 is off (0)\n"
        "      --top-p X          choose among the most likely tokens that make up X of the "
        "probability (1)\n"
        "      --repetition-penalty X   makes tokens that the text has less likely "
        "(1, CTRL)\n"
        "      --seed N           key of the random choices (1337)\n"
        "      --json             a line of JSON for each text: prompt, text, tokens, "
        "finish_reason\n"
        "      --logprobs         and the model's log-probability of each token, in nats\n"
        "      --weights KIND     held in f32, bf16, fp16 or int8 (as train.precision has them)\n"
        "      --experts LAYER    on a terminal, each token in the colour of the expert that it "
        "chooses first there;\n"
        "                         --color always or never: whatever stdout is; NO_COLOR is "
        "honoured\n"
        "      --recompute        without the key/value cache: slow, for checking\n"
        "  mpirun -np N moetrain analyse CHECKPOINT --data A,B -o FOLDER [key=value ...]   which "
        "tokens choose\n"
        "                         which experts: tables.h5 and figures, for each layer\n"
        "  moetrain inspect [--digest] CHECKPOINT                      what is inside; --digest: "
        "one line of hex\n"
        "  moetrain export hf CHECKPOINT FOLDER [options] [key=value ...]   for Hugging Face's "
        "transformers\n"
        "      --dtype TYPE       f32 or bf16 (f32)\n"
        "      --shard-size N     bytes of a file at most (5000000000)\n"
        "  moetrain import hf FOLDER CHECKPOINT.h5 [key=value ...]     a model of theirs: to "
        "generate, evaluate, train on\n"
        "  moetrain upcycle CHECKPOINT NEW.h5 moe.experts=N [key=value ...]   experts from a dense "
        "model, with its logits:\n"
        "                                                                   copies, or with a "
        "smaller moe.d_ff slices\n"
        "\n"
        "  moetrain train-tokenizer TEXT ... --vocab N -o FILE [options]    a tokenizer.json of "
        "byte-level BPE\n"
        "      --pattern NAME     what cuts words: gpt2, llama3, qwen2 or o200k (gpt2)\n"
        "      --special A,B      special tokens (<|endoftext|>)\n"
        "      --threads N        that count words; the file is the same for any number\n"
        "  moetrain convert-tokenizer RANKS --pattern NAME -o FILE [--special A,B]   of tiktoken's "
        "ranks\n"
        "  moetrain tokenize TEXT --tokenizer FILE [-o FILE.bin]            prints the tokens of a "
        "text, or\n"
        "                                                                   writes them as uint16 "
        "or uint32;\n"
        "                                                                   - is standard input, "
        "or output\n"
        "      --pattern NAME     of a file of tiktoken's ranks, which names none\n"
        "      --decode           from a file of tokens back to text\n"
        "\n"
        "  moetrain supervise CONFIG.yaml -np N [options] [key=value ...]   trains, and starts "
        "again "
        "what breaks\n"
        "      --launcher TEXT    mpirun, srun, or a command line with {np} (mpirun)\n"
        "      --hosts A:4,B:4    hosts and slots; when some are gone it goes on with fewer ranks\n"
        "      --daemon           in the background, its output in RUN/supervise.log\n"
        "      --wait SECONDS     before the first restart; doubles while there is no progress "
        "(5)\n"
        "  moetrain slurm CONFIG.yaml -N NODES [options] [key=value ...]    writes an sbatch "
        "script "
        "that fits\n"
        "      --ntasks-per-node N    ranks on a node (1)\n"
        "      --time TIME            as sbatch has it (the partition's)\n"
        "      --launcher TEXT        supervise, srun or mpirun (supervise)\n"
        "      --array 'A=1; A=2'     one run each: key=value, and -np N for fewer ranks\n"
        "      -o FILE                instead of standard output\n"
        "  moetrain compare COMPARISON.yaml [options] [key=value ...]       trains its rows, seed "
        "by "
        "seed, and writes\n"
        "                                                                   tables; goes on where "
        "it "
        "was stopped\n"
        "      -np N              ranks of each run (1); --launcher TEXT as supervise has it\n"
        "      -o FOLDER          of runs and tables (runs/NAME); --plan: shows the rows alone\n"
        "      -N NODES           instead writes an sbatch script of one run a task, to --script "
        "FILE; "
        "with\n"
        "                         --ntasks-per-node and --time as slurm has them; --task N does "
        "one "
        "run\n"
        "  moetrain status [RUN] [--json]                              how a run is going, or how "
        "it "
        "ended\n"
        "  moetrain checkpoint verify CHECKPOINT|RUN                   compares every byte with "
        "its "
        "hash\n"
        "  moetrain checkpoint diff CHECKPOINT CHECKPOINT              what differs; exit code 1 "
        "when something does\n"
        "  moetrain checkpoint export-npz CHECKPOINT FILE.npz          parameters for numpy.load\n"
        "  moetrain checkpoint prune RUN --keep-last N [--keep-every N]   removes the others, "
        "never "
        "the newest that holds\n"
        "  moetrain diff-runs RUN RUN                                  where two runs part, by "
        "log.digest_every;\n"
        "                                                              exit code 1 when they do\n"
        "  moetrain data info FILE [key=value ...]                     what a data file is: "
        "tokens, "
        "documents, vocabulary\n"
        "  moetrain checkpoint-now [RUN]       a supervised run saves after the step that runs\n"
        "  moetrain set RUN KEY VALUE          log.every, eval.every, checkpoint.every, "
        "checkpoint.keep_last,\n"
        "                                      train.lr or train.min_lr from the next step on\n"
        "  moetrain stop [RUN]                 it saves and ends with exit code 75\n"
        "\n"
        "  A CHECKPOINT is a file RUN/checkpoints/step-….h5, or RUN for the newest of that run.\n"
        "\n"
        "  moetrain --help, --version\n"
        "\n"
        "Exit codes: 0 done, 2 configuration or arguments, 3 data, 4 checkpoint, 5 input/output\n"
        "or memory, 6 numeric, 7 communication or device, 8 hang, 70 a bug of the program, 75 "
        "saved "
        "on a\nsignal or before the time limit: run the same command again.\n");
}

// ---- values of options --------------------------------------------------------------------------

// False when the value is not legal.
static bool take_option(CommandLine *line, const char *name, const char *value) {
    int64_t n = 0;
    bool ok = true;
    if (line->verb == VERB_GENERATE) return generate_take_option(&line->generate, name, value);
    if (strcmp(name, "--print-config") == 0) line->verb = VERB_PRINT_CONFIG;
    if (strcmp(name, "--digest") == 0) line->digest = true;
    if (strcmp(name, "--choices") == 0) line->evaluate.choices = value;
    if (strcmp(name, "--per-document") == 0) line->evaluate.per_document = true;
    if (strcmp(name, "--json") == 0) line->json = line->evaluate.json = true;
    if (strcmp(name, "--weights") == 0) {
        line->evaluate.every_weights = strcmp(value, "all") == 0;
        ok = line->evaluate.every_weights || weight_kind_find(value, &line->evaluate.weights);
    }
    if (strcmp(name, "--dtype") == 0) {
        bool narrow = strcmp(value, "bf16") == 0;
        ok = narrow || strcmp(value, "f32") == 0;
        line->export.type = narrow ? STORED_BF16 : STORED_F32;
    }
    if (strcmp(name, "--shard-size") == 0)
        ok = whole_number(value, 1, INT64_MAX, &line->export.shard_bytes);
    if (strcmp(name, "--keep-last") == 0) ok = whole_number(value, 1, INT32_MAX, &line->keep.last);
    if (strcmp(name, "--keep-every") == 0)
        ok = whole_number(value, 1, INT64_MAX, &line->keep.every);
    SuperviseOptions *supervise = &line->supervise;
    SlurmOptions *slurm = line->verb == VERB_COMPARE ? &line->compare.slurm : &line->slurm;
    CompareOptions *compare = &line->compare;
    if (strcmp(name, "--launcher") == 0)
        supervise->launcher = line->slurm.launcher = compare->launcher = value;
    if (strcmp(name, "--plan") == 0) compare->plan = true;
    if (strcmp(name, "-N") == 0) ok = whole_number(value, 1, 4096, &slurm->nodes);
    if (strcmp(name, "--ntasks-per-node") == 0)
        ok = whole_number(value, 1, 256, &slurm->tasks_per_node);
    if (strcmp(name, "--time") == 0) slurm->time = value;
    if (strcmp(name, "--array") == 0) slurm->array = value;
    TrainTokenizerOptions *train_tokenizer = &line->train_tokenizer;
    TokenizeOptions *tokenize = &line->tokenize;
    if (strcmp(name, "--data") == 0) line->analyse.data = value;
    if (strcmp(name, "-o") == 0) {
        line->slurm.output = train_tokenizer->output = tokenize->output = value;
        compare->output = line->analyse.folder = value;
    }
    if (strcmp(name, "--script") == 0) compare->slurm.output = value;
    if (strcmp(name, "--task") == 0) ok = whole_number(value, 1, 1000000, &compare->task);
    if (strcmp(name, "--pattern") == 0) train_tokenizer->pattern = tokenize->pattern = value;
    if (strcmp(name, "--vocab") == 0)
        ok = whole_number(value, 256, 1 << 24, &train_tokenizer->vocab);
    if (strcmp(name, "--threads") == 0)
        ok = whole_number(value, 1, 4096, &train_tokenizer->threads);
    if (strcmp(name, "--special") == 0) train_tokenizer->special = value;
    if (strcmp(name, "--tokenizer") == 0) tokenize->tokenizer = value;
    if (strcmp(name, "--decode") == 0) tokenize->decode = true;
    if (strcmp(name, "--daemon") == 0) supervise->daemon = true;
    if (strcmp(name, "--hosts") == 0) supervise->hosts = value;
    if (strcmp(name, "--wait") == 0) ok = number(value, 0, 300, &supervise->wait_seconds);
    if (strcmp(name, "-np") == 0) {
        ok = whole_number(value, 1, 65536, &n);
        line->ranks = compare->ranks = (int)n;
    }
    return ok;
}

// ---- the line -----------------------------------------------------------------------------------

static bool unknown_option(const CommandLine *line, const VerbRow *verb, const char *word,
                           const char *next, Error *err) {
    size_t length = strcspn(word, "=");
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strlen(OPTIONS[i].name) == length && strncmp(OPTIONS[i].name, word, length) == 0 &&
            length > 3) // short ones are of mpirun and sbatch, as their users have them
            return error_set(err, EXIT_CONFIG,
                             "command line: %s has no option %s, which belongs to %s",
                             verb == &TRAIN ? "moetrain" : verb->name, OPTIONS[i].name,
                             verb_name(OPTIONS[i].verb));
    const char *candidates[OPTION_COUNT + 3];
    int count = 0;
    for (int i = 0; i < OPTION_COUNT; i++)
        if (OPTIONS[i].verb == verb->verb) candidates[count++] = OPTIONS[i].name;
    candidates[count++] = "--help";
    candidates[count++] = "--version";
    candidates[count] = NULL;
    const char *near = suggest_word(word, candidates);
    if (!near && habit_option(word, next, line->path, err)) return false;
    return error_set(err, EXIT_CONFIG, "command line: %s has no option '%.60s'; %s%s%s",
                     verb == &TRAIN ? "moetrain" : verb->name, word,
                     near ? "did you mean '" : "see ", near ? near : "moetrain --help",
                     near ? "'?" : "");
}

// Takes the option argv[*i] and its value, which may be joined by '='.
static bool parse_option(CommandLine *line, const VerbRow *verb, int argc, char **argv, int *i,
                         Error *err) {
    char name[32];
    const char *word = argv[*i], *equals = strchr(word, '=');
    snprintf(name, sizeof name, "%.*s", (int)(equals ? equals - word : 31), word);
    const OptionRow *option = NULL;
    for (int row = 0; row < OPTION_COUNT; row++)
        if (OPTIONS[row].verb == verb->verb && strcmp(OPTIONS[row].name, name) == 0)
            option = &OPTIONS[row];
    if (!option) return unknown_option(line, verb, word, *i + 1 < argc ? argv[*i + 1] : NULL, err);
    if (!option->value && equals)
        return error_set(err, EXIT_CONFIG, "command line: %s takes no value, got '%.60s'", name,
                         equals + 1);
    const char *value = equals ? equals + 1 : option->value && *i + 1 < argc ? argv[++*i] : NULL;
    if (option->value && !value)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s after it", name,
                         option->value);
    if (take_option(line, name, value)) return true;
    return error_set(err, EXIT_CONFIG, "command line: %s is '%.60s', but must be %s", name, value,
                     option->value);
}

static const char *suggest_verb(const char *word) {
    const char *names[VERB_COUNT + 1] = {NULL};
    for (int row = 0; row < VERB_COUNT; row++) names[row] = VERBS[row].name;
    return suggest_word(word, names);
}

// The error of a first word that is no file but looks like a command; false when it is none.
static bool is_wrong_verb(const CommandLine *line, const VerbRow *verb, const char *next,
                          Error *err) {
    if (verb != &TRAIN || !line->path || access(line->path, F_OK) == 0) return false;
    const char *meant = habit_verb(line->path);
    if (!meant && next) meant = suggest_verb(line->path);
    if (!meant) return false;
    if (meant[0])
        error_set(err, EXIT_CONFIG, "command line: unknown command '%.60s'; did you mean '%s'?",
                  line->path, meant);
    else
        error_set(err, EXIT_CONFIG,
                  "command line: training is a command without a name; leave '%.60s' out: moetrain "
                  "%.60s",
                  line->path, next ? next : "CONFIG.yaml");
    return true;
}

// A plain word behind the path that is not key=value.
static bool unexpected_word(const CommandLine *line, const VerbRow *verb, const char *word,
                            const char *next, Error *err) {
    size_t length = strlen(word);
    bool yaml = (length > 5 && strcmp(word + length - 5, ".yaml") == 0) ||
                (length > 4 && strcmp(word + length - 4, ".yml") == 0);
    bool is_verb = false;
    for (int row = 0; row < VERB_COUNT; row++) is_verb |= strcmp(VERBS[row].name, word) == 0;
    if (is_wrong_verb(line, verb, word, err)) return false;
    if (verb->overrides && habit_word(word, next, err)) return false;
    if (verb == &TRAIN && is_verb)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many; a command stands first: "
                         "moetrain %s %.60s",
                         word, word, line->path);
    if (yaml && verb->verb != VERB_HELP)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many: %s is one file, here %.60s; "
                         "write changes of it key=value",
                         word, verb->path, line->path);
    if (verb->verb == VERB_GENERATE)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' is one word too many; a text to go on from is "
                         "written --prompt 'TEXT', changes key=value",
                         word);
    return error_set(err, EXIT_CONFIG, "command line: '%.60s' is one word too many%s", word,
                     verb->overrides ? "; changes are written key=value" : "");
}

// The first plain word is the path, unless it is a key=value that stands where the path is missing.
static bool parse_word(CommandLine *line, const VerbRow *verb, const char *word, const char *next,
                       Error *err) {
    size_t key_length = strspn(word, "abcdefghijklmnopqrstuvwxyz0123456789_.");
    bool assignment = key_length > 0 && word[key_length] == '=';
    if (!line->path && !assignment) {
        line->path = word;
        return true;
    }
    if (line->word_count < words_of(verb->verb) && !(assignment && verb->overrides)) {
        line->words[line->word_count++] = word;
        return true;
    }
    if (verb->verb == VERB_SET && !strchr(word, '=') && line->override_count < 2) {
        line->overrides[line->override_count++] = word;
        return true;
    }
    bool spaced = word[0] == '=' || (assignment && !word[key_length + 1] && next &&
                                     next[0] != '-' && !strchr(next, '='));
    if (!verb->overrides || !strchr(word, '=') || word[0] == '=')
        return unexpected_word(line, verb, word, next, err);
    if (spaced && config_key_find(next) < 0 && line->path)
        return error_set(err, EXIT_CONFIG,
                         "command line: '%.60s' has no value; write key=value without spaces: "
                         "%.60s%.60s",
                         word, word, next);
    if (line->override_count == MOST_OVERRIDES)
        return error_set(err, EXIT_CONFIG, "command line: more than %d key=value", MOST_OVERRIDES);
    line->overrides[line->override_count++] = word;
    return true;
}

// Without -np there are as many ranks as slots.
static bool check_supervise(CommandLine *line, Error *err) {
    SuperviseOptions *supervise = &line->supervise;
    int slots = 0;
    if (supervise->hosts && !hosts_check(supervise->hosts, &slots, err)) return false;
    supervise->ranks = line->ranks ? line->ranks : slots;
    if (supervise->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise needs -np N, the number of ranks to start, or "
                         "--hosts with their slots");
    if (getenv("OMPI_COMM_WORLD_RANK"))
        return error_set(err, EXIT_CONFIG,
                         "command line: supervise starts mpirun by itself; leave it out");
    return true;
}

static bool check_complete(CommandLine *line, const VerbRow *verb, Error *err) {
    if (is_wrong_verb(line, verb, NULL, err)) return false;
    if (!line->path && !verb->alone)
        return error_set(err, EXIT_CONFIG, "command line: %s needs %s%s%.60s%s",
                         verb == &TRAIN ? "moetrain" : verb->name, verb->path,
                         line->override_count ? " before '" : "",
                         line->override_count ? line->overrides[0] : "",
                         line->override_count ? "'" : "");
    if (verb->verb == VERB_CHECKPOINT) return checkpoint_command_check(line, err);
    if (verb->verb == VERB_DATA) return data_command_check(line, err);
    if (verb->verb == VERB_DIFF_RUNS && line->word_count != 1)
        return error_set(err, EXIT_CONFIG, "command line: diff-runs needs two run directories");
    if (verb->verb == VERB_EXPORT || verb->verb == VERB_IMPORT)
        return huggingface_command_check(line, err);
    if (verb->verb == VERB_UPCYCLE) return upcycle_command_check(line, err);
    if (verb->verb == VERB_SET && line->override_count != 2)
        return error_set(err, EXIT_CONFIG, "command line: set needs RUN KEY VALUE");
    if (verb->verb == VERB_EVALUATE && line->evaluate.json && !line->evaluate.choices)
        return error_set(err, EXIT_CONFIG,
                         "command line: --json is of --choices FILE; add it, or leave --json out");
    if (verb->verb == VERB_EVALUATE && line->evaluate.per_document && line->evaluate.choices)
        return error_set(err, EXIT_CONFIG,
                         "command line: --choices has no documents; leave --per-document out");
    if (verb->verb == VERB_EVALUATE && line->evaluate.every_weights &&
        (line->evaluate.choices || line->evaluate.per_document))
        return error_set(err, EXIT_CONFIG,
                         "command line: --weights all prints a table of losses; leave %s out",
                         line->evaluate.choices ? "--choices" : "--per-document");
    if (verb->verb == VERB_GENERATE) return generate_options_check(&line->generate, err);
    if (verb->verb == VERB_SUPERVISE) return check_supervise(line, err);
    if (verb->verb == VERB_SLURM) return slurm_options_check(&line->slurm, err);
    if (verb->verb == VERB_COMPARE) return compare_options_check(&line->compare, err);
    if (verb->verb == VERB_CONVERT_TOKENIZER)
        return convert_tokenizer_check(&line->train_tokenizer, err);
    if (verb->verb == VERB_TRAIN_TOKENIZER)
        return train_tokenizer_check(&line->train_tokenizer, err);
    if (verb->verb == VERB_TOKENIZE) return tokenize_check(&line->tokenize, err);
    if (verb->verb == VERB_PLAN && line->ranks == 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: plan needs -np N, the number of ranks to plan for");
    return true;
}

bool cli_parse(CommandLine *line, int argc, char **argv, Error *err) {
    *line = (CommandLine){
        .verb = VERB_USAGE,
        .generate = GENERATE_DEFAULTS,
        .analyse = {.folder = "analysis"},
        .export = {.type = STORED_F32, .shard_bytes = 5000000000},
        .supervise = {.launcher = "mpirun", .wait_seconds = 5},
        .slurm = {.launcher = "supervise", .tasks_per_node = 1},
        .compare = {.ranks = 1,
                    .launcher = "mpirun",
                    .slurm = {.launcher = "supervise", .tasks_per_node = 1, .comparison = true}},
    };
    if (argc < 2) return error_set(err, EXIT_CONFIG, "command line: nothing to do");
    const VerbRow *verb = &TRAIN;
    for (int row = 0; row < VERB_COUNT; row++)
        if (strcmp(argv[1], VERBS[row].name) == 0) verb = &VERBS[row];
    line->verb = verb->verb;
    bool options = true; // until "--"
    for (int i = verb == &TRAIN ? 1 : 2; i < argc; i++) {
        const char *word = argv[i];
        bool is_option = options && word[0] == '-' && word[1];
        if (is_option && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            line->verb = VERB_USAGE;
            return true;
        }
        if (is_option && strcmp(word, "--version") == 0) {
            line->verb = VERB_VERSION;
            return true;
        }
        if (is_option && strcmp(word, "--") == 0) {
            options = false;
            continue;
        }
        bool ok = is_option ? parse_option(line, verb, argc, argv, &i, err)
                            : parse_word(line, verb, word, i + 1 < argc ? argv[i + 1] : NULL, err);
        if (!ok) return false;
    }
    return check_complete(line, verb, err);
}
