#include "launcher/supervisor/live_hosts.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/ask_program.h"

enum { MOST_HOSTS = 1024, HOST_BYTES = 256, ANSWER_SECONDS = 20, MOST_SLOTS = 65536 };

typedef struct Host {
    char name[HOST_BYTES];
    int slots;
    pid_t probe;
    bool lives;
} Host;

// Takes the first host off *list; false at a malformed one, or at the end.
static bool next_host(const char **list, Host *host) {
    size_t length = strcspn(*list, ","), name = strcspn(*list, ",:");
    *host = (Host){.slots = 1};
    if (name == 0 || name >= HOST_BYTES) return false;
    snprintf(host->name, sizeof host->name, "%.*s", (int)name, *list);
    if (name < length) {
        char *end;
        long slots = strtol(*list + name + 1, &end, 10);
        if (end != *list + length || slots < 1 || slots > MOST_SLOTS) return false;
        host->slots = (int)slots;
    }
    *list += length + ((*list)[length] == ',');
    return true;
}

bool hosts_check(const char *hosts, int *slots, Error *err) {
    Host host;
    int count = 0;
    *slots = 0;
    for (const char *list = hosts; *list || count == 0; count++) {
        if (count == MOST_HOSTS || !next_host(&list, &host))
            return error_set(err, EXIT_CONFIG,
                             "command line: --hosts is '%.60s', but must be host:slots, joined by "
                             "commas, %d at most",
                             hosts, MOST_HOSTS);
        *slots += host.slots;
    }
    return true;
}

// mpirun knows the way to the hosts; `true` is there.
static pid_t start_probe(const char *host) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    if (!freopen("/dev/null", "r", stdin) || !freopen("/dev/null", "w", stdout) ||
        !freopen("/dev/null", "w", stderr))
        _exit(1);
    setsid();
    execlp("mpirun", "mpirun", "--host", host, "-np", "1", "true", (char *)NULL);
    _exit(127);
}

static bool still_running(Host *host) {
    int status;
    if (host->probe <= 0 || waitpid(host->probe, &status, WNOHANG) == 0) return host->probe > 0;
    host->probe = 0;
    host->lives = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    return false;
}

int hosts_find_live(const char *hosts, char *live, size_t room) {
    Host *list = calloc(MOST_HOSTS, sizeof *list);
    CHECK_MEMORY(list, "no memory for the list of hosts");
    int count = 0, slots = 0;
    while (count < MOST_HOSTS && next_host(&hosts, &list[count])) count++;
    for (int i = 0; i < count; i++) list[i].probe = start_probe(list[i].name);
    double begin = clock_seconds();
    for (bool more = true; more && clock_seconds() - begin < ANSWER_SECONDS;) {
        more = false;
        for (int i = 0; i < count; i++) more = still_running(&list[i]) || more;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    live[0] = 0;
    for (int i = 0; i < count; i++) {
        size_t used = strlen(live);
        if (list[i].probe > 0) {
            kill(list[i].probe, SIGKILL);
            waitpid(list[i].probe, NULL, 0);
        }
        if (!list[i].lives) log_warn("supervise: host %s does not answer", list[i].name);
        if (!list[i].lives || used + HOST_BYTES + 16 > room) continue;
        snprintf(live + used, room - used, "%s%s:%d", used ? "," : "", list[i].name, list[i].slots);
        slots += list[i].slots;
    }
    free(list);
    return slots;
}

int slurm_nodes_left(void) {
    char answer[32] = "";
    const char *job = getenv("SLURM_JOB_ID");
    const char *const words[] = {"squeue", "--noheader", "--jobs", job, "--format=%D", NULL};
    if (!job || !job[0] || !ask_program(words, ANSWER_SECONDS, answer, sizeof answer)) return 0;
    long nodes = strtol(answer, NULL, 10);
    return nodes > 0 && nodes <= MOST_SLOTS ? (int)nodes : 0;
}
