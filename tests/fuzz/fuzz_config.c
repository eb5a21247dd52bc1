// Any bytes as a configuration file: no crash, one line of error; and what is accepted is printed
// as YAML that reads back to the same configuration. Likewise as a cluster of `moetrain simulate`.
#include <stdlib.h>
#include <string.h>

#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "launcher/simulate/cluster_file.h"
#include "seeds.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static void require(bool condition, const char *what, const char *detail) {
    if (condition) return;
    fprintf(stderr, "fuzz_config: %s: %s\n", what, detail);
    abort();
}

static bool is_one_line(const char *text) {
    return text[0] && !strpbrk(text, "\n\r");
}

// What config_read has accepted is printed as YAML that reads back to the same bytes.
static void require_round_trip(const Config *config, Config *again, bool origins) {
    Error err = {0};
    char *yaml = config_to_yaml(config, origins);
    bool read = config_read(again, "/fuzz.yaml", yaml, strlen(yaml), NULL, 0, &err);
    require(read, "the printed configuration is refused", err.message);
    require(memcmp(&config->train, &again->train, sizeof config->train) == 0,
            "the printed configuration reads back differently", yaml);
    free(yaml);
}

// The beginning of the input as the value of keys that take lists, as a command line has it.
static void read_as_lists(Config *config, Config *again, const uint8_t *data, size_t size) {
    static const char *const keys[] = {"moe.experts", "model.feed_forward", "resume.allow",
                                       "moe.balance"};
    char text[400], override[512];
    size_t used = size < sizeof text - 1 ? size : sizeof text - 1;
    memcpy(text, data, used);
    text[used] = '\0';
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        Error err = {0};
        snprintf(override, sizeof override, "%s=%s", keys[i], text);
        const char *const overrides[] = {"data.train=x", override};
        if (config_read(config, "/fuzz.yaml", "", 0, overrides, 2, &err)) {
            require_round_trip(config, again, false);
            reached(keys[i]);
        } else {
            require(err.exit_code == EXIT_CONFIG && is_one_line(err.message), "not one line",
                    err.message);
        }
    }
}

static char *printed(const Cluster *cluster) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    require(out != NULL, "out of memory", "");
    cluster_print(out, cluster);
    fclose(out);
    return text;
}

// What is printed has six digits, so that it is the second time that nothing changes.
static void read_as_cluster(const uint8_t *data, size_t size) {
    Error err = {0};
    Cluster cluster, again;
    if (!cluster_read(&cluster, "/fuzz.yaml", (const char *)data, size, &err)) {
        require(err.exit_code == EXIT_CONFIG && is_one_line(err.message), "not one line",
                err.message);
        return;
    }
    char *first = printed(&cluster);
    require(cluster_read(&again, "/fuzz.yaml", first, strlen(first), &err),
            "the printed cluster is refused", err.message);
    char *second = printed(&again);
    require(strcmp(first, second) == 0, "the printed cluster reads back differently", first);
    free(first);
    free(second);
    reached("a cluster");
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return seeds_must_reach((const char *const[]){"moe.experts", "model.feed_forward",
                                                  "resume.allow", "moe.balance", "a file",
                                                  "several ranks", "a cluster", NULL});
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Config *first, *second;
    if (!first) {
        first = config_new();
        second = config_new();
    }
    read_as_lists(first, second, data, size);
    read_as_cluster(data, size);
    static const char *const needed[] = {"data.train=x"}; // so that other rules are reached
    Error err = {0};
    if (!config_read(first, "/fuzz.yaml", (const char *)data, size, needed, 1, &err)) {
        require(err.exit_code == EXIT_CONFIG && is_one_line(err.message), "not one line",
                err.message);
        return 0;
    }
    require_round_trip(first, second, size % 2 == 0);
    reached("a file");

    for (int ranks = 1; ranks <= 16; ranks++) {
        TrainConfig train;
        bool fits = config_check_ranks(first, ranks, &train, &err);
        if (fits && ranks > 1) reached("several ranks");
        if (fits)
            require(train.expert_parallel > 0 && ranks % train.expert_parallel == 0,
                    "parallel.expert", "");
        else
            require(is_one_line(err.message), "not one line", err.message);
    }
    return 0;
}
