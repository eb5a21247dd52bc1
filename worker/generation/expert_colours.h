// Text in the colours of the experts that its tokens choose first in one layer, as a terminal shows
// them. Not collective.
#ifndef MOETRAIN_WORKER_GENERATION_EXPERT_COLOURS_H
#define MOETRAIN_WORKER_GENERATION_EXPERT_COLOURS_H

#include <stdio.h>

#include "model/routing_tape.h"
#include "worker/generation/decoder.h"
#include "worker/generation/generate.h"
#include "worker/tokenizer/character_stream.h"

typedef struct ExpertColours {
    Decoder *decoder;
    int64_t layer;
    RoutingTape tape;
    int32_t *first;             // (context) expert of each token of the window that has been read
    CharacterStream characters; // of what is shown: tokens may end within one
} ExpertColours;

// Whether the options and the terminal ask for them: never without a layer, nor with NO_COLOR set
// (no-color.org) or where stdout is no terminal, unless --color=always.
bool expert_colours_wanted(const GenerateOptions *options);

// Learns from here on what the decoder's tokens choose. False with exit 2 where the layer has no
// experts that tokens choose.
bool expert_colours_open(ExpertColours *colours, Decoder *decoder, int64_t layer, Error *err);
void expert_colours_close(ExpertColours *colours); // legal on a zeroed one

// A line with the numbers of all experts, each in its colour.
void expert_colours_legend(const ExpertColours *colours, FILE *out);
// The bytes of the token at this place of the window; -1: of none that has been read.
void expert_colours_show(ExpertColours *colours, FILE *out, int64_t place, const char *text,
                         size_t bytes);
// What is held back of a character, and a text is at its end.
void expert_colours_end(ExpertColours *colours, FILE *out);

#endif
