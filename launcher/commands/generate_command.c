// mpirun -np N moetrain generate CHECKPOINT.
#include <string.h>

#include "launcher/cli_numbers.h"
#include "launcher/line_config.h"
#include "launcher/verbs.h"
#include "worker/generation/generate.h"

// clang-format off
static const char HELP[] =
    "  moetrain generate CHECKPOINT [options] [key=value ...]      text, one token after another\n"
    "      --prompt TEXT      what it continues (empty); --prompt-file FILE: a file, or - for standard input\n"
    "      --prompts FILE     lines {\"prompt\": TEXT}, which ranks share; answers are lines of --json\n"
    "      --interactive      what lines of standard input begin; an empty one goes on\n"
    "      --tokens N         how many tokens (200); --samples N: of how many texts (1)\n"
    "      --stop TEXT        ends a text before TEXT; may be given several times\n"
    "      --temperature X    0 always takes the most likely token (0.8)\n"
    "      --top-k N          choose among the N most likely tokens; 0 is off (0)\n"
    "      --top-p X          choose among the most likely tokens that make up X of the probability (1)\n"
    "      --repetition-penalty X   makes tokens that the text has less likely (1, CTRL)\n"
    "      --seed N           key of the random choices (1337)\n"
    "      --json             a line of JSON for each text: prompt, text, tokens, finish_reason\n"
    "      --logprobs         and the model's log-probability of each token, in nats\n"
    "      --timings          and how long the first token took and, as a median, the later ones\n"
    "      --weights KIND     held in f32, bf16, fp16 or int8 (as train.precision has them)\n"
    "      --experts LAYER    on a terminal, each token in the colour of the expert that it chooses first there;\n"
    "                         --color always or never: whatever stdout is; NO_COLOR is honoured\n"
    "      --recompute        without the key/value cache: slow, for checking\n";
// clang-format on

static const GenerateOptions DEFAULTS = {.prompt = "",
                                         .samples = 1,
                                         .tokens = 200,
                                         .temperature = 0.8,
                                         .top_p = 1,
                                         .repetition_penalty = 1,
                                         .seed = 1337,
                                         .experts = -1};

static bool take_prompts(CommandLine *line, const char *value) {
    GenerateOptions *options = line->options;
    options->prompts = value;
    options->json = true;
    return true;
}

static bool take_stop(CommandLine *line, const char *value) {
    GenerateOptions *options = line->options;
    if (!value[0] || options->stop_count == MOST_STOPS) return false;
    options->stops[options->stop_count++] = value;
    return true;
}

static bool take_seed(CommandLine *line, const char *value) {
    GenerateOptions *options = line->options;
    int64_t seed = 0;
    bool ok = whole_number(value, 0, (int64_t)MOST_DIGITS, &seed);
    options->seed = (uint64_t)seed;
    return ok;
}

static bool take_weights(CommandLine *line, const char *value) {
    GenerateOptions *options = line->options;
    return weight_kind_find(value, &options->weights);
}

static bool take_color(CommandLine *line, const char *value) {
    GenerateOptions *options = line->options;
    int wish = choice_find(COLOR_CHOICES, value);
    if (wish >= 0) options->color = (ColorWish)wish;
    return wish >= 0;
}

static const CliOption OPTIONS[] = {
    CLI_TEXT("--prompt", "a text", GenerateOptions, prompt),
    CLI_TEXT("--prompt-file", "a file, or - for standard input", GenerateOptions, prompt_file),
    CLI_TAKEN("--prompts", "a file of JSON lines", take_prompts),
    CLI_FLAG("--interactive", GenerateOptions, interactive),
    CLI_WHOLE("--samples", "a number of texts from 1 to 1000000", GenerateOptions, samples, 1,
              1000000),
    CLI_TAKEN("--stop", "a text that is not empty, at most 16 times", take_stop),
    CLI_WHOLE("--tokens", "a number of tokens from 1 to 1000000", GenerateOptions, tokens, 1,
              1000000),
    CLI_NUMBER("--temperature", "a number from 0 to 100", GenerateOptions, temperature, 0, 100),
    CLI_WHOLE("--top-k", "a number of tokens; 0 is off", GenerateOptions, top_k, 0, INT32_MAX),
    CLI_NUMBER("--top-p", "a number above 0 and up to 1", GenerateOptions, top_p, 1e-9, 1),
    CLI_NUMBER("--repetition-penalty", "a number from 0.01 to 100", GenerateOptions,
               repetition_penalty, 0.01, 100),
    CLI_TAKEN("--seed", "a whole number from 0", take_seed),
    CLI_FLAG("--json", GenerateOptions, json),
    CLI_TAKEN("--weights", "trained, f32, bf16, fp16 or int8", take_weights),
    CLI_FLAG("--logprobs", GenerateOptions, logprobs),
    CLI_FLAG("--timings", GenerateOptions, timings),
    CLI_WHOLE("--experts", "the number of a layer, from 0", GenerateOptions, experts, 0,
              PER_LAYER_MAX - 1),
    CLI_TAKEN("--color", "auto, always or never", take_color),
    CLI_FLAG("--recompute", GenerateOptions, recompute),
    CLI_END};

static bool check(CommandLine *line, Error *err) {
    const GenerateOptions *options = line->options;
    const char *given = options->prompt_file ? "--prompt-file" : "--prompt";
    if (options->prompt_file && options->prompt[0])
        return error_set(err, EXIT_CONFIG,
                         "command line: --prompt and --prompt-file are both given; leave one out");
    if (options->prompts && (options->interactive || options->prompt_file || options->prompt[0]))
        return error_set(err, EXIT_CONFIG,
                         "command line: --prompts holds the prompts; leave %s out",
                         options->interactive ? "--interactive" : given);
    if (options->interactive && (options->prompt_file || options->prompt[0]))
        return error_set(err, EXIT_CONFIG,
                         "command line: with --interactive prompts are lines of standard input; "
                         "leave %s out",
                         given);
    if (options->experts >= 0 && options->json)
        return error_set(err, EXIT_CONFIG,
                         "command line: --experts colours text, and %s writes JSON; leave one out",
                         options->prompts ? "--prompts" : "--json");
    if (options->color != COLOR_AUTO && options->experts < 0)
        return error_set(err, EXIT_CONFIG,
                         "command line: --color is of --experts LAYER; add it, or leave --color "
                         "out");
    if (options->logprobs && !options->json)
        return error_set(err, EXIT_CONFIG,
                         "command line: --logprobs are numbers of --json; add it");
    return true;
}

static int generate(const CommandLine *line, const Config *config, const TrainConfig *train,
                    Error *err) {
    return generate_run(train, config->source, line->options, err);
}

static int run(const CommandLine *line, Error *err) {
    return with_shared_config(line, CONFIG_OF_CHECKPOINT, generate, err);
}

const Verb GENERATE_VERB = {
    .name = "generate",
    .help = HELP,
    .path = "a checkpoint",
    .one_too_many = "a text to go on from is written --prompt 'TEXT', changes key=value",
    .overrides = true,
    .options = OPTIONS,
    .options_bytes = sizeof(GenerateOptions),
    .defaults = &DEFAULTS,
    .check = check,
    .run_ranks = run,
};
