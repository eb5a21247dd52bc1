#include "worker/generation/expert_colours.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const Choice COLORS[] = {[COLOR_AUTO] = {"auto", NULL},
                                [COLOR_ALWAYS] = {"always", NULL},
                                [COLOR_NEVER] = {"never", NULL}};
const ChoiceTable COLOR_CHOICES = CHOICE_TABLE(COLORS);

bool expert_colours_wanted(const GenerateOptions *options) {
    const char *no_color = getenv("NO_COLOR");
    if (options->experts < 0 || options->color == COLOR_NEVER) return false;
    if (options->color == COLOR_ALWAYS) return true;
    return isatty(STDOUT_FILENO) && !(no_color && no_color[0]);
}

// ---- what tokens choose -------------------------------------------------------------------------

static void take(void *context, int64_t first, int64_t count) {
    ExpertColours *colours = context;
    Tensor ids = colours->tape.layers[colours->layer];
    for (int64_t i = 0; i < count; i++)
        colours->first[first + i] = tensor_i32(ids)[i * ids.shape[1]];
}

bool expert_colours_open(ExpertColours *colours, Decoder *decoder, int64_t layer, Error *err) {
    const ModelConfig *config = &decoder->restored.model.config;
    if (layer >= config->layers)
        return error_set(err, EXIT_CONFIG,
                         "command line: --experts is %lld, but the model's layers are 0 to %lld",
                         (long long)layer, (long long)config->layers - 1);
    if (!model_is_routed(config, layer))
        return error_set(
            err, EXIT_CONFIG,
            "command line: --experts is %lld, a layer without a router (%s); name one "
            "that has experts",
            (long long)layer,
            choice_row(FEED_FORWARD_CHOICES, (int)model_feed_forward(config, layer))->word);
    *colours = (ExpertColours){.decoder = decoder, .layer = layer};
    colours->first = calloc((size_t)decoder->context, sizeof *colours->first);
    CHECK_MEMORY(colours->first, "no memory for %lld choices", (long long)decoder->context);
    routing_tape_open(&colours->tape, config, decoder->widths[decoder->count - 1]);
    decoder_listen(decoder, &colours->tape, take, colours);
    return true;
}

void expert_colours_close(ExpertColours *colours) {
    if (!colours->decoder) return;
    routing_tape_close(&colours->tape, &colours->decoder->restored.model.config);
    free(colours->first);
    *colours = (ExpertColours){0};
}

// ---- what is shown ------------------------------------------------------------------------------

// Steps of the golden ratio around the circle of hues: far apart for neighbours, all different.
static void begin_colour(FILE *out, int64_t expert) {
    double turn = fmod((double)expert * 0.6180339887498949, 1) * 6, light[3];
    for (int i = 0; i < 3; i++) { // red, green and blue are a third of the circle apart
        double away = fabs(fmod(turn + 8 - 2 * i, 6) - 3) - 1;
        light[i] = away < 0 ? 0 : away > 1 ? 1 : away;
    }
    fprintf(out, "\033[38;2;%d;%d;%dm", (int)(80 + 160 * light[0]), (int)(80 + 160 * light[1]),
            (int)(80 + 160 * light[2]));
}

static void end_colour(FILE *out) {
    fputs("\033[0m", out);
}

void expert_colours_legend(const ExpertColours *colours, FILE *out) {
    const ModelConfig *config = &colours->decoder->restored.model.config;
    int64_t experts = moe_shape(config, colours->layer).scored;
    fprintf(out, "experts of layer %lld:", (long long)colours->layer);
    for (int64_t e = 0; e < experts; e++) {
        fputc(' ', out);
        begin_colour(out, e);
        fprintf(out, "%lld", (long long)e);
        end_colour(out);
    }
    fputc('\n', out);
    fflush(out);
}

void expert_colours_show(ExpertColours *colours, FILE *out, int64_t place, const char *text,
                         size_t bytes) {
    char *whole = malloc(bytes + STREAM_ROOM);
    CHECK_MEMORY(whole, "no memory for a text of %zu bytes", bytes);
    bytes = character_stream_add(&colours->characters, text, bytes, whole);
    if (place >= 0 && bytes > 0) begin_colour(out, colours->first[place]);
    fwrite(whole, 1, bytes, out);
    if (place >= 0 && bytes > 0) end_colour(out);
    fflush(out);
    free(whole);
}

void expert_colours_end(ExpertColours *colours, FILE *out) {
    char rest[STREAM_ROOM];
    fwrite(rest, 1, character_stream_end(&colours->characters, rest), out);
    fflush(out);
}
