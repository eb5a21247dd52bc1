// An enumeration that a user can name: one table, whose rows hold the word of each value and what
// else the program must know of it (widths, FLOPs, …). Configuration, help and messages read it.
//
//   typedef struct ActivationFacts { Choice choice; int inputs; } ActivationFacts;
//   const ActivationFacts ACTIVATIONS[] = {[SWIGLU] = {{"swiglu", "silu(gate) · up"}, 2}, …};
//   const ChoiceTable ACTIVATION_CHOICES = CHOICE_TABLE(ACTIVATIONS);
//
// A row's number is its value: rows are written with designated initialisers, and the Choice comes
// first in a row.
#ifndef MOETRAIN_KERNELS_CHOICE_H
#define MOETRAIN_KERNELS_CHOICE_H

#include <stddef.h>

typedef struct Choice {
    const char *word;    // what a user writes
    const char *meaning; // for help; NULL: the word says it
} Choice;

typedef struct ChoiceTable {
    const void *rows;
    size_t row_bytes;
    int count;
} ChoiceTable;

#define CHOICE_TABLE(rows)                                                                         \
    { (rows), sizeof *(rows), (int)(sizeof(rows) / sizeof *(rows)) }

// The row of a value, which must be one of the table.
const Choice *choice_row(ChoiceTable table, int value);
// The value of a word, or -1.
int choice_find(ChoiceTable table, const char *word);

#endif
