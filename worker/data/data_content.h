// A data file opened, and what it is: a text or a row of token numbers, where they lie, and where
// its documents begin.
//
// Each format is a row of FILE_FORMATS (data_content.c) and a file of its own that exports it. A
// format is recognised by what a file contains, never by its name, and checked as a whole: a header
// that says something else than the file is an error with both values. Not collective.
#ifndef MOETRAIN_WORKER_DATA_DATA_CONTENT_H
#define MOETRAIN_WORKER_DATA_DATA_CONTENT_H

#include "worker/data/content_sample.h"
#include "worker/data/documents.h"
#include "worker/data/token_type.h"

typedef enum DataPart { PART_TRAINING, PART_VALIDATION } DataPart;

// What is asked of a file; the same for all files of a run, but for `part`.
typedef struct ContentRules {
    DataFormat format; // what a token is, that of the vocabulary; DATA_AUTO: whatever it is
    bool recognise;    // false: the bytes are taken as `format` says, whatever they are
    DataPart part;     // of a folder the file of this one
    bool any_text;     // of a command: text of whatever bytes, and no numbers
    bool documents;    // whether the starts of documents are asked for, or only their number
    // Of a token number, where the place says it and `format` does not.
    int bytes_without_header;
    int64_t most_bytes; // of a text in memory (expanded_text.h)
    char jsonl_field[CONFIG_LABEL_BYTES];
    char document_end[CONFIG_LABEL_BYTES]; // as configured
} ContentRules;

typedef struct FileFormat FileFormat;

typedef struct DataContent {
    const FileFormat *format;
    FileReader file; // where the text is, or the numbers
    // Of numbers:
    TokenType type; // bytes 0: this is text
    int64_t begin;  // the first one's byte
    int64_t tokens;
    DocumentStarts documents;
} DataContent;

// What a format is asked about: what lies at a path.
typedef struct DataPlace {
    const char *path;
    const FileReader *file;      // NULL where the format goes by the path
    const ContentSample *sample; // of the file; NULL where nothing is to be recognised
    const ContentRules *rules;
} DataPlace;

typedef enum ContentKind { CONTENT_TEXT, CONTENT_NUMBERS } ContentKind;

struct FileFormat {
    const char *name; // "is NAME"
    ContentKind kind;
    bool (*recognise)(const DataPlace *place);
    // Reads and checks what the file says of itself, and fills *content, whose file is open unless
    // the format goes by the path. False with exit 3.
    bool (*open)(DataContent *content, const DataPlace *place, Error *err);
    bool by_path;    // several files, or a folder: asked before a file is opened
    const char *fix; // where text is wanted of numbers, or the reverse; NULL: the usual one
};

ContentRules content_rules(const DataConfig *config); // of the files for training

// The first of the table that recognises the file opens it. False with exit 3 and file, place,
// value and fix, also where it holds text and numbers are asked for, or the reverse.
bool data_content_open(DataContent *content, const char *path, const ContentRules *rules,
                       Error *err);
// Counts the documents that a mark parts, and says where they begin. False with exit 3 on a read
// error.
bool data_content_find_marks(DataContent *content, Error *err);
void data_content_close(DataContent *content); // legal on a zeroed struct, and after a failure

// A file each.
extern const FileFormat MEGATRON_INDEX, NANOGPT_FOLDER, NUMPY_ARRAY, LLMC_TOKENS, GZIP_TEXT,
    ZSTD_TEXT, JSON_LINES;
extern const FileFormat NUMBERS_WITHOUT_HEADER, PLAIN_TEXT; // plain_data.c

#endif
