#include "launcher/supervisor/process_tree.h"

#include <ctype.h>
#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kernels/check.h"

typedef struct Process {
    pid_t pid, parent;
    bool ended; // a zombie
    bool ours;
} Process;

void process_tree_adopt(void) {
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
}

static bool read_process(const char *name, Process *process) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%.20s/stat", name);
    FILE *file = fopen(path, "r");
    if (!file) return false;
    size_t bytes = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[bytes] = 0;
    char *rest = strrchr(text, ')'), state = 0; // the name before it may hold anything
    int parent = 0;
    if (!rest || sscanf(rest + 1, " %c %d", &state, &parent) != 2) return false;
    *process = (Process){.pid = (pid_t)strtol(name, NULL, 10),
                         .parent = parent,
                         .ended = state == 'Z' || state == 'X'};
    return true;
}

static Process *read_all(int *count) {
    Process *list = NULL;
    int room = 0;
    *count = 0;
    DIR *folder = opendir("/proc");
    if (!folder) return NULL;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        if (*count == room) {
            room = room ? 2 * room : 256;
            list = realloc(list, (size_t)room * sizeof *list);
            CHECK_MEMORY(list, "no memory for the list of %d processes", room);
        }
        if (read_process(entry->d_name, &list[*count])) (*count)++;
    }
    closedir(folder);
    return list;
}

// Children of this process, children of those, and so on.
static Process *descendants(int *count) {
    Process *list = read_all(count);
    pid_t self = getpid();
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < *count; i++) {
            bool ours = list[i].parent == self;
            for (int k = 0; k < *count && !ours && !list[i].ours; k++)
                ours = list[k].ours && list[k].pid == list[i].parent;
            more = more || (ours && !list[i].ours);
            list[i].ours = list[i].ours || ours;
        }
    }
    return list;
}

int process_tree_signal(int number) {
    int count, alive = 0;
    Process *list = descendants(&count);
    for (int i = 0; i < count; i++) {
        if (!list[i].ours || list[i].ended) continue;
        alive++;
        if (number) kill(list[i].pid, number);
    }
    free(list);
    return alive;
}

int process_tree_signal_these(const pid_t *pids, int pid_count, int number) {
    int count, sent = 0;
    Process *list = descendants(&count);
    for (int i = 0; i < count; i++)
        for (int k = 0; k < pid_count && list[i].ours && !list[i].ended; k++)
            if (list[i].pid == pids[k] && kill(pids[k], number) == 0) sent++;
    free(list);
    return sent;
}
