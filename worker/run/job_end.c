#include "worker/run/job_end.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/clock.h"
#include "kernels/log.h"
#include "worker/run/ask_program.h"

static const double ANSWER_SECONDS = 10, LATER_ANSWER_SECONDS = 5;
// "seconds, those of run.max_minutes, source"; "none"
static const char *const HANDED_ON = "MOETRAIN_SECONDS_LEFT";

double slurm_seconds(const char *text) {
    long days = 0, part[3] = {0}; // the last ones read
    int parts = 0, used = 0;
    if (sscanf(text, "%ld-%n", &days, &used) != 1 || used == 0) days = used = 0;
    if (text[used] < '0' || text[used] > '9' || days < 0) return -1;
    for (const char *at = text + used;; at++) {
        char *end;
        long value = strtol(at, &end, 10);
        if (end == at || value < 0 || parts == 3) return -1;
        part[0] = part[1], part[1] = part[2], part[2] = value;
        parts++;
        at = end;
        if (!*at) break;
        if (*at != ':') return -1;
    }
    if (parts < 2) return -1; // of squeue: seconds always have minutes before them
    return (double)days * 86400 + (double)part[0] * 3600 + (double)part[1] * 60 + (double)part[2];
}

// The job that this process is in, or NULL.
static const char *slurm_job(void) {
    const char *job = getenv("SLURM_JOB_ID");
    return job && job[0] ? job : NULL;
}

// What its squeue says is left of it: seconds; INFINITY without a limit; -1: it does not say.
static double ask_slurm(const char *job, double seconds) {
    const char *const words[] = {"squeue", "--noheader", "--jobs", job, "--format=%L", NULL};
    char answer[64] = "";
    if (!ask_program(words, seconds, answer, sizeof answer)) return -1;
    return strcmp(answer, "UNLIMITED") == 0 ? INFINITY : slurm_seconds(answer);
}

// What is left of a Slurm job; INFINITY without a limit, or when Slurm does not say. Jobs of before
// version 23.02 have no variable for it, and the variable does not know of `scontrol update`.
static double slurm_left(const char *job) {
    double left = ask_slurm(job, ANSWER_SECONDS);
    if (left >= 0) return left;
    const char *end = getenv("SLURM_JOB_END_TIME");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (end && end[0]) return fmax(strtod(end, NULL) - (double)now.tv_sec, 0);
    log_warn("squeue does not say when Slurm job %s ends; if it has a time limit, set "
             "run.max_minutes so that the run is saved before",
             job);
    return INFINITY;
}

// The sooner of two ends.
static void set_end(JobEnd *end, const char *job, double slurm_end) {
    end->at = fmin(end->own, slurm_end);
    if (slurm_end < end->own)
        snprintf(end->source, sizeof end->source, "Slurm job %s", job);
    else
        snprintf(end->source, sizeof end->source, "run.max_minutes");
}

// What a supervisor knows, who has begun before us; false without one.
static bool take_handed_on(JobEnd *end) {
    const char *text = getenv(HANDED_ON);
    double left, own;
    int used = 0;
    if (!text || !text[0]) return false;
    if (sscanf(text, "%lf %lf %n", &left, &own, &used) != 2) return true; // "none"
    end->at = clock_seconds() + left;
    end->own = clock_seconds() + own;
    snprintf(end->source, sizeof end->source, "%s", text + used);
    return true;
}

JobEnd job_end_find(double max_minutes) {
    JobEnd end = {.at = INFINITY, .own = INFINITY};
    const char *job = slurm_job();
    double begin = clock_seconds();
    if (take_handed_on(&end)) return end;
    if (max_minutes > 0) end.own = begin + 60 * max_minutes;
    double slurm = job ? slurm_left(job) : INFINITY;
    set_end(&end, job, clock_seconds() + slurm);
    return end;
}

bool job_end_ask(JobEnd *end) {
    const char *job = slurm_job();
    double left = job ? ask_slurm(job, LATER_ANSWER_SECONDS) : -1;
    if (left < 0) return false;
    set_end(end, job, clock_seconds() + left);
    return true;
}

void job_end_hand_on(const JobEnd *end) {
    char text[JOB_END_SOURCE_BYTES + 64] = "none";
    double now = clock_seconds();
    if (isfinite(end->at))
        snprintf(text, sizeof text, "%.1f %.1f %s", fmax(end->at - now, 0), fmax(end->own - now, 0),
                 end->source);
    setenv(HANDED_ON, text, 1);
}
