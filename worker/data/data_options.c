#include <string.h>

#include "kernels/option_rows.h"
#include "worker/data/curriculum.h"
#include "worker/data/data_format.h"
#include "worker/data/data_names.h"
#include "worker/data/documents.h"

// clang-format off
#define SECTION_STRUCT DataSource
static const Option SOURCE_FIELDS[] = {
    PATH("path", NONE, path, REQUIRED, "a file or folder"),
    RATIONAL("weight", NONE, weight, DEFAULT("1"), RANGE(0.0001, 10000), "its share of the windows, relative to the others'"),
    NUMBER("epochs_max", NONE, epochs_max, DEFAULT("0"), RANGE(0, 1e9),
        "how often it may be read; a run that would read it more often is refused; 0: as often as it takes"),
    LABEL("name", NONE, name, DEFAULT(""), "in metrics; empty: the last part of the path"),
};
static const OptionMap SOURCE_MAP = MAP_FIELDS_OR(SOURCE_FIELDS, DataSources, "path");
#undef SECTION_STRUCT
#define SECTION_STRUCT CurriculumRow
static const Option CURRICULUM_FIELDS[] = {
    INTEGER("from", NONE, from, REQUIRED, RANGE(0, MANY_STEPS),
        "after how many steps the weight begins to hold, until a later row"),
    LABEL("source", NONE, source, REQUIRED, "the name of a source of data.train"),
    RATIONAL("weight", NONE, weight, REQUIRED, RANGE(0, 10000), "its weight from there on; 0: it is not read"),
};
static const OptionMap CURRICULUM_MAP = MAP_FIELDS(CURRICULUM_FIELDS, CurriculumRows);
#undef SECTION_STRUCT
#define SECTION_STRUCT ValidationSet
static const Option SET_FIELDS[] = {
    PATH("path", NONE, path, REQUIRED, "a file or folder"),
    LABEL("name", NONE, name, DEFAULT(""), "in metrics; empty: the last part of the path, where there are several"),
};
static const OptionMap SET_MAP = MAP_FIELDS_OR(SET_FIELDS, ValidationSets, "path");
#undef SECTION_STRUCT
#define SECTION_STRUCT DataConfig
static const Option ROWS[] = {
    MAPS("data.train", COURSE, train, REQUIRED, SOURCE_MAP,
        "training text, or token numbers: a file (text, JSON lines, either with gzip or zstd; raw, .npy, of llm.c or Megatron) "
        "or a folder of nanoGPT; or several, mixed by weights in exact shares (as OLMo's and Megatron's blends have them)"),
    MAPS("data.curriculum", COURSE, curriculum, DEFAULT("[]"), CURRICULUM_MAP,
        "other weights of data.train after some steps: [{from: 1000, source: code, weight: 0.6}]; sources without a row keep "
        "theirs (the stages of OLMo 2's and Llama 3's data mixes, arXiv:2501.00656, arXiv:2407.21783)"),
    MAPS("data.validation", FREE, validation, DEFAULT(""), SET_MAP,
        "held-out text for evaluation, or several such sets; empty: no evaluation"),
    CHOICE("data.format", FUNCTION, format, DEFAULT("auto"), OF(DATA_FORMAT_CHOICES),
        "what a token is, in both data files"),
    PATH("data.tokenizer", COURSE, tokenizer, DEFAULT(""),
        "a tokenizer.json (Hugging Face's format, byte-level BPE; moetrain train-tokenizer writes one) whose tokens text "
        "becomes, once, in run.dir/tokens; checkpoints carry it; empty: tokens are bytes"),
    INTEGER("data.vocab_size", FUNCTION, vocab_size, DEFAULT("0"), RANGE(0, 2147483647),
        "number of different tokens in files of token numbers; 0 for text, whose vocabulary is known; with data.tokenizer rows "
        "of the embedding, if they are to be more than its tokens"),
    NUMBER("data.bytes_per_token", FREE, bytes_per_token, DEFAULT("0"), RANGE(0, 1e6),
        "bytes of text that a token of a file of token numbers stands for, for bits per byte; 0: unknown"),
    LABEL("data.jsonl_field", COURSE, jsonl_field, DEFAULT("text"),
        "the field that has the text of a document, of JSON lines (`text` as Megatron's preprocess_data.py has it)"),
    CHOICE("data.documents", COURSE, documents, DEFAULT("ignore"), OF(DOCUMENT_CHOICES),
        "what becomes of documents that a window of tokens holds several of, in training and evaluation"),
    CHOICE("data.packing", COURSE, packing, DEFAULT("concatenate"), OF(PACKING_CHOICES),
        "how documents become training windows; moetrain plan says how much padding there is"),
    LABEL("data.document_end", COURSE, document_end, DEFAULT(""),
        "what ends a document where the format of a file does not say: of text a text (\\n is a line break, \\n\\n a blank "
        "line; with data.tokenizer perhaps <|endoftext|>), of token numbers the number of a token (50256 for GPT-2's); it "
        "stands behind each text of JSON lines, as Megatron's --append-eod; empty: a line break there, nothing elsewhere"),
    INTEGER("data.expand_limit", FREE, expand_limit, DEFAULT("4096"), RANGE(1, 1 << 30),
        "MiB that the text of a compressed file, or of JSON lines, may take: every rank holds it in memory"),
    FLAG("data.check", FREE, check, DEFAULT("true"),
        "whether data files are recognised by their content (NumPy, llm.c, Megatron, nanoGPT, JSON lines, gzip, zstd), and "
        "refused where they are something else: text for token numbers or the reverse, numbers of another width; "
        "data.format: bytes takes any bytes as they are either way"),
};
// clang-format on

// Names part the rows of metrics.
static bool check_names(const DataConfig *data, const OptionRules *rules) {
    const DataSources *sources = &data->train;
    const ValidationSets *sets = &data->validation;
    for (int i = 0; i < sources->count; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(data_source_name(&sources->maps[i]), data_source_name(&sources->maps[j])) ==
                0)
                return option_broken(rules, "data.train", NULL,
                                     "data.train has two sources of the name %.60s; give them "
                                     "names: [{path: …, name: …}, …]",
                                     data_source_name(&sources->maps[i]));
    for (int i = 0; i < sets->count; i++)
        for (int j = 0; j < i; j++)
            if (strcmp(validation_set_name(sets, i), validation_set_name(sets, j)) == 0)
                return option_broken(rules, "data.validation", NULL,
                                     "data.validation has two sets of the name %.60s; give them "
                                     "names: [{path: …, name: …}, …]",
                                     validation_set_name(sets, i));
    if (sources->count > 1 && data->format == DATA_CHARACTERS)
        return option_broken(rules, "data.train", "data.format",
                             "data.format: characters has the characters of one training text, and "
                             "data.train names %lld; use data.format=bytes",
                             (long long)sources->count);
    return true;
}

static bool check_curriculum(const DataConfig *data, const OptionRules *rules) {
    Curriculum curriculum;
    Error err = {0};
    return curriculum_make(&curriculum, data, &err) ||
           option_broken(rules, data->curriculum.count > 0 ? "data.curriculum" : "data.train", NULL,
                         "%s", err.message);
}

static bool check_rules(const void *section, const OptionRules *rules) {
    const DataConfig *data = section;
    if (data->train.count == 0)
        return option_broken(rules, "data.train", NULL,
                             "data.train is an empty list; name at least one file");
    if (!check_names(data, rules) || !check_curriculum(data, rules)) return false;
    char end[CONFIG_LABEL_BYTES];
    if (document_end_text(data->document_end, end) < 0)
        return option_broken(rules, "data.document_end", NULL,
                             "data.document_end (%s) has a backslash that is none of \\n, \\t, \\r "
                             "and \\\\; write \\\\ for a backslash",
                             data->document_end);
    if (data->packing == PACKING_BEST_FIT && data->documents != DOCUMENTS_MASK)
        return option_broken(rules, "data.packing", "data.documents",
                             "data.packing: best_fit puts documents into one window that have "
                             "nothing to do with each other; set data.documents=mask, or "
                             "data.packing=concatenate");
    DataFormat format = data_format_resolve(data);
    const DataFormatFacts *facts = data_format_facts(format);
    bool has_tokenizer = data->tokenizer[0];
    if (has_tokenizer != (format == DATA_TOKENIZER))
        return option_broken(rules, "data.tokenizer", "data.format",
                             has_tokenizer ? "data.tokenizer makes tokens of text, but data.format "
                                             "(%s) says otherwise; leave one of them out"
                                           : "data.format: %s needs data.tokenizer, a "
                                             "tokenizer.json",
                             data_format_name(format));
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
    if (!facts->numbers && !has_tokenizer && data->vocab_size != 0)
        return option_broken(rules, "data.vocab_size", "data.format",
                             "data.vocab_size (%lld) is only for token numbers; leave it out for "
                             "text, or set data.format=uint16",
                             (long long)data->vocab_size);
    if (!facts->numbers && data->bytes_per_token != 0)
        return option_broken(
            rules, "data.bytes_per_token", "data.format",
            "data.bytes_per_token (%g) is only for token numbers; leave it out for text",
            data->bytes_per_token);
    return true;
}

const OptionSection DATA_OPTIONS = SECTION(ROWS, check_rules);
