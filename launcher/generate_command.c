#include "launcher/generate_command.h"

#include <string.h>

#include "launcher/cli_numbers.h"

const GenerateOptions GENERATE_DEFAULTS = {.prompt = "",
                                           .samples = 1,
                                           .tokens = 200,
                                           .temperature = 0.8,
                                           .top_p = 1,
                                           .repetition_penalty = 1,
                                           .seed = 1337,
                                           .experts = -1};

static bool add_stop(GenerateOptions *options, const char *text) {
    if (!text[0] || options->stop_count == MOST_STOPS) return false;
    options->stops[options->stop_count++] = text;
    return true;
}

bool generate_take_option(GenerateOptions *options, const char *name, const char *value) {
    int64_t n = 0;
    bool ok = true;
    if (strcmp(name, "--prompt") == 0) options->prompt = value;
    if (strcmp(name, "--prompt-file") == 0) options->prompt_file = value;
    if (strcmp(name, "--prompts") == 0) options->prompts = value, options->json = true;
    if (strcmp(name, "--interactive") == 0) options->interactive = true;
    if (strcmp(name, "--samples") == 0) ok = whole_number(value, 1, 1000000, &options->samples);
    if (strcmp(name, "--tokens") == 0) ok = whole_number(value, 1, 1000000, &options->tokens);
    if (strcmp(name, "--stop") == 0) ok = add_stop(options, value);
    if (strcmp(name, "--temperature") == 0) ok = number(value, 0, 100, &options->temperature);
    if (strcmp(name, "--top-k") == 0) ok = whole_number(value, 0, INT32_MAX, &options->top_k);
    if (strcmp(name, "--top-p") == 0) ok = number(value, 1e-9, 1, &options->top_p);
    if (strcmp(name, "--repetition-penalty") == 0)
        ok = number(value, 0.01, 100, &options->repetition_penalty);
    if (strcmp(name, "--seed") == 0) {
        ok = whole_number(value, 0, INT64_MAX, &n);
        options->seed = (uint64_t)n;
    }
    if (strcmp(name, "--json") == 0) options->json = true;
    if (strcmp(name, "--logprobs") == 0) options->logprobs = true;
    if (strcmp(name, "--weights") == 0) ok = weight_kind_find(value, &options->weights);
    if (strcmp(name, "--experts") == 0)
        ok = whole_number(value, 0, PER_LAYER_MAX - 1, &options->experts);
    if (strcmp(name, "--color") == 0) {
        int wish = choice_find(COLOR_CHOICES, value);
        ok = wish >= 0;
        options->color = ok ? (ColorWish)wish : COLOR_AUTO;
    }
    if (strcmp(name, "--recompute") == 0) options->recompute = true;
    return ok;
}

bool generate_options_check(const GenerateOptions *options, Error *err) {
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
