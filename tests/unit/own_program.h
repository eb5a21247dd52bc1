// A program of the test's own in a folder of its PATH, instead of one that is not here or says what
// it likes. For cmocka tests.
#ifndef MOETRAIN_TESTS_UNIT_OWN_PROGRAM_H
#define MOETRAIN_TESTS_UNIT_OWN_PROGRAM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>

#include <cmocka.h>

static inline void program_says(const char *folder, const char *name, const char *script) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fprintf(file, "#!/bin/sh\n%s\n", script);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, 0755), 0);
}

#endif
