#include "worker/shared_run_dir.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm/collectives.h"
#include "comm/comm.h"
#include "worker/train_config.h"

// Which file rank 0 leaves in the folder: a name that was never used before, so that no host remembers that it is not there.
typedef struct Mark {
    char host[64];
    char path[CONFIG_PATH_BYTES + 96];
} Mark;

static bool leave_mark(const char *run_dir, Mark *mark, Error *err) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    snprintf(mark->host, sizeof mark->host, "%.63s", comm_host());
    snprintf(mark->path, sizeof mark->path, "%.*s/.shared-%d-%lld.%09ld", CONFIG_PATH_BYTES,
             run_dir, (int)getpid(), (long long)now.tv_sec, now.tv_nsec);
    int fd = open(mark->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(err, EXIT_IO, "%s: cannot create: %s", mark->path, strerror(errno));
    close(fd);
    return true;
}

bool shared_run_dir_check(const char *run_dir, Error *err) {
    enum { TRIES = 10 };
    const struct timespec pause = {.tv_nsec = 100 * 1000000};
    if (comm_size() == 1) return true;
    Mark mark = {0};
    bool ok = comm_rank() != 0 || leave_mark(run_dir, &mark, err);
    if (!comm_follow(ok, err)) return false;
    broadcast(comm_world(), &mark, sizeof mark, 0);
    for (int tries = 0; !(ok = access(mark.path, F_OK) == 0) && tries < TRIES; tries++)
        nanosleep(&pause, NULL);
    if (!ok)
        error_set(err, EXIT_IO,
                  "run.dir %s: not the folder that rank 0 on %s has under this name; choose one on "
                  "a file system that all hosts share",
                  run_dir, mark.host);
    ok = comm_agree(ok, err);
    if (comm_rank() == 0) unlink(mark.path);
    return ok;
}
