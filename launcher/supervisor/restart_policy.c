#include "launcher/supervisor/restart_policy.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "kernels/check.h"

typedef struct PolicyRow {
    int first, last; // exit codes
    Action action;
    const char *meaning;
} PolicyRow;

static const PolicyRow POLICY[] = {
    {EXIT_DONE, EXIT_DONE, ACTION_LEAVE, "done"},
    {1, 1, ACTION_RESTART, "the launcher was stopped, or could not start ranks"},
    {EXIT_CONFIG, EXIT_CONFIG, ACTION_LEAVE, "the configuration is refused"},
    {EXIT_DATA, EXIT_DATA, ACTION_LEAVE, "the data are refused"},
    {EXIT_CHECKPOINT, EXIT_CHECKPOINT, ACTION_LEAVE, "no checkpoint can be used"},
    {EXIT_IO, EXIT_IO, ACTION_WAIT_FOR_SPACE, "input/output or memory"},
    {EXIT_NUMERIC, EXIT_NUMERIC, ACTION_GO_BACK, "steps that are not finite, or a damaged state"},
    {EXIT_COMMUNICATION, EXIT_COMMUNICATION, ACTION_RESTART, "a lost rank, a network or a device"},
    {EXIT_HANG, EXIT_HANG, ACTION_RESTART, "a hang"},
    {EXIT_LOCKED, EXIT_LOCKED, ACTION_LEAVE, "another job trains here"},
    {EXIT_BUG, EXIT_BUG, ACTION_LEAVE, "a bug of the program"},
    {EXIT_REQUEUE, EXIT_REQUEUE, ACTION_LEAVE, "saved on a signal"},
    {126, 127, ACTION_LEAVE, "the launcher's command cannot be run"},
    {128, 255, ACTION_RESTART, "a rank, its launcher or its host was lost"},
};
enum { POLICY_ROWS = sizeof POLICY / sizeof *POLICY };

static const PolicyRow UNKNOWN = {0, 0, ACTION_LEAVE, "an exit code that is not the program's"};
// Who holds a lock without answering may be dead, which shows with time; and who lives may be a
// rank of the start before, on a host that is cut off.
static const PolicyRow NOT_ANSWERED = {0, 0, ACTION_RESTART,
                                       "another job holds the run directory and does not answer"};
static const PolicyRow NOT_GONE = {0, 0, ACTION_RESTART,
                                   "ranks of the start before still hold the run directory"};
static const PolicyRow ASKED = {0, 0, ACTION_LEAVE, "asked to stop"};
static const PolicyRow OUT_OF_TIME = {0, 0, ACTION_LEAVE, "saved before the time limit"};

const char *action_name(Action action) {
    static const char *const names[] = {[ACTION_LEAVE] = "leave",
                                        [ACTION_RESTART] = "restart",
                                        [ACTION_WAIT_FOR_SPACE] = "wait for space",
                                        [ACTION_GO_BACK] = "go back"};
    return names[action];
}

static const PolicyRow *find_row(const AttemptEnd *end) {
    if (end->asked) return &ASKED;
    if (end->out_of_time) return &OUT_OF_TIME;
    if (end->exit_code == EXIT_REQUEUE && !end->told) return &NOT_ANSWERED;
    if (end->exit_code == EXIT_LOCKED && !end->first) return &NOT_GONE;
    for (int row = 0; row < POLICY_ROWS; row++)
        if (end->exit_code >= POLICY[row].first && end->exit_code <= POLICY[row].last)
            return &POLICY[row];
    return &UNKNOWN;
}

static double wait_seconds(int fruitless, double first) {
    return fmin(first * pow(2, fruitless > 1 ? fruitless - 1 : 0), MOST_WAIT_SECONDS);
}

Decision restart_decide(Progress *progress, const AttemptEnd *end, double first_wait_seconds) {
    const PolicyRow *row = find_row(end);
    Decision decision = {.action = row->action};
    snprintf(decision.reason, sizeof decision.reason, "%s", row->meaning);
    if (row->action == ACTION_LEAVE) return decision;
    if (row == &NOT_ANSWERED || row == &NOT_GONE) {
        decision.wait_seconds = fmin(HELD_TIMES * first_wait_seconds, MOST_WAIT_SECONDS);
        return decision;
    }

    bool newer = end->saved_step > progress->saved_step;
    bool stepped = end->step >= 0 && end->step > end->first_step;
    bool same_step = stepped && end->step == progress->failed_step;
    progress->fruitless = newer ? 0 : progress->fruitless + 1;
    progress->saved_step = end->saved_step;
    progress->failed_step = stepped ? end->step : -1;
    decision.wait_seconds = wait_seconds(progress->fruitless, first_wait_seconds);
    if (same_step)
        snprintf(decision.reason, sizeof decision.reason,
                 "%s, twice after step %lld: what ends it there will do so again", row->meaning,
                 (long long)end->step);
    else if (progress->fruitless >= MOST_FRUITLESS)
        snprintf(decision.reason, sizeof decision.reason,
                 "%s; %d starts in a row have left no newer checkpoint", row->meaning,
                 MOST_FRUITLESS);
    if (same_step || progress->fruitless >= MOST_FRUITLESS) decision.action = ACTION_LEAVE;
    return decision;
}
