// A test program that runs on several ranks: mpirun -np N check_X. Rank 0 prints one line a test;
// any rank's failure is everybody's, and all ranks leave with the same exit code.
#ifndef MOETRAIN_TESTS_PARALLEL_RANK_TEST_H
#define MOETRAIN_TESTS_PARALLEL_RANK_TEST_H

#include <stdbool.h>

typedef struct RankTest {
    const char *sentence; // what holds when it passes
    void (*run)(void);    // collective over all ranks
} RankTest;

// Starts MPI, runs the tests in order, ends MPI. Returns the program's exit code. Collective over
// all ranks.
int rank_tests_run(int argc, char **argv, const RankTest *tests, int count);

// Counts and, the first few times in a test, prints a failure. The test goes on, since others wait
// in collectives.
void rank_test_fail(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define EXPECT(condition, ...)                                                                     \
    do {                                                                                           \
        if (!(condition)) rank_test_fail(__FILE__, __LINE__, #condition, __VA_ARGS__);             \
    } while (0)

#endif
