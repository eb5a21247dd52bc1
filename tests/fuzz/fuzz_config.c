// Any bytes as a configuration file: no crash, one line of error; and what is accepted is printed
// as YAML that reads back to the same configuration.
#include <stdlib.h>
#include <string.h>

#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what, const char *detail) {
    if (condition) return;
    fprintf(stderr, "fuzz_config: %s: %s\n", what, detail);
    abort();
}

static bool is_one_line(const char *text) {
    return text[0] && !strpbrk(text, "\n\r");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Config *first, *second;
    if (!first) {
        first = config_new();
        second = config_new();
    }
    static const char *const needed[] = {"data.train=x"}; // so that other rules are reached
    Error err = {0};
    if (!config_read(first, "/fuzz.yaml", (const char *)data, size, needed, 1, &err)) {
        require(err.exit_code == EXIT_CONFIG && is_one_line(err.message), "not one line",
                err.message);
        return 0;
    }
    char *yaml = config_to_yaml(first, size % 2 == 0);
    bool again = config_read(second, "/fuzz.yaml", yaml, strlen(yaml), NULL, 0, &err);
    require(again, "the printed configuration is refused", err.message);
    require(memcmp(&first->train, &second->train, sizeof first->train) == 0,
            "the printed configuration reads back differently", yaml);
    free(yaml);

    for (int ranks = 1; ranks <= 16; ranks++) {
        TrainConfig train;
        if (config_check_ranks(first, ranks, &train, &err))
            require(train.expert_parallel > 0 && ranks % train.expert_parallel == 0,
                    "parallel.expert", "");
        else
            require(is_one_line(err.message), "not one line", err.message);
    }
    return 0;
}
