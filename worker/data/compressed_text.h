// What compressed formats have in common: text, or JSON lines, that a stream gives. Not collective.
#ifndef MOETRAIN_WORKER_DATA_COMPRESSED_TEXT_H
#define MOETRAIN_WORKER_DATA_COMPRESSED_TEXT_H

#include "worker/data/data_content.h"
#include "worker/data/expanded_text.h"

// Takes all of the stream into memory, as text or as the documents of JSON lines, whichever it is.
// False with exit 3 when it gives anything else, fails, or gives more than the rules allow.
// unpack: the program that writes the file's content, for the message.
bool compressed_text_open(DataContent *content, const DataPlace *place, ByteStream *stream,
                          const char *unpack, Error *err);

#endif
