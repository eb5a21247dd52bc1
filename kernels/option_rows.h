// How the rows of a section are written (option.h). A file of rows says first which struct they
// fill:
//
//   #define SECTION_STRUCT ModelConfig
//   static const Option ROWS[] = {
//       INTEGER("model.layers", FUNCTION, layers, DEFAULT("4"), RANGE(1, 1024),
//           "blocks: norm, attention, norm, feed-forward"),
//       CHOICE("model.activation", FUNCTION, activation, DEFAULT("swiglu"), OF(ACTIVATION_CHOICES),
//           "of dense feed-forwards and of experts"),
//   };
//   const OptionSection MODEL_OPTIONS = SECTION(ROWS, check_model);
//
// The second word is what a change means for a run that goes on (KeyKind). A member of another type
// than the row's does not compile.
#ifndef MOETRAIN_KERNELS_OPTION_ROWS_H
#define MOETRAIN_KERNELS_OPTION_ROWS_H

#include <stddef.h>

#include "kernels/option.h"

// clang-format off
#define SECTION(rows, check) { (rows), (int)(sizeof(rows) / sizeof *(rows)), (check) }

#define OPTION_MEMBER(member) (((SECTION_STRUCT *)0)->member)
#define OPTION_OF_TYPE(member, type_of_row)                                                                              \
    .offset = offsetof(SECTION_STRUCT, member) + 0 * sizeof(_Generic(OPTION_MEMBER(member), type_of_row: 0))
#define OPTION_OF_BYTES(member, bytes)                                                                                   \
    .offset = offsetof(SECTION_STRUCT, member) + 0 * sizeof(char[sizeof OPTION_MEMBER(member) == (bytes) ? 1 : -1])
#define OPTION_ROW(key, change, row_type, text)                                                                          \
    .name = key, .kind = KIND_##change, .type = OPTION_##row_type, .help = text

// What a key is when it is left out.
#define DEFAULT(text) .initial = text
#define DERIVED(words, function) .derived = words, .derive = function
#define REQUIRED .initial = NULL
// What is legal.
#define RANGE(least, most) .min = least, .max = most
#define OF(table) .choices = &table

#define INTEGER(key, change, member, initially, range, text)                                                             \
    { OPTION_ROW(key, change, INTEGER, text), OPTION_OF_TYPE(member, int64_t), initially, range }
#define NUMBER(key, change, member, initially, range, text)                                                              \
    { OPTION_ROW(key, change, NUMBER, text), OPTION_OF_TYPE(member, double), initially, range }
#define RATIONAL(key, change, member, initially, range, text)                                                            \
    { OPTION_ROW(key, change, RATIONAL, text), OPTION_OF_TYPE(member, Rational), initially, range }
#define INTEGERS(key, change, member, initially, range, text)                                                            \
    { OPTION_ROW(key, change, INTEGERS, text), OPTION_OF_TYPE(member, PerLayer), initially, range }
#define FLAG(key, change, member, initially, text)                                                                       \
    { OPTION_ROW(key, change, FLAG, text), OPTION_OF_TYPE(member, bool), initially }
#define CHOICE(key, change, member, initially, words, text)                                                              \
    { OPTION_ROW(key, change, CHOICE, text), OPTION_OF_BYTES(member, sizeof(int)), initially, words }
#define CHOICES(key, change, member, initially, words, text)                                                             \
    { OPTION_ROW(key, change, CHOICES, text), OPTION_OF_TYPE(member, PerLayer), initially, words }
#define WORD(key, change, member, initially, words, text)                                                                \
    { OPTION_ROW(key, change, WORD, text), OPTION_OF_BYTES(member, CONFIG_WORD_BYTES), initially, words }
#define PATTERN(key, change, member, initially, text)                                                                    \
    { OPTION_ROW(key, change, PATTERN, text), OPTION_OF_BYTES(member, CONFIG_PATTERN_BYTES), initially }
#define LABEL(key, change, member, initially, text)                                                                      \
    { OPTION_ROW(key, change, LABEL, text), OPTION_OF_BYTES(member, CONFIG_LABEL_BYTES), initially }
#define PATH(key, change, member, initially, text)                                                                       \
    { OPTION_ROW(key, change, PATH, text), OPTION_OF_BYTES(member, CONFIG_PATH_BYTES), initially }
#define PATH_OR_WORD(key, change, member, initially, words, text)                                                        \
    { OPTION_ROW(key, change, PATH, text), OPTION_OF_BYTES(member, CONFIG_PATH_BYTES), initially, words }
#define NAMES(key, change, member, text)                                                                                 \
    { OPTION_ROW(key, change, NAMES, text), OPTION_OF_BYTES(member, CONFIG_PATH_BYTES), DEFAULT("") }
// Of a list of maps: `member` is struct { int64_t count; MAP maps[]; }, `fields` an OptionMap.
#define MAPS(key, change, member, initially, fields, text)                                                               \
    { OPTION_ROW(key, change, MAPS, text), OPTION_OF_TYPE(member.count, int64_t), initially, .map = &fields }
// The OptionMap of rows of fields, whose kind is NONE, written while SECTION_STRUCT is MAP.
#define MAP_FIELDS(rows, list) MAP_FIELDS_OR(rows, list, NULL)
// The same, where the value may also be that of the field `plain` alone.
#define MAP_FIELDS_OR(rows, list, plain)                                                                                 \
    { (rows), (int)(sizeof(rows) / sizeof *(rows)), sizeof(SECTION_STRUCT),                                              \
      (int)(sizeof ((list *)0)->maps / sizeof(SECTION_STRUCT)), (plain) }
// clang-format on

#endif
