// What a comparison's file says of rows that are to be found:
//
//   grid: {moe.experts: [4, 8], moe.top_k: [1, 2]}     # every combination, of every row
//   search:                                            # trials, beside the rows
//     kind: halving                                    # or random: every trial to its end
//     trials: 16
//     seed: 1
//     factor: 3                                        # halving: one in so many goes on,
//     steps: 100                                       # after so many steps or somewhat more
//     keys:
//       train.lr: {min: 1e-4, max: 1e-2, scale: log}
//       moe.top_k: [1, 2, 4]
#ifndef MOETRAIN_LAUNCHER_COMPARE_SEARCH_FILE_H
#define MOETRAIN_LAUNCHER_COMPARE_SEARCH_FILE_H

#include "launcher/compare/comparison.h"
#include "launcher/config_yaml.h"

// Take a value of `grid` or `search`; `name` is what stands behind the point. False with exit 2,
// without the place.
bool grid_take(Comparison *comparison, const char *name, const YamlValue *value, int line,
               Error *err);
bool search_take(Comparison *comparison, const char *name, const YamlValue *value, int line,
                 Error *err);
// Once all is read: whether the search is whole. False with exit 2, file and line.
bool search_check(const Comparison *comparison, Error *err);

#endif
