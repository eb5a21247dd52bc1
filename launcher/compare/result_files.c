#include "launcher/compare/result_files.h"

#include <stdio.h>
#include <stdlib.h>

#include "checkpoint/file_io.h"
#include "launcher/compare/result_curves.h"

static bool write_file(const Comparison *comparison, const char *name, const char *text,
                       size_t bytes, Error *err) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/%s", comparison->output, name);
    return file_replace_shared(path, text, bytes, err) || error_prefix(err, "%s", path);
}

typedef void (*TablePrinter)(FILE *out, const Comparison *comparison, ComparedResults results);

static bool write_table(const Comparison *comparison, const char *name, TablePrinter print,
                        ComparedResults results, Error *err) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    CHECK_MEMORY(out, "out of memory");
    print(out, comparison, results);
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    bool ok = write_file(comparison, name, text, bytes, err);
    free(text);
    return ok;
}

static bool write_curves(const Comparison *comparison, ComparedResults results, Error *err) {
    size_t bytes;
    char *text = curves_draw(comparison, results, &bytes);
    bool ok = !text || write_file(comparison, "curves.svg", text, bytes, err);
    free(text);
    return ok;
}

bool results_write(const Comparison *comparison, ComparedResults results, Error *err) {
    return write_table(comparison, "table.md", table_print, results, err) &&
           write_table(comparison, "table.csv", table_print_rows, results, err) &&
           write_table(comparison, "runs.csv", table_print_runs, results, err) &&
           write_curves(comparison, results, err);
}
