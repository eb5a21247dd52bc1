#include "worker/generation/prompt_batch.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "worker/json_rows.h"

static const char *prompt_of(const JsonRows *rows, int64_t row) {
    return json_string_value(json_object_get(rows->rows[row], "prompt"));
}

// Every rank looks at all of them and finds the same.
static bool check_prompts(TextGenerator *g, const JsonRows *rows, const char *path, Error *err) {
    for (int64_t row = 0; row < rows->count; row++) {
        const char *prompt = prompt_of(rows, row);
        bool ok = prompt ? text_generator_begin(g, prompt, err)
                         : error_set(err, EXIT_DATA, "a prompt is {\"prompt\": TEXT}");
        if (!ok) return error_prefix(err, "%s: line %lld", path, (long long)rows->lines[row]);
    }
    return true;
}

// The line of each rank that has one, in the order of ranks. Collective over all ranks.
static void print_lines(char *line, int64_t ranks) {
    for (int rank = 0; rank < ranks; rank++) {
        int64_t bytes = rank == comm_rank() ? (int64_t)strlen(line) + 1 : 0;
        broadcast(comm_world(), &bytes, sizeof bytes, rank);
        char *text = rank == comm_rank() ? line : malloc((size_t)bytes);
        CHECK_MEMORY(text, "no memory for a line of %lld bytes", (long long)bytes);
        broadcast(comm_world(), text, (size_t)bytes, rank);
        if (comm_rank() == 0) puts(text);
        if (text != line) free(text);
    }
    fflush(stdout);
}

bool prompt_batch_write(TextGenerator *g, const char *path, Error *err) {
    JsonRows rows = {0};
    bool ok = json_rows_read(&rows, path, err) && check_prompts(g, &rows, path, err);
    int64_t samples = g->options->samples, jobs = rows.count * samples, ranks = comm_size();
    for (int64_t first = 0; ok && first < jobs; first += ranks) {
        int64_t job = first + comm_rank(), left = jobs - first < ranks ? jobs - first : ranks;
        bool idle = job >= jobs;
        Error never = {0};
        CHECK(text_generator_begin(g, idle ? "" : prompt_of(&rows, job / samples), &never), "%s",
              never.message);
        ok = text_generator_write(g, job % samples, idle, err);
        char *line = ok ? text_generator_json(g) : NULL;
        if (ok) print_lines(line, left);
        free(line);
    }
    json_rows_free(&rows);
    return ok;
}
