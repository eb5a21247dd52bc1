// A text being written: the model's next token after the text so far, again and again.
#ifndef MOETRAIN_WORKER_GENERATION_TEXT_GENERATOR_H
#define MOETRAIN_WORKER_GENERATION_TEXT_GENERATOR_H

#include "worker/generation/expert_colours.h"
#include "worker/generation/generate.h"
#include "worker/generation/text_stream.h"
#include "worker/generation/token_times.h"

// The model sees a window of at most train.context tokens; when it is full, the newer half of it,
// at least one token, becomes the beginning of the next window.
typedef struct TextGenerator {
    const GenerateOptions *options;
    Decoder decoder;
    const Vocabulary *vocabulary;
    const char *prompt; // borrowed
    int32_t *tokens;    // prompt and continuation
    double *logprobs;   // of the continuation's tokens
    int64_t room;       // for tokens
    int64_t count;      // tokens so far
    int64_t given;      // of them before the continuation
    int64_t shown;      // of those the prompt's own: none where nothing was given
    int64_t begin;      // first token of the window
    TextStream stream;  // the continuation
    // Of a text in colours, which is shown once its tokens have been read: the next to be shown,
    // and bytes of the continuation before it.
    ExpertColours colours;
    bool coloured;
    int64_t next_shown;
    size_t shown_bytes;
    TokenTimes times; // of the continuation
    float *logits;    // (V) with penalties
    bool *seen;       // (V) tokens that the text has
    int32_t *order;   // scratch of the sampler
    double *probabilities;
} TextGenerator;

// Loads the model. Errors as decoder_open. Needs text_generator_close. Collective over all ranks.
bool text_generator_open(TextGenerator *g, const TrainConfig *config, Session *session,
                         const char *checkpoint_path, const GenerateOptions *options, Error *err);
void text_generator_close(TextGenerator *g); // legal on a zeroed one

// Begins a text with the prompt, which must stay. False with exit 2 for one that the vocabulary
// lacks; there is no text then. Not collective.
bool text_generator_begin(TextGenerator *g, const char *prompt, Error *err);
// What has been written becomes the prompt; it is not shown again. Not collective.
void text_generator_go_on(TextGenerator *g);
// Writes what begins a text to stdout; in colours it comes with the continuation. Not collective.
void text_generator_show_prompt(TextGenerator *g);

// Writes continuation number `sample`, from the same beginning. Ranks write different texts at the
// same time; a rank that is `idle` helps the others, whose tokens may come to its experts. False
// with exit 75 after a request to stop. Collective over all ranks.
bool text_generator_write(TextGenerator *g, int64_t sample, bool idle, Error *err);
// What has been written, as a line of JSON, to be freed. Not collective.
char *text_generator_json(const TextGenerator *g);

#endif
