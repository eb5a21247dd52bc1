#include "launcher/compare/compared_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher/config.h"
#include "launcher/compare/run_result.h"
#include "launcher/own_process.h"
#include "worker/run/json_file.h"

enum { PATH_BYTES = CONFIG_PATH_BYTES + 32, INFERENCE_TOKENS = 128 };
static const char CONFIG_NAME[] = "compare.yaml", LOG_NAME[] = "compare.log", WHO[] = "compare";

// ---- before it ----------------------------------------------------------------------------------

bool compared_run_check(const ComparedRun *run, const Config *config, Error *err) {
    return own_process_check_config(run->dir, CONFIG_NAME, config, NULL, err);
}

// ---- its processes ------------------------------------------------------------------------------

int compared_run_train(const ComparedRun *run, const Config *config, int ranks,
                       const char *launcher, Error *err) {
    char until[48];
    snprintf(until, sizeof until, "run.stop_at=%lld", (long long)run->until);
    if (!own_process_write_config(run->dir, CONFIG_NAME, config, err)) return err->exit_code;
    return own_process_train(NULL, run->dir, CONFIG_NAME, LOG_NAME, WHO, ranks, launcher,
                             run->until ? until : NULL, err);
}

void compared_run_last_error(const ComparedRun *run, char *message, size_t bytes) {
    own_process_last_error(run->dir, LOG_NAME, message, bytes);
}

bool compared_run_time_inference(const ComparedRun *run, const Config *config, Error *err) {
    char path[PATH_BYTES], tokens[32];
    snprintf(path, sizeof path, "%s/%s", run->dir, INFERENCE_NAME);
    json_t *known = json_file_read(path);
    json_decref(known);
    if (known) return true;
    int64_t most =
        config->train.context < INFERENCE_TOKENS ? config->train.context : INFERENCE_TOKENS;
    snprintf(tokens, sizeof tokens, "%lld", (long long)most);
    char *words[] = {NULL,
                     (char[]){"generate"},
                     (char *)run->dir,
                     (char[]){"--json"},
                     (char[]){"--timings"},
                     (char[]){"--temperature"},
                     (char[]){"0"},
                     (char[]){"--tokens"},
                     tokens,
                     NULL};
    own_process_run(run->dir, LOG_NAME, INFERENCE_NAME, WHO, words, err);
    return !err->message[0];
}
