// Text that has no file of its own, since it is compressed or stands in JSON: written once into
// memory, as an anonymous file that is read at offsets like any other. Not collective.
#ifndef MOETRAIN_WORKER_DATA_EXPANDED_TEXT_H
#define MOETRAIN_WORKER_DATA_EXPANDED_TEXT_H

#include "worker/data/file_reader.h"

// Bytes in order, from a file or from what it expands to.
typedef struct ByteStream ByteStream;
struct ByteStream {
    const FileReader *file;
    int64_t taken; // bytes of the file
    int64_t given; // bytes of the stream
    int64_t most;  // that it may give
    void *state;   // of `read`
    // Up to `room` bytes, 0 only at the end; -1 with exit 3.
    int64_t (*read)(ByteStream *stream, void *buffer, size_t room, Error *err);
};

// The stream's next bytes, up to `room`; 0 at the end. -1 with exit 3, also where it gives more
// than it may, with the sizes.
int64_t byte_stream_read(ByteStream *stream, void *buffer, size_t room, Error *err);

// A text that grows.
typedef struct ExpandedText {
    FileReader file; // of the path of `of`
    const FileReader *of;
} ExpandedText;

bool expanded_text_begin(ExpandedText *text, const FileReader *of, Error *err);
bool expanded_text_write(ExpandedText *text, const void *data, size_t bytes, Error *err);
// All that the stream gives.
bool expanded_text_write_all(ExpandedText *text, ByteStream *stream, Error *err);

#endif
