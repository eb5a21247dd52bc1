// Files of other programs that hold neither text nor token numbers as they are, told by their first
// bytes, each with the way to what can be trained on. Not collective.
#ifndef MOETRAIN_WORKER_DATA_FOREIGN_FILES_H
#define MOETRAIN_WORKER_DATA_FOREIGN_FILES_H

#include "worker/data/content_sample.h"

typedef struct ForeignFile {
    const char *name; // "is NAME"
    size_t offset, length;
    const char *magic;
    bool (*fits)(const ContentSample *sample); // NULL: the magic is enough
    bool text_only;                            // too little to be told from token numbers
    const char *fix;
} ForeignFile;

// The row that the sample belongs to, or NULL. as_text: the file is taken for text.
const ForeignFile *foreign_file_find(const ContentSample *sample, bool as_text);

// How text in another encoding is converted.
#define ICONV(from) "convert it: iconv -f " from " -t UTF-8 FILE > NEW.txt"

#endif
