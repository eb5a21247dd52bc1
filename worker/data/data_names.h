// What people call the data of a run. Not collective.
#ifndef MOETRAIN_WORKER_DATA_DATA_NAMES_H
#define MOETRAIN_WORKER_DATA_DATA_NAMES_H

#include "worker/train_config.h"

// The name, or where there is none the last part of the path.
const char *data_source_name(const DataSource *source);
// The same of a validation set; "" of the only one, unless it was given a name.
const char *validation_set_name(const ValidationSets *sets, int set);
// The path of the only source, or "data.train" of several.
const char *data_sources_path(const DataSources *sources);

#endif
