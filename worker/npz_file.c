#include "worker/npz_file.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "checkpoint/file_io.h"
#include "checkpoint/temporary_name.h"

// The zip format (APPNOTE.TXT of PKWARE 4.3): local headers, each before its bytes; then the
// central directory with the same again and the places; then its own place. All sizes and places
// are those of zip64, so the fields of 32 bits are all ones.
enum { LOCAL = 0x04034b50, CENTRAL = 0x02014b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50 };
enum { END = 0x06054b50, VERSION_ZIP64 = 45, EXTRA_ZIP64 = 1, NAME_BYTES = 160 };
enum { LOCAL_BYTES = 30, LOCAL_EXTRA_BYTES = 20, PREFIX_BYTES = 10, NPY_BYTES = 256 };

typedef struct Entry {
    char name[NAME_BYTES];
    int64_t offset, bytes; // of the local header; of the array with its own header
    uint32_t crc;
} Entry;

struct NpzFile {
    char path[PATH_MAX], temporary[PATH_MAX + TEMPORARY_NAME_BYTES];
    int fd;
    int64_t at; // where the next byte goes
    Entry *entries;
    int count;
};

// A record under construction: little-endian numbers one after the other.
typedef struct Record {
    uint8_t bytes[512];
    size_t used;
} Record;

static void put(Record *record, uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) record->bytes[record->used++] = (uint8_t)(value >> 8 * i);
}

static void put_text(Record *record, const char *text) {
    memcpy(record->bytes + record->used, text, strlen(text));
    record->used += strlen(text);
}

static uint32_t crc_table[8][256]; // of the polynomial 0xedb88320, for eight bytes at a time

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        crc_table[0][i] = crc;
    }
    for (int row = 1; row < 8; row++)
        for (int i = 0; i < 256; i++) {
            uint32_t before = crc_table[row - 1][i];
            crc_table[row][i] = before >> 8 ^ crc_table[0][before & 255];
        }
}

static uint32_t crc_add(uint32_t crc, const void *data, size_t bytes) {
    const uint8_t *at = data;
    crc = ~crc;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        uint32_t low, high;
        memcpy(&low, at, 4);
        memcpy(&high, at + 4, 4);
        low ^= crc;
        crc = 0;
        for (int i = 0; i < 4; i++)
            crc ^= crc_table[7 - i][low >> 8 * i & 255] ^ crc_table[3 - i][high >> 8 * i & 255];
    }
    for (; bytes > 0; bytes--) crc = crc >> 8 ^ crc_table[0][(crc ^ *at++) & 255];
    return ~crc;
}

bool npz_open(NpzFile **file, const char *path, Error *err) {
    NpzFile *npz = calloc(1, sizeof *npz);
    CHECK_MEMORY(npz, "no memory for an .npz file");
    make_crc_table();
    bool ok = snprintf(npz->path, sizeof npz->path, "%s", path) < (int)sizeof npz->path ||
              error_set(err, EXIT_IO, "path too long: %.60s...", path);
    ok = ok && temporary_name_take(npz->temporary, sizeof npz->temporary, npz->path, err);
    npz->fd = ok ? file_open(npz->temporary, O_RDWR | O_CREAT, err) : -1;
    if (npz->fd >= 0) {
        *file = npz;
        return true;
    }
    free(npz);
    return false;
}

static bool append(NpzFile *file, const void *data, size_t bytes, Error *err) {
    if (!file_write_at(file->fd, data, bytes, file->at, err))
        return error_prefix(err, "%s", file->temporary);
    file->at += (int64_t)bytes;
    return true;
}

static const char *numpy_type(DType dtype) {
    switch (dtype) {
    case F32:
        return "<f4";
    case F64:
        return "<f8";
    case I32:
        return "<i4";
    case I64:
        return "<i8";
    case U8:
        return "|u1";
    case BF16:
    case F16:
    case I8:
        break; // no checkpoint holds any
    }
    return NULL;
}

// What both headers of an entry share, from the version that a reader needs to the sizes.
static void put_entry(Record *record, const Entry *entry) {
    put(record, VERSION_ZIP64, 2);
    put(record, 0, 2);          // flags
    put(record, 0, 2);          // stored
    put(record, 0, 2);          // time
    put(record, 1 << 5 | 1, 2); // date: 1980-01-01, so that equal contents are equal files
    put(record, entry->crc, 4);
    put(record, UINT32_MAX, 4);
    put(record, UINT32_MAX, 4);
    put(record, strlen(entry->name), 2);
}

bool npz_begin(NpzFile *file, const char *name, DType dtype, int rank, const int64_t *shape,
               Error *err) {
    char header[NPY_BYTES], dimensions[96] = "";
    size_t used = 0;
    for (int axis = 0; axis < rank; axis++)
        used += (size_t)snprintf(dimensions + used, sizeof dimensions - used, "%lld,%s",
                                 (long long)shape[axis], axis + 1 < rank ? " " : "");
    const char *type = numpy_type(dtype);
    CHECK(type && strlen(name) + 5 < NAME_BYTES, "%s cannot be in an .npz file", name);
    file->entries = realloc(file->entries, (size_t)(file->count + 1) * sizeof *file->entries);
    CHECK_MEMORY(file->entries, "no memory for %d names", file->count + 1);
    Entry *entry = &file->entries[file->count++];
    *entry = (Entry){.offset = file->at};
    snprintf(entry->name, sizeof entry->name, "%s.npy", name);
    // Of the local header only the room; its numbers come when they are known.
    file->at += LOCAL_BYTES + (int64_t)strlen(entry->name) + LOCAL_EXTRA_BYTES;
    memset(header, ' ', sizeof header);
    int length =
        snprintf(header + PREFIX_BYTES, sizeof header - PREFIX_BYTES,
                 "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", type, dimensions);
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)(NPY_BYTES - PREFIX_BYTES);
    header[9] = 0;
    header[PREFIX_BYTES + length] = ' ';
    header[NPY_BYTES - 1] = '\n';
    return npz_add(file, header, sizeof header, err);
}

bool npz_add(NpzFile *file, const void *data, size_t bytes, Error *err) {
    Entry *entry = &file->entries[file->count - 1];
    entry->crc = crc_add(entry->crc, data, bytes);
    entry->bytes += (int64_t)bytes;
    return append(file, data, bytes, err);
}

bool npz_end(NpzFile *file, Error *err) {
    const Entry *entry = &file->entries[file->count - 1];
    Record record = {0};
    put(&record, LOCAL, 4);
    put_entry(&record, entry);
    put(&record, LOCAL_EXTRA_BYTES, 2);
    put_text(&record, entry->name);
    put(&record, EXTRA_ZIP64, 2);
    put(&record, LOCAL_EXTRA_BYTES - 4, 2);
    put(&record, (uint64_t)entry->bytes, 8);
    put(&record, (uint64_t)entry->bytes, 8);
    return file_write_at(file->fd, record.bytes, record.used, entry->offset, err) ||
           error_prefix(err, "%s", file->temporary);
}

static bool write_directory(NpzFile *file, Error *err) {
    int64_t begin = file->at;
    for (int i = 0; i < file->count; i++) {
        const Entry *entry = &file->entries[i];
        Record record = {0};
        put(&record, CENTRAL, 4);
        put(&record, VERSION_ZIP64, 2); // made by
        put_entry(&record, entry);
        put(&record, 28, 2);         // extra bytes
        put(&record, 0, 2);          // comment
        put(&record, 0, 2);          // disk
        put(&record, 0, 2);          // internal attributes
        put(&record, 0, 4);          // external attributes
        put(&record, UINT32_MAX, 4); // place
        put_text(&record, entry->name);
        put(&record, EXTRA_ZIP64, 2);
        put(&record, 24, 2);
        put(&record, (uint64_t)entry->bytes, 8);
        put(&record, (uint64_t)entry->bytes, 8);
        put(&record, (uint64_t)entry->offset, 8);
        if (!append(file, record.bytes, record.used, err)) return false;
    }
    Record record = {0};
    int64_t end = file->at;
    put(&record, END64, 4);
    put(&record, 44, 8); // bytes that follow in this record
    put(&record, VERSION_ZIP64, 2);
    put(&record, VERSION_ZIP64, 2);
    put(&record, 0, 4); // this disk, and that of the directory
    put(&record, 0, 4);
    put(&record, (uint64_t)file->count, 8);
    put(&record, (uint64_t)file->count, 8);
    put(&record, (uint64_t)(end - begin), 8);
    put(&record, (uint64_t)begin, 8);
    put(&record, LOCATOR64, 4);
    put(&record, 0, 4);
    put(&record, (uint64_t)end, 8);
    put(&record, 1, 4); // disks
    put(&record, END, 4);
    put(&record, 0, 4);          // disks
    put(&record, UINT32_MAX, 4); // entries, twice
    put(&record, UINT32_MAX, 4); // bytes
    put(&record, UINT32_MAX, 4); // place
    put(&record, 0, 2);          // comment
    return append(file, record.bytes, record.used, err);
}

bool npz_close(NpzFile *file, bool ok, Error *err) {
    bool finished = ok && write_directory(file, err) &&
                    (file_sync(file->fd, err) || error_prefix(err, "%s", file->temporary)) &&
                    temporary_name_publish(file->temporary, file->path, err);
    close(file->fd);
    Error ignored;
    if (!finished) file_remove(file->temporary, &ignored);
    free(file->entries);
    free(file);
    return finished;
}
