// JSON lines: a JSON object a line, one of whose fields is the text of a document (jsonlines.org).
// Not collective.
#ifndef MOETRAIN_WORKER_DATA_JSON_LINES_H
#define MOETRAIN_WORKER_DATA_JSON_LINES_H

#include "worker/data/data_content.h"
#include "worker/data/expanded_text.h"

// Whether a text that begins with these bytes, and ends with them where `ends`, is JSON lines: its
// first line is an object, of which at least the first name is there.
bool json_lines_begin(const uint8_t *head, size_t bytes, bool ends);

// The documents of the stream's lines, each ended by a line feed, which text of documents has
// between them anyway; empty ones are left out. False with exit 3 and the line that is no object,
// or has no such field.
bool json_lines_write(ExpandedText *text, ByteStream *stream, const ContentRules *rules,
                      DocumentStarts *documents, Error *err);

#endif
