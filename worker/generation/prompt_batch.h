// Many prompts, on as many ranks as there are: each rank writes a text of its own, with the cache
// of it, and experts are sharded as in training.
#ifndef MOETRAIN_WORKER_GENERATION_PROMPT_BATCH_H
#define MOETRAIN_WORKER_GENERATION_PROMPT_BATCH_H

#include "worker/generation/text_generator.h"

// Reads lines {"prompt": TEXT} and prints a line of JSON (sample_json.h) for each sample of each of
// them, in order: the same lines on any number of ranks. False with exit 2 or 3 and the line, or
// with exit 75 after a request to stop. Collective over all ranks.
bool prompt_batch_write(TextGenerator *g, const char *path, Error *err);

#endif
