#include "launcher/line_config.h"

#include <stdlib.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "launcher/checkpoint_config.h"
#include "launcher/config_rules.h"
#include "worker/watch/watchdog.h"

static bool load_config(Config *config, const CommandLine *line, ConfigSource source, Error *err) {
    if (source == CONFIG_OF_CHECKPOINT)
        return checkpoint_config_read(config, line->path, line->overrides, line->override_count,
                                      err);
    char *text = NULL;
    size_t bytes = 0;
    bool ok =
        config_load_text(line->path, &text, &bytes, err) &&
        checkpoint_is_no_config(line->path, text, bytes, err) &&
        config_read(config, line->path, text, bytes, line->overrides, line->override_count, err);
    free(text);
    return ok;
}

int with_line_config(const CommandLine *line, ConfigSource source,
                     int (*body)(const CommandLine *line, Config *config, Error *err), Error *err) {
    Config *config = config_new();
    bool ok = load_config(config, line, source, err);
    int exit_code = ok ? body(line, config, err) : err->exit_code;
    free(config);
    return exit_code;
}

static bool share_config(Config *config, TrainConfig *train, const CommandLine *line,
                         ConfigSource source, Error *err) {
    watchdog_beat("reading the configuration");
    bool ok = comm_rank() != 0 || load_config(config, line, source, err);
    if (!comm_follow(ok, err)) return false;
    broadcast(comm_world(), config, config_bytes(), 0);
    return source == CONFIG_OF_CHECKPOINT ? config_resolve_ranks(config, comm_size(), train, err)
                                          : config_check_ranks(config, comm_size(), train, err);
}

int with_shared_config(const CommandLine *line, ConfigSource source,
                       int (*body)(const CommandLine *line, const Config *config,
                                   const TrainConfig *train, Error *err),
                       Error *err) {
    Config *config = config_new();
    TrainConfig *train = calloc(1, sizeof *train);
    CHECK_MEMORY(train, "out of memory");
    bool ok = share_config(config, train, line, source, err);
    int exit_code = ok ? body(line, config, train, err) : err->exit_code;
    free(train);
    free(config);
    return exit_code;
}
