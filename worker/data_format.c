// What a data file holds, by its content. Long because it is a list: one recogniser for each kind
// of file.
#include "worker/data_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/utf8.h"

enum {
    PIECES = 3, // head, middle and tail
    PIECE_BYTES = 1 << 15,
    LEAST_BYTES = 24, // fewer say nothing about what they are
    LEAST_CONTROLS = 4,
    LEAST_TEXT_DISTINCT = 4, // the four bases; fewer are a pattern of numbers
    // All where wider numbers have their low halves, and none elsewhere: by chance once in 2^24
    // files.
    LEAST_NUMBERS = 24,
    LEAST_DISTINCT = 8,  // a toy of a few tokens may well have one of them in every second place
    MANY_DISTINCT = 128, // the same where the other places are small instead of zero
};

// The whole file when it is small.
typedef struct Sample {
    int64_t file_bytes;
    size_t head_bytes; // in one piece from the beginning
    size_t bytes;      // pieces begin at multiples of 8
    uint8_t content[PIECES * PIECE_BYTES];
    uint8_t last[4]; // of the file; zero when it has fewer bytes
} Sample;

static bool sample_read(const FileReader *file, Sample *sample, Error *err) {
    int64_t size = file->bytes;
    sample->file_bytes = size;
    sample->bytes = sample->head_bytes = (size_t)size;
    if (size <= (int64_t)sizeof sample->content) {
        if (!file_reader_read(file, 0, (size_t)size, sample->content, err)) return false;
    } else {
        sample->bytes = sizeof sample->content;
        sample->head_bytes = PIECE_BYTES;
        for (int64_t i = 0; i < PIECES; i++) {
            int64_t start = (size - PIECE_BYTES) / (PIECES - 1) * i / 8 * 8;
            if (!file_reader_read(file, start, PIECE_BYTES, sample->content + i * PIECE_BYTES, err))
                return false;
        }
    }
    memset(sample->last, 0, sizeof sample->last);
    return size < (int64_t)sizeof sample->last ||
           file_reader_read(file, size - (int64_t)sizeof sample->last, sizeof sample->last,
                            sample->last, err);
}

static uint64_t little_endian(const uint8_t *bytes, int count) {
    uint64_t value = 0;
    for (int i = count - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

// ---- files of other programs --------------------------------------------------------------------

// Further conditions, where the first bytes alone are few. All have at least 16 bytes before them.
static bool fits_gzip(const Sample *s) { // method deflate, no reserved flag, level and system
    const uint8_t *x = s->content;
    return (x[3] & 0xE0) == 0 && (x[8] == 0 || x[8] == 2 || x[8] == 4) &&
           (x[9] <= 13 || x[9] == 255);
}
static bool fits_bzip2(const Sample *s) {
    return s->content[3] >= '1' && s->content[3] <= '9' &&
           memcmp(s->content + 4, "\x31\x41\x59\x26\x53\x59", 6) == 0;
}
static bool has_word(const Sample *s, const char *word) { // among the first names of an archive
    size_t length = strlen(word), end = s->head_bytes < 512 ? s->head_bytes : 512;
    for (size_t i = 0; i + length <= end; i++)
        if (memcmp(s->content + i, word, length) == 0) return true;
    return false;
}
static bool fits_torch(const Sample *s) {
    return has_word(s, "data.pkl");
}
static bool fits_npz(const Sample *s) {
    return has_word(s, ".npy");
}
static bool fits_pickle(const Sample *s) { // protocol 4 or 5, and the length of its first frame
    const uint8_t *x = s->content;
    return (x[1] == 4 || x[1] == 5) && x[2] == 0x95 &&
           little_endian(x + 3, 8) <= (uint64_t)s->file_bytes;
}
static bool fits_old_pickle(const Sample *s) {
    const uint8_t *x = s->content;
    return x[1] >= 2 && x[1] <= 3 && strchr("c](}X", x[2]) && x[2] && s->last[3] == '.';
}
static bool fits_safetensors(const Sample *s) {
    const uint8_t *x = s->content;
    uint64_t header = little_endian(x, 8);
    return header >= 2 && header <= (uint64_t)s->file_bytes - 8 && x[8] == '{' &&
           (x[9] == '"' || x[9] == '}' || x[9] == ' ');
}
static bool fits_parquet(const Sample *s) {
    return memcmp(s->last, "PAR1", 4) == 0;
}
static bool fits_arrow_stream(const Sample *s) { // length of the schema, and where its table begins
    uint64_t length = little_endian(s->content + 4, 4);
    return length % 8 == 0 && length > 0 && length < 1 << 24 &&
           little_endian(s->content + 8, 4) == 16;
}
static bool fits_version(const Sample *s) { // a small number after a magic of four bytes
    uint64_t version = little_endian(s->content + 4, 4);
    return version > 0 && version < 100;
}
static bool fits_tar(const Sample *s) { // the mode is octal, and what ends the magic
    if (s->head_bytes < 512) return false;
    for (int i = 100; i < 107; i++)
        if (s->content[i] && !strchr(" 01234567", s->content[i])) return false;
    return s->content[262] == '\0' || s->content[262] == ' ';
}
static bool fits_pointer(const Sample *s) {
    return s->file_bytes < 1024;
}

typedef struct KnownFile {
    const char *name; // "is NAME"
    size_t offset, length;
    const char *magic;
    bool (*fits)(const Sample *sample); // NULL: the magic is enough
    bool text_only;                     // too little to be told from token numbers
    const char *fix;
} KnownFile;

#define MAGIC(bytes) sizeof(bytes) - 1, bytes
#define UNPACK(tool) "unpack it first: " tool
#define TO_TOKENS(load)                                                                            \
    "write its token numbers: python3 -c \"import numpy as np; " load                              \
    ".astype('<u2').tofile('NEW.bin')\" ('<u4' and data.format=uint32 from 65537 tokens on)"
#define EXTRACT "write its text to a .txt file, or its token numbers to a .bin file, and name that"
#define LLMC_DATA(type)                                                                            \
    "take its header of 1024 bytes off: tail -c +1025 FILE > NEW.bin, and set data.format=" type
#define LLMC_OTHER  "name a file of text or token numbers"
#define ICONV(from) "convert it: iconv -f " from " -t UTF-8 FILE > NEW.txt"

static const KnownFile KNOWN_FILES[] = {
    {"a NumPy array (.npy)", 0, MAGIC("\x93NUMPY"), NULL, false, TO_TOKENS("np.load('FILE')")},
    {"a NumPy archive (.npz)", 0, MAGIC("PK\3\4"), fits_npz, false,
     TO_TOKENS("np.load('FILE')['NAME']")},
    {"a PyTorch file", 0, MAGIC("PK\3\4"), fits_torch, false,
     TO_TOKENS("import torch; torch.load('FILE').numpy()")},
    {"a ZIP archive", 0, MAGIC("PK\3\4"), NULL, false, UNPACK("unzip FILE")},
    {"compressed with gzip", 0, MAGIC("\x1F\x8B\x08"), fits_gzip, false, UNPACK("gunzip FILE")},
    {"compressed with zstd", 0, MAGIC("\x28\xB5\x2F\xFD"), NULL, false, UNPACK("zstd -d FILE")},
    {"compressed with bzip2", 0, MAGIC("BZh"), fits_bzip2, false, UNPACK("bunzip2 FILE")},
    {"compressed with xz", 0, MAGIC("\xFD\x37zXZ\0"), NULL, false, UNPACK("unxz FILE")},
    {"compressed with lz4", 0, MAGIC("\x04\x22\x4D\x18"), NULL, false, UNPACK("lz4 -d FILE")},
    {"a 7z archive", 0, MAGIC("7z\xBC\xAF\x27\x1C"), NULL, false, UNPACK("7z x FILE")},
    {"a RAR archive", 0, MAGIC("Rar!\x1A\x07"), NULL, false, UNPACK("unrar x FILE")},
    {"a tar archive", 257, MAGIC("ustar"), fits_tar, false, UNPACK("tar -xf FILE")},
    {"token numbers of llm.c with its header (20240520, uint16)", 0, MAGIC("\x88\xD8\x34\x01"),
     fits_version, false, LLMC_DATA("uint16")},
    {"token numbers of llm.c with its header (20240801, uint32)", 0, MAGIC("\xA1\xD9\x34\x01"),
     fits_version, false, LLMC_DATA("uint32")},
    {"a model of llm.c (20240326)", 0, MAGIC("\xC6\xD7\x34\x01"), fits_version, false, LLMC_OTHER},
    {"a model of llm.c (20240803)", 0, MAGIC("\xA3\xD9\x34\x01"), fits_version, false, LLMC_OTHER},
    {"a debugging state of llm.c (20240327)", 0, MAGIC("\xC7\xD7\x34\x01"), fits_version, false,
     LLMC_OTHER},
    {"a tokenizer of llm.c (20240328)", 0, MAGIC("\xC8\xD7\x34\x01"), fits_version, false,
     LLMC_OTHER},
    {"an evaluation set of llm.c (20240522)", 0, MAGIC("\x8A\xD8\x34\x01"), fits_version, false,
     LLMC_OTHER},
    {"a training state of llm.c (20240527)", 0, MAGIC("\x8F\xD8\x34\x01"), fits_version, false,
     LLMC_OTHER},
    {"an index of Megatron (.idx)", 0, MAGIC("MMIDIDX\0\0"), NULL, false,
     "name the .bin file beside it, with data.format=uint32 if its numbers are int32"},
    {"an index of an old Megatron or fairseq (.idx)", 0, MAGIC("TNTIDX\0\0"), NULL, false,
     "name the .bin file beside it, with data.format=uint32 if its numbers are int32"},
    {"a checkpoint of this program", 0, MAGIC("MOETRAIN"), NULL, false,
     "name a file of text or token numbers; init and resume take checkpoints"},
    {"an HDF5 file", 0, MAGIC("\x89HDF\r\n\x1A\n"), NULL, false,
     TO_TOKENS("import h5py; h5py.File('FILE')['NAME'][:]")},
    {"a safetensors file", 0, 0, "", fits_safetensors, false,
     TO_TOKENS("from safetensors.numpy import load_file; load_file('FILE')['NAME']")},
    {"a Python pickle", 0, MAGIC("\x80"), fits_pickle, false,
     TO_TOKENS("import pickle; np.array(pickle.load(open('FILE', 'rb')))")},
    {"a Python pickle", 0, MAGIC("\x80"), fits_old_pickle, true,
     TO_TOKENS("import pickle; np.array(pickle.load(open('FILE', 'rb')))")},
    {"an old PyTorch file", 0, MAGIC("\x80\x02\x8A\x0A\x6C\xFC\x9C\x46\xF9\x20\x6A\xA8\x50\x19"),
     NULL, false, TO_TOKENS("import torch; torch.load('FILE').numpy()")},
    {"a Parquet table", 0, MAGIC("PAR1"), fits_parquet, false, EXTRACT},
    {"an Arrow file", 0, MAGIC("ARROW1\0\0"), NULL, false, EXTRACT},
    {"an Arrow stream", 0, MAGIC("\xFF\xFF\xFF\xFF"), fits_arrow_stream, false, EXTRACT},
    {"an SQLite database", 0, MAGIC("SQLite format 3\0"), NULL, false, EXTRACT},
    {"an Avro file", 0, MAGIC("Obj\1"), NULL, false, EXTRACT},
    {"a GGUF model", 0, MAGIC("GGUF"), fits_version, false, LLMC_OTHER},
    {"a PDF document", 0, MAGIC("%PDF-"), NULL, false, "extract its text: pdftotext FILE NEW.txt"},
    {"a program (ELF)", 0,
     MAGIC("\x7F"
           "ELF"),
     NULL, false, LLMC_OTHER},
    {"a PNG picture", 0, MAGIC("\x89PNG\r\n\x1A\n"), NULL, false, LLMC_OTHER},
    {"a pointer of Git LFS, not the data", 0, MAGIC("version https://git-lfs.github.com/spec/"),
     fits_pointer, false, "fetch the data: git lfs pull"},
    {"text in UTF-32", 0, MAGIC("\xFF\xFE\0\0"), NULL, true, ICONV("UTF-32")},
    {"text in UTF-32", 0, MAGIC("\0\0\xFE\xFF"), NULL, true, ICONV("UTF-32")},
    {"text in UTF-16", 0, MAGIC("\xFF\xFE"), NULL, true, ICONV("UTF-16")},
    {"text in UTF-16", 0, MAGIC("\xFE\xFF"), NULL, true, ICONV("UTF-16")},
};
enum { KNOWN_COUNT = sizeof KNOWN_FILES / sizeof *KNOWN_FILES };

static const KnownFile *find_known(const Sample *sample, bool as_text) {
    for (int row = 0; row < KNOWN_COUNT; row++) {
        const KnownFile *known = &KNOWN_FILES[row];
        if (known->text_only && !as_text) continue;
        if (known->offset + known->length > sample->head_bytes) continue;
        if (memcmp(sample->content + known->offset, known->magic, known->length) != 0) continue;
        if (known->fits && (sample->head_bytes < 16 || !known->fits(sample))) continue;
        return known;
    }
    return NULL;
}

// ---- text or numbers ----------------------------------------------------------------------------

// Bytes that no text has, in UTF-8 or any encoding that holds ASCII: control characters but BEL …
// CR and ESC.
static size_t count_controls(const Sample *sample) {
    size_t count = 0;
    for (size_t i = 0; i < sample->bytes; i++) {
        uint8_t byte = sample->content[i];
        count += byte < 0x07 || (byte > 0x0D && byte < 0x20 && byte != 0x1B) || byte == 0x7F;
    }
    return count;
}

static size_t count_not_utf8(const Sample *sample) {
    size_t count = 0;
    int32_t ignored;
    for (size_t i = 0; i < sample->bytes;) {
        int length = utf8_decode(sample->content + i, sample->bytes - i, &ignored);
        count += length == 0;
        i += length > 0 ? (size_t)length : 1;
    }
    return count;
}

static int count_distinct_bytes(const Sample *sample) {
    bool seen[256] = {false};
    int count = 0;
    for (size_t i = 0; i < sample->bytes; i++) {
        count += !seen[sample->content[i]];
        seen[sample->content[i]] = true;
    }
    return count;
}

// Whether a file taken for token numbers is text. Numbers have small high bytes, which are control
// characters.
static bool is_text(const Sample *sample) {
    size_t ascii = 0;
    for (size_t i = 0; i < sample->bytes; i++) ascii += sample->content[i] < 0x80;
    return sample->bytes >= LEAST_BYTES && count_controls(sample) * 1000 <= sample->bytes &&
           (ascii * 4 >= sample->bytes * 3 || count_not_utf8(sample) <= 4 * PIECES) &&
           count_distinct_bytes(sample) >= LEAST_TEXT_DISTINCT;
}

// Whether a file taken for text is none. Some NUL or separator characters among the letters are
// tolerated.
static bool is_binary(const Sample *sample) {
    size_t controls = count_controls(sample);
    return sample->bytes >= LEAST_BYTES && controls >= LEAST_CONTROLS &&
           controls * 20 > sample->bytes;
}

// ---- numbers of another width -------------------------------------------------------------------

// How often each byte of 8 in a row is not zero, and the largest it is.
typedef struct Lanes {
    int64_t used[8];
    uint8_t largest[8];
} Lanes;

static Lanes measure_lanes(const Sample *sample) {
    Lanes lanes = {0};
    for (size_t i = 0; i < sample->bytes / 8 * 8; i++) {
        uint8_t byte = sample->content[i];
        lanes.used[i % 8] += byte != 0;
        if (byte > lanes.largest[i % 8]) lanes.largest[i % 8] = byte;
    }
    return lanes;
}

static int count_distinct_halves(const Sample *sample) {
    uint8_t *seen = calloc(1 << 16, 1);
    CHECK_MEMORY(seen, "no memory for %d bytes", 1 << 16);
    int count = 0;
    for (size_t i = 0; i + 2 <= sample->bytes; i += 2) {
        uint64_t half = little_endian(sample->content + i, 2);
        count += half != 0 && !seen[half];
        seen[half] = 1;
    }
    free(seen);
    return count;
}

// Numbers below 2^18 in more bytes than they need. Bit i of a mask is lane i.
typedef struct WideNumbers {
    const char *name, *numpy;
    int bytes;
    bool big_endian;
    uint8_t zero;    // lanes that hold nothing
    uint8_t small;   // lanes that hold at most 3
    uint8_t used[2]; // of each of these, some lane is used often
} WideNumbers;

static const WideNumbers WIDE_NUMBERS[] = {
    {"int64", "<i8", 8, false, 0xF8, 0x04, {0x03, 0x03}},
    {"big-endian int64", ">i8", 8, true, 0x1F, 0x20, {0xC0, 0xC0}},
    {"int32", "<i4", 4, false, 0x88, 0x44, {0x03, 0x30}},
    {"big-endian int32", ">i4", 4, true, 0x11, 0x22, {0x0C, 0xC0}},
};
enum { WIDE_COUNT = sizeof WIDE_NUMBERS / sizeof *WIDE_NUMBERS };

static bool fits_lanes(const WideNumbers *wide, const Lanes *lanes, int distinct, bool *large) {
    *large = false;
    int64_t used[2] = {0};
    for (int i = 0; i < 8; i++) {
        if (wide->zero >> i & 1 && lanes->used[i] > 0) return false;
        if (wide->small >> i & 1 && lanes->largest[i] > 3) return false;
        if (wide->small >> i & 1 && lanes->used[i] > 0) *large = true;
        for (int group = 0; group < 2; group++)
            if (wide->used[group] >> i & 1 && lanes->used[i] > used[group])
                used[group] = lanes->used[i];
    }
    int64_t numbers = wide->used[0] == wide->used[1] ? used[0] : used[0] + used[1];
    return used[0] > 0 && used[1] > 0 && numbers >= LEAST_NUMBERS &&
           distinct >= (*large ? MANY_DISTINCT : LEAST_DISTINCT);
}

// What numbers read as `width` bytes really are, or NULL; *large: some need more than 16 bits.
static const WideNumbers *find_wide_numbers(const Sample *sample, int width, bool *large) {
    if (sample->bytes < LEAST_BYTES) return NULL;
    Lanes lanes = measure_lanes(sample);
    int distinct = count_distinct_halves(sample);
    for (int row = 0; row < WIDE_COUNT; row++)
        if (WIDE_NUMBERS[row].bytes > width &&
            fits_lanes(&WIDE_NUMBERS[row], &lanes, distinct, large))
            return &WIDE_NUMBERS[row];
    return NULL;
}

// Numbers of two bytes whose low bytes are often zero and whose high bytes hardly ever are.
static bool is_big_endian_16(const Sample *sample) {
    int64_t numbers = 0, low_zero = 0, high_zero = 0;
    for (size_t i = 0; i + 2 <= sample->bytes; i += 2) {
        uint8_t low = sample->content[i], high = sample->content[i + 1];
        if (low == 0 && high == 0) continue;
        numbers++;
        low_zero += low == 0;
        high_zero += high == 0;
    }
    return numbers >= LEAST_NUMBERS && low_zero * 5 >= numbers && high_zero * 50 <= numbers &&
           count_distinct_halves(sample) >= LEAST_DISTINCT;
}

// ---- the front ----------------------------------------------------------------------------------

DataFormat data_format_resolve(const DataConfig *config) {
    if (config->format != DATA_AUTO) return config->format;
    size_t length = strlen(config->train);
    bool is_bin = length >= 4 && strcmp(config->train + length - 4, ".bin") == 0;
    return is_bin ? DATA_UINT16 : DATA_BYTES;
}

static const DataFormatFacts DATA_FORMATS[] = {
    [DATA_AUTO] = {.choice = {"auto", "uint16 for data.train: *.bin, otherwise bytes"}},
    [DATA_BYTES] = {.choice = {"bytes", "one token a byte, of text or of anything"},
                    .token_bytes = 1},
    [DATA_CHARACTERS] = {.choice = {"characters", "one token a character of UTF-8 text"},
                         .token_bytes = 1},
    [DATA_UINT16] = {.choice = {"uint16", "token numbers of 2 bytes, little-endian, no header"},
                     .numbers = true,
                     .token_bytes = 2,
                     .most_tokens = 1 << 16},
    [DATA_UINT32] = {.choice = {"uint32", "token numbers of 4 bytes, little-endian, no header"},
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

static bool refuse_known(const FileReader *file, const KnownFile *known, bool bytes, Error *err) {
    return error_set(err, EXIT_DATA, "%s: is %s; %s%s", file->path, known->name, known->fix,
                     bytes ? AS_IT_IS : TRUST);
}

static bool refuse_binary(const FileReader *file, DataFormat format, const Sample *sample,
                          Error *err) {
    Lanes lanes = measure_lanes(sample);
    bool large;
    const WideNumbers *wide = find_wide_numbers(sample, 2, &large);
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
static bool check_numbers(const FileReader *file, DataFormat format, const Sample *sample,
                          Error *err) {
    if (is_text(sample))
        return error_set(err, EXIT_DATA,
                         "%s: is text, but is read as token numbers (%s); name a file of token "
                         "numbers, or train on text with data.format=bytes or characters, which "
                         "holds for data.train and data.validation" TRUST,
                         file->path, data_format_name(format));
    bool large;
    const WideNumbers *wide = find_wide_numbers(sample, format == DATA_UINT16 ? 2 : 4, &large);
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

bool data_format_check(const FileReader *file, DataFormat format, Error *err) {
    bool text = format == DATA_BYTES || format == DATA_CHARACTERS;
    Sample *sample = malloc(sizeof *sample);
    CHECK_MEMORY(sample, "no memory for a sample of %s", file->path);
    bool ok = sample_read(file, sample, err);
    const KnownFile *known = ok ? find_known(sample, text) : NULL;
    if (known)
        ok = refuse_known(file, known, format == DATA_BYTES, err);
    else if (ok && text && is_binary(sample))
        ok = refuse_binary(file, format, sample, err);
    else if (ok && !text)
        ok = check_numbers(file, format, sample, err);
    free(sample);
    return ok;
}

// The share of the sample's numbers of `width` bytes, read in one byte order, that are in the
// vocabulary.
static double share_inside(const Sample *sample, int width, bool big_endian, int64_t vocab_size) {
    int64_t inside = 0, count = 0;
    for (size_t i = 0; i + (size_t)width <= sample->bytes; i += (size_t)width, count++) {
        uint8_t bytes[4];
        for (int j = 0; j < width; j++)
            bytes[j] = sample->content[i + (size_t)(big_endian ? width - 1 - j : j)];
        inside += little_endian(bytes, width) < (uint64_t)vocab_size;
    }
    return count > 0 ? (double)inside / (double)count : 0;
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
    Sample *sample = malloc(sizeof *sample);
    CHECK_MEMORY(sample, "no memory for a sample of %s", file->path);
    bool read = sample_read(file, sample, &ignored);
    double now = read ? share_inside(sample, width, false, vocab_size) : 1;
    double swapped = read ? share_inside(sample, width, true, vocab_size) : 0;
    double halves = read && width == 4 ? share_inside(sample, 2, false, vocab_size) : 0;
    const KnownFile *known = read ? find_known(sample, true) : NULL;
    bool near = token - vocab_size < vocab_size / 8 + 64;
    if (known)
        snprintf(advice, 512, "the file is %s: %s", known->name, known->fix);
    else if (halves > 0.999 && now < 0.9)
        snprintf(advice, 512, "the file looks like uint16: set data.format=uint16");
    else if (swapped > 0.999 && now < 0.9)
        snprintf(advice, 512,
                 "the file looks big-endian, convert it: python3 -c \"import numpy as np; "
                 "np.fromfile('FILE', '>u%d').astype('<u%d').tofile('NEW.bin')\"",
                 width, width);
    else if (width == 4 && token > INT32_MAX)
        snprintf(
            advice, 512,
            "as int32 it is %lld, a mark such as for padding, not a token: take such marks out",
            (long long)token - ((long long)1 << 32));
    else
        snprintf(advice, 512, "%s", fixed ? FIXED : near ? RAISE : OTHER);
    free(sample);
}
