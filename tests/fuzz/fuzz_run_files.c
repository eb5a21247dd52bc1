// Any bytes as the small files of a run's folder: status.json, outcome.json, attempts.jsonl,
// request.json, lock and metrics.jsonl. They are passed over, or read; what people are shown of
// them is text without control characters. The first byte chooses the file.
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/log.h"
#include "launcher/status.h"
#include "seeds.h"
#include "worker/run/row_file.h"
#include "worker/run/run_lock.h"
#include "worker/run/run_requests.h"

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static char folder[] = "/dev/shm/fuzz_run_files.XXXXXX";

static void remove_folder(void) {
    char command[64];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command) != 0) fprintf(stderr, "%s is left\n", folder);
}

static void require(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz_run_files: %s\n", what);
    abort();
}

static void write_file(const char *name, const void *bytes, size_t count) {
    char path[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    write_input(path, bytes, count);
}

static void write_text(const char *name, const char *text) {
    write_file(name, text, strlen(text));
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    require(mkdtemp(folder), "no folder");
    atexit(remove_folder);
    log_set_rank(1); // which does not warn of lines that are taken out
    return seeds_must_reach((const char *const[]){"a step", "a message", "an attempt", "a row",
                                                  "a request", "a holder", NULL});
}

// As people see it, and as a script does.
static void show_status(void) {
    for (int json = 0; json < 2; json++) {
        char *text = NULL;
        size_t bytes = 0;
        Error err = {0};
        FILE *before = stdout;
        stdout = open_memstream(&text, &bytes);
        bool ok = status_print(folder, json, &err);
        fclose(stdout);
        stdout = before;
        require(ok || (err.exit_code == EXIT_CONFIG && err.message[0]), "no reason");
        for (size_t i = 0; i < bytes; i++)
            require((uint8_t)text[i] >= ' ' || text[i] == '\n', "a control character is shown");
        if (ok && json) {
            json_t *again = json_loads(text, 0, NULL);
            require(again, "no JSON");
            json_decref(again);
        }
        if (strstr(text, "tokens/s")) reached("a step"); // of the seeds
        if (strstr(text, "[2Jb")) reached("a message");
        if (strstr(text, "killed")) reached("an attempt");
        free(text);
    }
}

// Whole lines of JSON objects are left, and none is of a later step.
static void open_rows(void) {
    char path[64], *line = NULL;
    size_t room = 0;
    RowFile *rows = NULL;
    Error err = {0};
    snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
    require(row_file_open(&rows, path, 7, &err), "not opened");
    row_file_append(rows, "{\"step\":7}\n");
    row_file_close(rows);
    FILE *file = fopen(path, "r");
    require(file, "not there");
    for (ssize_t length; (length = getline(&line, &room, file)) > 0;) {
        json_t *row = json_loadb(line, (size_t)length, 0, NULL);
        json_t *step = json_object_get(row, "step");
        require(json_is_object(row) && line[length - 1] == '\n', "no whole line");
        require(!json_is_number(step) || json_number_value(step) <= 7, "a later step");
        if (json_number_value(step) < 7) reached("a row");
        json_decref(row);
    }
    free(line);
    fclose(file);
}

static void take_request(const uint8_t *bytes, size_t count) {
    log_set_rank(0); // which alone takes requests
    run_requests_begin(folder);
    log_set_rank(1);
    write_file("request.json", bytes, count);
    run_requests_beat();
    if (run_requests_pending()) reached("a request");
    run_requests_end();
}

static void name_holder(const uint8_t *bytes, size_t count) {
    char record[768], text[LOCK_TEXT_BYTES];
    size_t used = count < sizeof record - 1 ? count : sizeof record - 1;
    memcpy(record, bytes, used);
    record[used] = '\0';
    if (!run_lock_names(record, text)) return;
    require(strstr(text, "process "), "no process is named");
    reached("a holder");
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t size) {
    if (size == 0) return 0;
    const uint8_t *bytes = input + 1;
    size--;
    switch (input[0] % 6) {
    case 0:
        write_file("status.json", bytes, size);
        write_text("outcome.json", "{\"exit_code\": 5, \"message\": \"full\"}");
        write_text("attempts.jsonl", "");
        show_status();
        break;
    case 1:
        write_text("status.json", "{\"phase\": \"x\", \"step\": 1, \"steps\": 2}");
        write_file("outcome.json", bytes, size);
        write_text("attempts.jsonl", "");
        show_status();
        break;
    case 2:
        write_text("status.json", "{\"phase\": \"x\", \"step\": 1, \"steps\": 2}");
        write_text("outcome.json", "{\"exit_code\": 0, \"message\": \"done\"}");
        write_file("attempts.jsonl", bytes, size);
        show_status();
        break;
    case 3:
        write_file("metrics.jsonl", bytes, size);
        open_rows();
        break;
    case 4:
        take_request(bytes, size);
        break;
    case 5:
        name_holder(bytes, size);
        break;
    }
    return 0;
}
