#include "worker/generation/generate.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/generation/input.h"
#include "worker/generation/prompt_batch.h"
#include "worker/session.h"
#include "worker/watch/watchdog.h"

static bool written(Error *err) {
    return (fflush(stdout) == 0 && !ferror(stdout)) ||
           error_set(err, EXIT_IO, "cannot write the text to stdout");
}

static void say_times(const TokenTimes *times) {
    double later = token_times_later_ms(times);
    fflush(stdout); // the text stands before it
    log_info("first token after %.2f ms, then %.3f ms a token (%.0f tokens/s)",
             token_times_first_ms(times), later, 1e3 / later);
}

// The samples of the text that has begun.
static bool write_samples(TextGenerator *g, Error *err) {
    const GenerateOptions *options = g->options;
    for (int64_t sample = 0; sample < options->samples; sample++) {
        if (sample > 0 && !options->json) puts("---");
        if (!options->json) text_generator_show_prompt(g);
        bool ok = text_generator_write(g, sample, false, err);
        if (options->json && ok) {
            char *line = text_generator_json(g);
            puts(line);
            free(line);
        } else if (!options->json) {
            putchar('\n');
            if (options->timings && ok) say_times(&g->times);
        }
        if (!ok || !written(err)) return false;
    }
    return true;
}

static bool answer_prompt(TextGenerator *g, Error *err) {
    const GenerateOptions *options = g->options;
    char *text = NULL;
    if (options->prompt_file && !input_read_all(options->prompt_file, &text, err)) return false;
    bool ok = text_generator_begin(g, text ? text : options->prompt, err) ||
              error_prefix(err, options->prompt_file ? "--prompt-file" : "--prompt");
    ok = ok && write_samples(g, err);
    free(text);
    return ok;
}

// Each line is a prompt; an empty one goes on with the text before it.
static bool answer_lines(TextGenerator *g, Error *err) {
    InputLines lines = {0};
    const char *line;
    bool person = isatty(STDIN_FILENO), ok = true;
    while (ok) {
        if (person) fputs("> ", stderr);
        if (!(line = input_next_line(&lines, err))) break;
        Error refused = {0};
        bool goes_on = !line[0] && g->count > 0;
        if (goes_on) text_generator_go_on(g);
        if (goes_on || text_generator_begin(g, line, &refused))
            ok = write_samples(g, err);
        else
            log_error("%s", refused.message);
    }
    input_lines_free(&lines);
    return ok && !err->message[0];
}

static bool generate(TextGenerator *g, const TrainConfig *config, Session *session,
                     const char *checkpoint_path, const GenerateOptions *options, Error *err) {
    if (comm_size() > 1 && !options->prompts)
        return error_set(err, EXIT_CONFIG,
                         "generate works with one rank, not %d; run it without mpirun, or give "
                         "--prompts FILE, which ranks share",
                         comm_size());
    if (!session_open(session, config, err) ||
        !text_generator_open(g, config, session, checkpoint_path, options, err))
        return false;
    if (options->prompts) return prompt_batch_write(g, options->prompts, err) && written(err);
    return options->interactive ? answer_lines(g, err) : answer_prompt(g, err);
}

int generate_run(const TrainConfig *config, const char *checkpoint_path,
                 const GenerateOptions *options, Error *err) {
    TextGenerator g = {0};
    Session session = {0};
    bool waits = options->interactive || options->prompt_file; // for a person, maybe
    watchdog_start(waits ? 0 : config->hang_timeout, config->hang_floor);
    bool ok = generate(&g, config, &session, checkpoint_path, options, err);
    text_generator_close(&g);
    session_close(&session);
    return ok ? EXIT_DONE : err->exit_code;
}
