// What a data file holds, judged by its content: the files of other programs by their first bytes,
// text and token numbers of another width by samples. Training on what is not meant gives a loss
// that falls and a model that is worth nothing, so a file that is not what data.format takes it for
// is refused with its name and what to do. Not collective.
#ifndef MOETRAIN_WORKER_DATA_DATA_FORMAT_H
#define MOETRAIN_WORKER_DATA_DATA_FORMAT_H

#include "worker/data/content_sample.h"

// The format of the training file; DATA_AUTO goes by its name.
DataFormat data_format_resolve(const DataConfig *config);
const char *data_format_name(DataFormat format); // as in the configuration

// What the program must know of a format; not of DATA_AUTO.
typedef struct DataFormatFacts {
    Choice choice;
    bool numbers;        // tokens are numbers of another program's vocabulary, not text
    int64_t token_bytes; // of a number without a header, 0: there must be one; 1 for text
    int64_t most_tokens; // of numbers: the largest vocabulary that they can count
} DataFormatFacts;
const DataFormatFacts *data_format_facts(DataFormat format);

// Whether the content fits `format`. False with exit 3. Honest files pass: doubtful ones are not
// refused, and below 64 bytes only known first bytes count.
bool data_format_check(const FileReader *file, const ContentSample *sample, DataFormat format,
                       Error *err);

// Of a file of token numbers with a token outside the vocabulary: the likely cause and its fix,
// without a full stop. DATA_TOKENS: there is no doubt how wide they are. fixed: the vocabulary is a
// checkpoint's and cannot grow.
void data_format_advise(const FileReader *file, DataFormat format, int64_t vocab_size, bool fixed,
                        int64_t token, char advice[512]);

#endif
