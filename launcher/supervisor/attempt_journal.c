#include "launcher/supervisor/attempt_journal.h"

#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/log.h"
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
    char path[PATH_MAX], *line = NULL;
    size_t room = 0;
    json_t *rows = json_array();
    journal_path(run_dir, path);
    FILE *file = fopen(path, "r");
    if (!file) return rows;
    for (ssize_t length; (length = getline(&line, &room, file)) > 0;) {
        json_t *row = json_loadb(line, (size_t)length, 0, NULL);
        if (row) json_array_append_new(rows, row); // a torn line is none
    }
    free(line);
    fclose(file);
    return rows;
}
