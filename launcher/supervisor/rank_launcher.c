#include "launcher/supervisor/rank_launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/run/ask_program.h"

enum { COMMAND_BYTES = 8192, MOST_WORDS = 512 };

static const double ANSWER_SECONDS = 10;

// ---- which --------------------------------------------------------------------------------------

// What the user has started by srun; Slurm counts batch scripts and shells of salloc from the top.
static bool in_a_step(void) {
    const char *step = getenv("SLURM_STEP_ID");
    return step && strtoll(step, NULL, 10) < INT32_MAX;
}

const char *launcher_here(void) {
    const char *const words[] = {"sh", "-c", "srun --mpi=list 2>&1 | grep pmix", NULL};
    const char *job = getenv("SLURM_JOB_ID");
    char answer[64];
    bool srun =
        job && job[0] && !in_a_step() && ask_program(words, ANSWER_SECONDS, answer, sizeof answer);
    return srun ? "srun" : "mpirun";
}

#define MPIRUN "mpirun -x MOETRAIN_ATTEMPT -x MOETRAIN_SECONDS_LEFT"
#define SRUN   "srun --mpi=pmix --kill-on-bad-exit=1"

const char *launcher_command(const char *launcher, bool hosts, bool nodes) {
    if (strcmp(launcher, "srun") == 0)
        return nodes ? SRUN " --nodes={nodes} -n {np} ${SRUN_OPTIONS:-}"
                     : SRUN " -n {np} ${SRUN_OPTIONS:-}";
    if (strcmp(launcher, "mpirun") != 0) return launcher;
    return hosts ? MPIRUN " --host {hosts} -np {np}" : MPIRUN " -np {np}";
}

// ---- the command --------------------------------------------------------------------------------

// Puts `value` in the place of every `name`.
static bool expand(const char *text, const char *name, const char *value, char *out, size_t room) {
    size_t used = 0, length = strlen(name);
    for (const char *at = text; *at;) {
        bool here = strncmp(at, name, length) == 0;
        int bytes =
            snprintf(out + used, room - used, "%.*s", here ? (int)room : 1, here ? value : at);
        used += (size_t)bytes;
        if (used >= room) return false;
        at += here ? length : 1;
    }
    out[used] = 0;
    return true;
}

// exec: the process is then the launcher itself, whose signals and exit code are wanted.
static bool build_command(const char *command, int ranks, const char *hosts, int nodes, char *out,
                          size_t room) {
    char number[16], with_ranks[COMMAND_BYTES], with_hosts[COMMAND_BYTES], all[COMMAND_BYTES];
    snprintf(number, sizeof number, "%d", ranks);
    if (!expand(command, "{np}", number, with_ranks, sizeof with_ranks)) return false;
    snprintf(number, sizeof number, "%d", nodes);
    return expand(with_ranks, "{hosts}", hosts, with_hosts, sizeof with_hosts) &&
           expand(with_hosts, "{nodes}", number, all, sizeof all) &&
           (size_t)snprintf(out, room, "exec %s \"$@\"", all) < room;
}

// What Open MPI is told unless the user tells it: ranks that wait do not take the time of others,
// a host that is lost is noticed within ten seconds, more ranks than cores are slow and no error,
// and root need not insist.
static void set_environment(const char *attempt) {
    static const char *const defaults[][2] = {
        {"OMPI_MCA_mpi_yield_when_idle", "1"},      {"OMPI_MCA_oob_tcp_keepalive_time", "3"},
        {"OMPI_MCA_oob_tcp_keepalive_intvl", "2"},  {"OMPI_MCA_oob_tcp_keepalive_probes", "2"},
        {"OMPI_MCA_rmaps_base_oversubscribe", "1"},
    };
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        setenv(defaults[i][0], defaults[i][1], 0);
    if (getuid() == 0) setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    if (getuid() == 0) setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    setenv("MOETRAIN_ATTEMPT", attempt, 1);
}

// The child: a session of its own, so that the terminal's signals reach only the supervisor. Where
// a batch system sends SIGTERM to every process of a job, mpirun does not see it; ranks get their
// own, since mpirun resets what they inherit.
static _Noreturn void become_launcher(char *command, char *const *words, const int out[2],
                                      const int err[2]) {
    char *argv[MOST_WORDS + 5] = {"sh", "-c", command, "sh"};
    int count = 4;
    for (; *words && count < MOST_WORDS + 4; words++) argv[count++] = *words;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGHUP);
    sigprocmask(SIG_SETMASK, &blocked, NULL);
    signal(SIGUSR2, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGUSR1); // without a supervisor the run is saved and ends
    setsid();
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    // Stay readable: mpirun kills its ranks when nobody is left to read a line, before they are
    // saved.
    fcntl(out[0], F_SETFD, 0);
    fcntl(err[0], F_SETFD, 0);
    execvp("sh", argv);
    _exit(127);
}

bool rank_launcher_start(RankLauncher *launcher, const char *command, int ranks, const char *hosts,
                         int nodes, char *const *words, const char *attempt, Error *err) {
    char line[COMMAND_BYTES];
    int out[2] = {-1, -1}, errors[2] = {-1, -1};
    if (!build_command(command, ranks, hosts, nodes, line, sizeof line))
        return error_set(err, EXIT_CONFIG, "command line: --launcher is longer than %d bytes",
                         COMMAND_BYTES);
    set_environment(attempt);
    pid_t pid = -1;
    if (pipe2(out, O_CLOEXEC) == 0 && pipe2(errors, O_CLOEXEC) == 0) pid = fork();
    if (pid == 0) become_launcher(line, words, out, errors);
    int cause = errno;
    if (out[1] >= 0) close(out[1]);
    if (errors[1] >= 0) close(errors[1]);
    *launcher = (RankLauncher){.pid = pid, .streams = {out[0], errors[0]}};
    if (pid > 0) return true;
    rank_launcher_close(launcher);
    return error_set(err, EXIT_IO, "cannot start the launcher: %s", strerror(cause));
}

// ---- while it runs ------------------------------------------------------------------------------

// A line that cannot be shown, because nobody reads or a disk is full, is no reason to end.
static void pass_on(RankLauncher *launcher, int stream) {
    char bytes[65536];
    ssize_t got = read(launcher->streams[stream], bytes, sizeof bytes);
    if (got > 0) {
        (void)!write(stream == 0 ? STDOUT_FILENO : STDERR_FILENO, bytes, (size_t)got);
    } else if (got == 0 || errno != EINTR) {
        close(launcher->streams[stream]);
        launcher->streams[stream] = -1;
    }
}

// Orphans that were taken over are waited for, too.
static void reap(RankLauncher *launcher) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid != launcher->pid) continue;
        launcher->ended = true;
        launcher->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}

void rank_launcher_serve(RankLauncher *launcher, double seconds) {
    struct pollfd streams[2] = {{.fd = launcher->streams[0], .events = POLLIN},
                                {.fd = launcher->streams[1], .events = POLLIN}};
    if (poll(streams, 2, (int)(seconds * 1e3)) > 0)
        for (int i = 0; i < 2; i++)
            if (streams[i].fd >= 0 && streams[i].revents) pass_on(launcher, i);
    reap(launcher);
}

// mpirun passes SIGUSR1 on once it has a handler, srun once it blocks it and waits for it; before
// that they would die of it.
static bool takes_usr1(pid_t pid) {
    char path[64], line[256];
    unsigned long long taken = 0, mask;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "SigCgt: %llx", &mask) == 1 || sscanf(line, "SigBlk: %llx", &mask) == 1)
            taken |= mask;
    fclose(file);
    return taken >> (SIGUSR1 - 1) & 1;
}

bool rank_launcher_ask(const RankLauncher *launcher) {
    return !launcher->ended && takes_usr1(launcher->pid) && kill(launcher->pid, SIGUSR1) == 0;
}

void rank_launcher_close(RankLauncher *launcher) {
    for (int i = 0; i < 2; i++)
        if (launcher->streams[i] >= 0) close(launcher->streams[i]);
    launcher->streams[0] = launcher->streams[1] = -1;
}
