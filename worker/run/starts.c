#include "worker/run/starts.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/program_hash.h"
#include "worker/run/rank_places.h"
#include "worker/run/row_file.h"

// The batch system's number of this job, or NULL. *system is the system's name.
static const char *job_id(const char **system) {
    static const struct {
        const char *name, *variable;
    } systems[] = {{"Slurm", "SLURM_JOB_ID"},
                   {"PBS", "PBS_JOBID"},
                   {"LSF", "LSB_JOBID"},
                   {"Grid Engine", "JOB_ID"}};
    for (size_t i = 0; i < sizeof systems / sizeof *systems; i++) {
        *system = systems[i].name;
        const char *id = getenv(systems[i].variable);
        if (id && id[0]) return id;
    }
    return NULL;
}

// {"host": ranks on it, …} in the order of the ranks, on every rank. Collective over all ranks.
static json_t *ranks_of_hosts(void) {
    const RankPlace *places = rank_places();
    json_t *hosts = json_object();
    for (int rank = 0; rank < comm_size(); rank++) {
        const char *name = places[rank].host;
        json_int_t count = json_integer_value(json_object_get(hosts, name));
        json_object_set_new_nocheck(hosts, name, json_integer(count + 1));
    }
    return hosts;
}

static void log_place(json_t *hosts, const char *system, const char *id) {
    char text[512] = "", job[128] = "";
    const char *name;
    json_t *count;
    size_t used = 0;
    // clang-format off
    json_object_foreach(hosts, name, count) {
        if (used < sizeof text) // more names are cut off
            used += (size_t)snprintf(text + used, sizeof text - used, "%s%s", used ? ", " : "", name);
    }
    // clang-format on
    if (id) snprintf(job, sizeof job, " | %s job %s", system, id);
    used = json_object_size(hosts);
    log_info("%zu host%s: %s%s | pid %d", used, used == 1 ? "" : "s", text, job, (int)getpid());
}

static bool write_row(const Trainer *trainer, json_t *hosts, Error *err) {
    char path[CONFIG_PATH_BYTES + 32], now[CLOCK_UTC_BYTES];
    char program[HASH_TEXT_BYTES], config[HASH_TEXT_BYTES];
    const char *system, *id = job_id(&system);
    const Device *dev = &trainer->session.dev;
    RowFile *rows = NULL;
    snprintf(path, sizeof path, "%s/starts.jsonl", trainer->config.run_dir);
    if (!row_file_open(&rows, path, INT64_MAX, err)) return false;
    log_place(hosts, system, id);
    program_hash(program);
    hash_to_text(hash_bytes(trainer->config_yaml, strlen(trainer->config_yaml)), config);
    json_t *row = json_pack(
        "{s:s, s:I, s:i, s:i, s:O, s:s, s:s, s:s?, s:i, s:s, s:s, s:s}", "time", clock_utc(now),
        "step", (json_int_t)trainer->state.step, "ranks", comm_size(), "threads", dev->threads,
        "hosts", hosts, "device", dev->description, "mpi", comm_library(), "job", id, "pid",
        (int)getpid(), "version", MOETRAIN_VERSION, "program_hash", program, "config_hash", config);
    char *text = row ? json_dumps(row, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL;
    char *line = NULL;
    if (text && asprintf(&line, "%s\n", text) > 0)
        row_file_append(rows, line);
    else
        log_warn("%s: a name that is no UTF-8; the row of this start is missing", path);
    free(line);
    free(text);
    json_decref(row);
    row_file_close(rows);
    return true;
}

bool starts_write(const Trainer *trainer, Error *err) {
    json_t *hosts = ranks_of_hosts();
    bool ok = comm_rank() != 0 || write_row(trainer, hosts, err);
    json_decref(hosts);
    return comm_follow(ok, err);
}
