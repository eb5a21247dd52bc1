// The file of `moetrain compare`, in the YAML of configurations:
//
//   config: ../quickstart.yaml            # what rows change; a path from this file's folder
//   seeds: [1, 2, 3]
//   set: {train.steps: 300}               # of all rows
//   rows:
//     dense: {model.feed_forward: dense}
//     switch: {moe.top_k: 1, moe.router: topk_softmax}
//     as_configured:                      # nothing is changed
//   equal_flops: {reference: dense, width: moe.d_ff, tolerance: 0.01, multiple: 1}
//
// A row may have a width of its own: {width: model.d_ff}, or none. search_file.h has grid and
// search, which find rows.
#ifndef MOETRAIN_LAUNCHER_COMPARE_COMPARISON_FILE_H
#define MOETRAIN_LAUNCHER_COMPARE_COMPARISON_FILE_H

#include "launcher/compare/comparison.h"

// Reads the file and the configuration that it names. False with exit 2, file, line and fix. Not
// collective.
bool comparison_file_read(Comparison *comparison, const char *path, Error *err);

#endif
