#include "kernels/option_rows.h"
#include "worker/data_format.h"

// clang-format off
#define SECTION_STRUCT DataConfig
static const Option ROWS[] = {
    PATH("data.train", COURSE, train, REQUIRED,
        "training text, or a file of token numbers"),
    PATH("data.validation", FREE, validation, DEFAULT(""),
        "held-out text for evaluation; empty: no evaluation"),
    CHOICE("data.format", FUNCTION, format, DEFAULT("auto"), OF(DATA_FORMAT_CHOICES),
        "what a token is, in both data files"),
    INTEGER("data.vocab_size", FUNCTION, vocab_size, DEFAULT("0"), RANGE(0, 2147483647),
        "number of different tokens in uint16 and uint32 files; 0 for text, whose vocabulary is known"),
    NUMBER("data.bytes_per_token", FREE, bytes_per_token, DEFAULT("0"), RANGE(0, 1e6),
        "bytes of text that a token of a uint16 or uint32 file stands for, for bits per byte; 0: unknown"),
    FLAG("data.check", FREE, check, DEFAULT("true"),
        "whether data files are refused whose content is something else: compressed, with a header, text for token numbers or "
        "the reverse, numbers of another width; data.format: bytes takes any bytes either way"),
};
// clang-format on

static bool check_rules(const void *section, const OptionRules *rules) {
    const DataConfig *data = section;
    DataFormat format = data_format_resolve(data);
    const DataFormatFacts *facts = data_format_facts(format);
    if (facts->numbers && data->vocab_size == 0)
        return option_broken(
            rules, "data.train", "data.format",
            "data.train holds token numbers (%s)%s, so data.vocab_size must be given (50257 "
            "for GPT-2's tokens)",
            data_format_name(format), data->format == DATA_AUTO ? ", as its name *.bin says" : "");
    if (facts->numbers && data->vocab_size > facts->most_tokens)
        return option_broken(rules, "data.vocab_size", "data.format",
                             "data.vocab_size (%lld) is more than %s can count, %lld; set "
                             "data.format=uint32 or a smaller vocabulary",
                             (long long)data->vocab_size, data_format_name(format),
                             (long long)facts->most_tokens);
    if (!facts->numbers && data->vocab_size != 0)
        return option_broken(rules, "data.vocab_size", "data.format",
                             "data.vocab_size (%lld) is only for uint16 and uint32 files; leave it "
                             "out for text, or set data.format=uint16",
                             (long long)data->vocab_size);
    if (!facts->numbers && data->bytes_per_token != 0)
        return option_broken(
            rules, "data.bytes_per_token", "data.format",
            "data.bytes_per_token (%g) is only for uint16 and uint32 files; leave it out for text",
            data->bytes_per_token);
    return true;
}

const OptionSection DATA_OPTIONS = SECTION(ROWS, check_rules);
