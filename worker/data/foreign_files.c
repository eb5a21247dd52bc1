// Long because it is a list: one row for each kind of file.
#include "worker/data/foreign_files.h"

#include <string.h>

// Further conditions, where the first bytes alone are few. All have at least 16 bytes before them.
static bool fits_bzip2(const ContentSample *s) {
    return s->content[3] >= '1' && s->content[3] <= '9' &&
           memcmp(s->content + 4, "\x31\x41\x59\x26\x53\x59", 6) == 0;
}
// Among the first names of an archive.
static bool has_word(const ContentSample *s, const char *word) {
    size_t length = strlen(word), end = s->head_bytes < 512 ? s->head_bytes : 512;
    for (size_t i = 0; i + length <= end; i++)
        if (memcmp(s->content + i, word, length) == 0) return true;
    return false;
}
static bool fits_torch(const ContentSample *s) {
    return has_word(s, "data.pkl");
}
static bool fits_npz(const ContentSample *s) {
    return has_word(s, ".npy");
}
// Protocol 4 or 5, and the length of its first frame.
static bool fits_pickle(const ContentSample *s) {
    const uint8_t *x = s->content;
    return (x[1] == 4 || x[1] == 5) && x[2] == 0x95 &&
           little_endian(x + 3, 8) <= (uint64_t)s->file_bytes;
}
static bool fits_old_pickle(const ContentSample *s) {
    const uint8_t *x = s->content;
    return x[1] >= 2 && x[1] <= 3 && strchr("c](}X", x[2]) && x[2] && s->last[3] == '.';
}
static bool fits_safetensors(const ContentSample *s) {
    const uint8_t *x = s->content;
    uint64_t header = little_endian(x, 8);
    return header >= 2 && header <= (uint64_t)s->file_bytes - 8 && x[8] == '{' &&
           (x[9] == '"' || x[9] == '}' || x[9] == ' ');
}
static bool fits_parquet(const ContentSample *s) {
    return memcmp(s->last, "PAR1", 4) == 0;
}
// Length of the schema, and where its table begins.
static bool fits_arrow_stream(const ContentSample *s) {
    uint64_t length = little_endian(s->content + 4, 4);
    return length % 8 == 0 && length > 0 && length < 1 << 24 &&
           little_endian(s->content + 8, 4) == 16;
}
static bool fits_version(const ContentSample *s) { // a small number after a magic of four bytes
    uint64_t version = little_endian(s->content + 4, 4);
    return version > 0 && version < 100;
}
static bool fits_tar(const ContentSample *s) { // the mode is octal, and what ends the magic
    if (s->head_bytes < 512) return false;
    for (int i = 100; i < 107; i++)
        if (s->content[i] && !strchr(" 01234567", s->content[i])) return false;
    return s->content[262] == '\0' || s->content[262] == ' ';
}
static bool fits_pointer(const ContentSample *s) {
    return s->file_bytes < 1024;
}

#define MAGIC(bytes) sizeof(bytes) - 1, bytes
#define UNPACK(tool) "unpack it first: " tool
#define TO_TOKENS(load)                                                                            \
    "write its token numbers: python3 -c \"import numpy as np; " load                              \
    ".astype('<u2').tofile('NEW.bin')\" ('<u4' and data.format=uint32 from 65537 tokens on)"
#define EXTRACT    "write its text to a .txt file or its token numbers to a .bin file, name that"
#define LLMC_OTHER "name a file of text or token numbers"

static const ForeignFile FOREIGN_FILES[] = {
    {"a NumPy archive (.npz)", 0, MAGIC("PK\3\4"), fits_npz, false,
     TO_TOKENS("np.load('FILE')['NAME']")},
    {"a PyTorch file", 0, MAGIC("PK\3\4"), fits_torch, false,
     TO_TOKENS("import torch; torch.load('FILE').numpy()")},
    {"a ZIP archive", 0, MAGIC("PK\3\4"), NULL, false, UNPACK("unzip FILE")},
    {"compressed with bzip2", 0, MAGIC("BZh"), fits_bzip2, false, UNPACK("bunzip2 FILE")},
    {"compressed with xz", 0, MAGIC("\xFD\x37zXZ\0"), NULL, false, UNPACK("unxz FILE")},
    {"compressed with lz4", 0, MAGIC("\x04\x22\x4D\x18"), NULL, false, UNPACK("lz4 -d FILE")},
    {"a 7z archive", 0, MAGIC("7z\xBC\xAF\x27\x1C"), NULL, false, UNPACK("7z x FILE")},
    {"a RAR archive", 0, MAGIC("Rar!\x1A\x07"), NULL, false, UNPACK("unrar x FILE")},
    {"a tar archive", 257, MAGIC("ustar"), fits_tar, false, UNPACK("tar -xf FILE")},
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
enum { FOREIGN_COUNT = sizeof FOREIGN_FILES / sizeof *FOREIGN_FILES };

const ForeignFile *foreign_file_find(const ContentSample *sample, bool as_text) {
    for (int row = 0; row < FOREIGN_COUNT; row++) {
        const ForeignFile *file = &FOREIGN_FILES[row];
        if (file->text_only && !as_text) continue;
        if (file->offset + file->length > sample->head_bytes) continue;
        if (memcmp(sample->content + file->offset, file->magic, file->length) != 0) continue;
        if (file->fits && (sample->head_bytes < 16 || !file->fits(sample))) continue;
        return file;
    }
    return NULL;
}
