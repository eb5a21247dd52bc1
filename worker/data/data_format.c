#include "worker/data/data_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/data/foreign_files.h"
#include "worker/data/number_width.h"

DataFormat data_format_resolve(const DataConfig *config) {
    if (config->format != DATA_AUTO) return config->format;
    if (config->tokenizer[0]) return DATA_TOKENIZER;
    const char *path = config->train.maps[0].path;
    size_t length = strlen(path);
    bool is_bin = length >= 4 && strcmp(path + length - 4, ".bin") == 0;
    if (is_bin && config->vocab_size <= data_format_facts(DATA_UINT16)->most_tokens)
        return DATA_UINT16;
    return is_bin || config->vocab_size > 0 ? DATA_TOKENS : DATA_BYTES;
}

static const DataFormatFacts DATA_FORMATS[] = {
    [DATA_AUTO] = {.choice = {"auto", "tokenizer with data.tokenizer, uint16 for data.train: "
                                      "*.bin, otherwise tokens with data.vocab_size, bytes "
                                      "without"}},
    [DATA_BYTES] = {.choice = {"bytes", "one token a byte, of text or of anything"},
                    .token_bytes = 1},
    [DATA_CHARACTERS] = {.choice = {"characters", "one token a character of UTF-8 text"},
                         .token_bytes = 1},
    [DATA_UINT16] =
        {.choice = {"uint16",
                    "token numbers, little-endian and of 2 bytes where there is no header"},
         .numbers = true,
         .token_bytes = 2,
         .most_tokens = 1 << 16},
    [DATA_TOKENS] = {.choice = {"tokens", "token numbers of files that say how wide they are"},
                     .numbers = true,
                     .most_tokens = INT32_MAX},
    [DATA_TOKENIZER] = {.choice = {"tokenizer", "text as the tokens of data.tokenizer"},
                        .token_bytes = 1},
    [DATA_UINT32] = {.choice = {"uint32", "the same of 4 bytes"},
                     .numbers = true,
                     .token_bytes = 4,
                     .most_tokens = INT32_MAX},
};
const ChoiceTable DATA_FORMAT_CHOICES = CHOICE_TABLE(DATA_FORMATS);

const DataFormatFacts *data_format_facts(DataFormat format) {
    return (const DataFormatFacts *)choice_row(DATA_FORMAT_CHOICES, (int)format);
}

const char *data_format_name(DataFormat format) {
    return data_format_facts(format)->choice.word;
}

#define TRUST    "; if it is as it should be, set data.check=false"
#define AS_IT_IS "; data.format=bytes would train on it as it is"

static bool refuse_foreign(const FileReader *file, const ForeignFile *foreign, bool bytes,
                           Error *err) {
    return error_set(err, EXIT_DATA, "%s: is %s; %s%s", file->path, foreign->name, foreign->fix,
                     bytes ? AS_IT_IS : TRUST);
}

static bool refuse_binary(const FileReader *file, DataFormat format, const ContentSample *sample,
                          Error *err) {
    Lanes lanes = lanes_measure(sample);
    bool large;
    const WideNumbers *wide = wide_numbers_find(sample, 2, &large);
    int64_t even = 0, odd = 0, rows = (int64_t)sample->bytes / 8;
    for (int i = 0; i < 8; i += 2) even += lanes.used[i], odd += lanes.used[i + 1];
    bool utf16 = odd * 50 < rows * 4 && even * 20 > rows * 76; // letters, each with a zero byte
    bool utf16_big = even * 50 < rows * 4 && odd * 20 > rows * 76;
    bool halves = odd * 5 < rows * 16; // a fifth of the high bytes is zero
    char what[256] = "holds binary data, not text; if it holds token numbers set data.format and "
                     "data.vocab_size";
    if (wide)
        snprintf(what, sizeof what,
                 "looks like token numbers (%s), but is read as text; set data.vocab_size and, if "
                 "they are int32, data.format=uint32",
                 wide->name);
    else if (utf16)
        snprintf(what, sizeof what,
                 "looks like token numbers (uint16) or text in UTF-16, but is read as text; set "
                 "data.format=uint16 and data.vocab_size, or " ICONV("UTF-16LE"));
    else if (utf16_big)
        snprintf(what, sizeof what,
                 "looks like text in UTF-16 or big-endian token numbers (uint16), but is read as "
                 "text; " ICONV("UTF-16BE"));
    else if (halves)
        snprintf(what, sizeof what,
                 "looks like token numbers (uint16), but is read as text; set data.format=uint16 "
                 "and data.vocab_size, which hold for data.train and data.validation");
    return error_set(err, EXIT_DATA, "%s: %s%s", file->path, what,
                     format == DATA_BYTES ? AS_IT_IS : TRUST);
}

// Files of token numbers.
static bool check_numbers(const FileReader *file, DataFormat format, const ContentSample *sample,
                          Error *err) {
    if (content_is_text(sample))
        return error_set(err, EXIT_DATA,
                         "%s: is text, but is read as token numbers (%s); name a file of token "
                         "numbers, or train on text with data.format=bytes or characters, which "
                         "holds for data.train and data.validation" TRUST,
                         file->path, data_format_name(format));
    if (format == DATA_TOKENS) return true; // no width is supposed
    bool large;
    const WideNumbers *wide = wide_numbers_find(sample, format == DATA_UINT16 ? 2 : 4, &large);
    if (wide) {
        bool two_bytes = format == DATA_UINT16 && !large,
             set = wide->bytes == 4 && !wide->big_endian;
        char convert[160];
        snprintf(convert, sizeof convert,
                 "convert it: python3 -c \"import numpy as np; np.fromfile('FILE', '%s')"
                 ".astype('%s').tofile('NEW.bin')\"%s",
                 wide->numpy, two_bytes ? "<u2" : "<u4",
                 format == DATA_UINT16 && large ? " and set data.format=uint32" : "");
        return error_set(err, EXIT_DATA,
                         "%s: looks like %s token numbers, but is read as %s (%s); %s%s%s" TRUST,
                         file->path, wide->name, data_format_name(format),
                         wide->bytes == 4 ? "every second one is 0 or tiny"
                                          : "most are 0, always in the same places",
                         set ? "set data.format=uint32" : "", set && two_bytes ? ", or " : "",
                         two_bytes || !set ? convert : "");
    }
    if (format == DATA_UINT16 && is_big_endian_16(sample))
        return error_set(err, EXIT_DATA,
                         "%s: looks like big-endian uint16 token numbers, but is read as "
                         "little-endian; convert it: python3 -c \"import numpy as np; "
                         "np.fromfile('FILE', '>u2').astype('<u2').tofile('NEW.bin')\"" TRUST,
                         file->path);
    return true;
}

bool data_format_check(const FileReader *file, const ContentSample *sample, DataFormat format,
                       Error *err) {
    bool text = !data_format_facts(format)->numbers;
    const ForeignFile *foreign = foreign_file_find(sample, text);
    if (foreign) return refuse_foreign(file, foreign, format == DATA_BYTES, err);
    if (text) return !content_is_binary(sample) || refuse_binary(file, format, sample, err);
    return check_numbers(file, format, sample, err);
}

void data_format_advise(const FileReader *file, DataFormat format, int64_t vocab_size, bool fixed,
                        int64_t token, char advice[512]) {
    static const char RAISE[] =
        "raise data.vocab_size, or check data.format and the tokenizer that "
        "wrote the file";
    static const char OTHER[] = "check data.format and the tokenizer that wrote the file, or raise "
                                "data.vocab_size";
    static const char FIXED[] = "the checkpoint's vocabulary cannot grow: write the file with the "
                                "tokenizer that it was trained with";
    int width = format == DATA_UINT16 ? 2 : 4;
    Error ignored = {0};
    ContentSample *sample = format == DATA_TOKENS ? NULL : content_sample_read(file, &ignored);
    double now = sample ? share_inside(sample, width, false, vocab_size) : 1;
    double swapped = sample ? share_inside(sample, width, true, vocab_size) : 0;
    double halves = sample && width == 4 ? share_inside(sample, 2, false, vocab_size) : 0;
    const ForeignFile *foreign = sample ? foreign_file_find(sample, true) : NULL;
    bool near = token >= 0 && token - vocab_size < vocab_size / 8 + 64;
    if (foreign)
        snprintf(advice, 512, "the file is %s: %s", foreign->name, foreign->fix);
    else if (halves > 0.999 && now < 0.9)
        snprintf(advice, 512, "the file looks like uint16: set data.format=uint16");
    else if (swapped > 0.999 && now < 0.9)
        snprintf(advice, 512,
                 "the file looks big-endian, convert it: python3 -c \"import numpy as np; "
                 "np.fromfile('FILE', '>u%d').astype('<u%d').tofile('NEW.bin')\"",
                 width, width);
    else if (token < 0)
        snprintf(advice, 512, "a mark such as for padding, not a token: take such marks out");
    else if (width == 4 && token > INT32_MAX)
        snprintf(
            advice, 512,
            "as int32 it is %lld, a mark such as for padding, not a token: take such marks out",
            (long long)token - ((long long)1 << 32));
    else
        snprintf(advice, 512, "%s", fixed ? FIXED : near ? RAISE : OTHER);
    free(sample);
}
