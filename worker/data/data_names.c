#include "worker/data/data_names.h"

#include <string.h>

static const char *name_or_last_part(const char *name, const char *path) {
    const char *slash = strrchr(path, '/');
    return name[0] ? name : slash && slash[1] ? slash + 1 : path;
}

const char *data_source_name(const DataSource *source) {
    return name_or_last_part(source->name, source->path);
}

const char *validation_set_name(const ValidationSets *sets, int set) {
    const ValidationSet *row = &sets->maps[set];
    return sets->count == 1 ? row->name : name_or_last_part(row->name, row->path);
}

const char *data_sources_path(const DataSources *sources) {
    return sources->count == 1 ? sources->maps[0].path : "data.train";
}
