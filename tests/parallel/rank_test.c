#include "rank_test.h"

#include <stdarg.h>
#include <stdio.h>

#include "comm/comm.h"

enum { PRINTED_FAILURES = 5 };

static int failures; // of this rank, in the current test

void rank_test_fail(const char *file, int line, const char *condition, const char *format, ...) {
    if (failures++ >= PRINTED_FAILURES) return;
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "rank %d: %s:%d: not %s: %s\n", comm_rank(), file, line, condition, text);
}

int rank_tests_run(int argc, char **argv, const RankTest *tests, int count) {
    comm_init(&argc, &argv);
    int failed = 0;
    for (int i = 0; i < count; i++) {
        failures = 0;
        tests[i].run();
        Error err = {0};
        if (failures > 0)
            error_set(&err, EXIT_COMMUNICATION, "rank %d counts %d", comm_rank(), failures);
        bool ok = comm_agree(failures == 0, &err);
        if (!ok) failed++;
        if (comm_rank() == 0)
            printf("%s  %s%s%s\n", ok ? "ok    " : "FAILED", tests[i].sentence, ok ? "" : ": ",
                   err.message);
    }
    if (comm_rank() == 0) printf("%d ranks, %d tests, %d failed\n", comm_size(), count, failed);
    comm_finalize();
    return failed > 0;
}
