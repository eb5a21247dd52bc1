// Trains many configurations in one process, for tests that walk through more of them than could be
// started one by one.
//
// train_many --keys: a line for every key: name, type, default, least, most, words (joined by |),
// with tabs between them.
//
// train_many BASE.yaml: reads lines of key=value with tabs between them, trains BASE changed by
// each, and answers a line:
//   trained STEPS LOSS NORM   the last step's; every step's were finite
//   infinite STEPS LOSS NORM  some step's were not
//   refused CODE MESSAGE      by a rule, or in the run
//
// train_many --check BASE.yaml: only asks the rules, and answers `accepted` where they refuse
// nothing.
//
// train_many --generate BASE.yaml: compares what each such model generates (compare_generation.h)
// instead.
//
// Nothing is saved or flushed, no start is noted, no watchdog runs, and the device's speed is not
// measured: that is all that the linker's --wrap (CMakeLists.txt) takes away. A crash ends the
// process after the answers before it.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"
#include "compare_generation.h"
#include "kernels/self_test.h"
#include "launcher/config.h"
#include "launcher/config_print.h"
#include "launcher/config_rules.h"
#include "worker/report.h"
#include "worker/run/starts.h"
#include "worker/save.h"
#include "worker/train.h"

enum { LINE_BYTES = 8192, MOST_OVERRIDES = 64 };

static StepMetrics last;
static int64_t steps;
static bool all_finite;

void __real_report_step(Trainer *trainer, StepMetrics *row);
void __wrap_report_step(Trainer *trainer, StepMetrics *row);
void __wrap_report_step(Trainer *trainer, StepMetrics *row) {
    last = *row;
    steps++;
    all_finite = all_finite && isfinite(row->loss) && isfinite(row->gradient_norm);
    __real_report_step(trainer, row);
}

bool __wrap_save_when_due(Trainer *trainer, Error *err);
bool __wrap_save_when_due(Trainer *trainer, Error *err) {
    (void)trainer, (void)err;
    return true;
}

double __wrap_device_measure_gemm_gflops(const Device *dev, DType storage);
double __wrap_device_measure_gemm_gflops(const Device *dev, DType storage) {
    (void)dev, (void)storage;
    return 1;
}

bool __wrap_starts_write(const Trainer *trainer, Error *err);
bool __wrap_starts_write(const Trainer *trainer, Error *err) {
    (void)trainer, (void)err;
    return true; // it would hash the program
}

int __wrap_fsync(int fd);
int __wrap_fsync(int fd) {
    (void)fd;
    return 0;
}

// Its end waits for its thread's next look.
void __wrap_watchdog_start(double timeout_seconds, double floor_seconds);
void __wrap_watchdog_start(double timeout_seconds, double floor_seconds) {
    (void)timeout_seconds;
    (void)floor_seconds;
}

void __wrap_watchdog_leave(int exit_code);
void __wrap_watchdog_leave(int exit_code) {
    (void)exit_code;
}

static void print_keys(void) {
    static const char *const types[] = {
        [OPTION_INTEGER] = "integer", [OPTION_NUMBER] = "number", [OPTION_RATIONAL] = "rational",
        [OPTION_FLAG] = "flag",       [OPTION_CHOICE] = "choice", [OPTION_WORD] = "word",
        [OPTION_PATH] = "path",       [OPTION_NAMES] = "names",   [OPTION_INTEGERS] = "integers",
        [OPTION_CHOICES] = "choices",
    };
    for (int row = 0; row < config_key_count(); row++) {
        const Option *key = config_key(row);
        bool known = (size_t)key->type < sizeof types / sizeof *types && types[key->type];
        printf("%s\t%s\t%s\t%g\t%g\t", key->name, known ? types[key->type] : "other",
               key->initial ? key->initial : "", key->min, key->max);
        for (int i = 0; key->choices && i < key->choices->count; i++)
            printf("%s%s", i ? "|" : "", choice_row(*key->choices, i)->word);
        printf("\n");
    }
}

typedef enum Verb { TRAIN, CHECK, GENERATE } Verb;

// Answers, unless it is refused.
static int answer(FILE *answers, Verb verb, Config *config, const TrainConfig *resolved,
                  Error *err) {
    if (verb == CHECK) fprintf(answers, "accepted\n");
    if (verb == GENERATE && !compare_generation(answers, resolved, err)) return err->exit_code;
    if (verb != TRAIN) return EXIT_DONE;
    char *yaml = config_to_yaml(config, false);
    KeyRule *rules = config_key_rules(config);
    int code = train_run(resolved, yaml, rules, err);
    if (code == EXIT_DONE)
        fprintf(answers, "%s %lld %.17g %.17g\n", all_finite ? "trained" : "infinite",
                (long long)steps, last.loss, last.gradient_norm);
    free(rules);
    free(yaml);
    return code;
}

static int answer_line(FILE *answers, Verb verb, const char *base, const char *text, size_t bytes,
                       char *line, Error *err) {
    const char *overrides[MOST_OVERRIDES];
    int count = 0;
    for (char *rest = line, *word; (word = strsep(&rest, "\t"));)
        if (*word && count < MOST_OVERRIDES) overrides[count++] = word;
    Config *config = config_new();
    TrainConfig *resolved = calloc(1, sizeof *resolved);
    int code = EXIT_CONFIG;
    if (resolved && config_read(config, base, text, bytes, overrides, count, err) &&
        config_check_ranks(config, comm_size(), resolved, err))
        code = answer(answers, verb, config, resolved, err);
    else
        code = err->exit_code;
    free(resolved);
    free(config);
    return code;
}

static int answer_lines(FILE *answers, Verb verb, const char *base) {
    Error err = {0};
    char *text = NULL, line[LINE_BYTES];
    size_t bytes = 0;
    if (!config_load_text(base, &text, &bytes, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return err.exit_code;
    }
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        err = (Error){0};
        steps = 0;
        all_finite = true;
        int code = answer_line(answers, verb, base, text, bytes, line, &err);
        if (code != EXIT_DONE) fprintf(answers, "refused %d %s\n", code, err.message);
        fflush(answers);
    }
    free(text);
    return 0;
}

int main(int argc, char **argv) {
    Verb verb = argc < 3                             ? TRAIN
                : strcmp(argv[1], "--check") == 0    ? CHECK
                : strcmp(argv[1], "--generate") == 0 ? GENERATE
                                                     : TRAIN;
    if (argc != (verb == TRAIN ? 2 : 3)) return 2;
    if (strcmp(argv[1], "--keys") == 0) {
        print_keys();
        return 0;
    }
    FILE *answers = fdopen(dup(STDOUT_FILENO), "w");
    if (!answers || !freopen("/dev/null", "w", stdout)) return 2; // the log
    comm_init(&argc, &argv);
    int code = answer_lines(answers, verb, argv[argc - 1]);
    comm_finalize();
    return code;
}
