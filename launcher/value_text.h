// Values of the configuration for people and for YAML: as they are printed, and what is legal. Not
// collective.
#ifndef MOETRAIN_LAUNCHER_VALUE_TEXT_H
#define MOETRAIN_LAUNCHER_VALUE_TEXT_H

#include <stdio.h>

#include "kernels/option.h"

enum {
    CONFIG_LEGAL_BYTES = 384,
    NUMBER_TEXT_BYTES = 32,
    // Largest denominator of a rational: keeps the capacity's products inside 64 bits
    // (model_config.c).
    MOST_DECIMALS = 10000,
};

// The shortest text that reads back to the same bits.
void number_text(double number, char text[NUMBER_TEXT_BYTES]);
// Writes a value that is no list of maps as YAML that reads back to the same value.
void simple_value_print(FILE *out, const Option *key, const void *field);
// Text as YAML, in quotes.
void path_print(FILE *out, const char *path);
// What may be written: "a whole number from 1 to 64", "one of ranks, run, off", ….
void config_value_legal(const Option *key, char text[CONFIG_LEGAL_BYTES]);

#endif
