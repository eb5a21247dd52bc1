#include "launcher/supervisor/attempt_journal.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/log.h"
#include "worker/run/json_file.h"
#include "worker/run/row_file.h"

static void journal_path(const char *run_dir, char path[PATH_MAX]) {
    snprintf(path, PATH_MAX, "%s/attempts.jsonl", run_dir);
}

void attempt_journal_add(const char *run_dir, json_t *row) {
    char path[PATH_MAX], *line = NULL;
    Error err = {0};
    RowFile *rows = NULL;
    journal_path(run_dir, path);
    char *text = row ? json_dumps(row, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    if (!row_file_open(&rows, path, INT64_MAX, &err))
        log_warn("%s; the row of this start is missing", err.message);
    else if (text && asprintf(&line, "%s\n", text) > 0)
        row_file_append(rows, line);
    row_file_close(rows);
    free(line);
    free(text);
    json_decref(row);
}

json_t *attempt_journal_read(const char *run_dir) {
    char path[PATH_MAX];
    journal_path(run_dir, path);
    return json_file_rows(path);
}
