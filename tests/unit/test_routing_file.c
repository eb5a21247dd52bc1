// A file of routing gives back what was written, and whatever becomes of it, or of the process that
// has it open, is a message with the exit code.
#include "checkpoint/routing_file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint/routing_process.h"
#include "launcher/supervisor/process_tree.h"

enum { TOKENS = 4, TOP_K = 2, EXPERTS = 3, STEPS = 3, CHOICES = TOKENS * TOP_K };
static const RoutingLayer layers[] = {{EXPERTS, TOP_K}, {0}, {EXPERTS, TOP_K}};
static const RoutingShape shape = {3, layers, 1, TOKENS};

static char path[] = "/tmp/test_routing_file.XXXXXX";

// The ids of the two layers with experts.
typedef struct Step {
    int32_t first[CHOICES], third[CHOICES];
    Tensor of[3];
} Step;

static void fill(Step *step, int64_t number) {
    for (int i = 0; i < CHOICES; i++) {
        step->first[i] = (int32_t)(number + i) % EXPERTS;
        step->third[i] = (int32_t)(number + i / 2) % EXPERTS;
    }
    step->of[0] = tensor_2d(step->first, I32, TOKENS, TOP_K);
    step->of[1] = (Tensor){0};
    step->of[2] = tensor_2d(step->third, I32, TOKENS, TOP_K);
}

static void write_step(RoutingFile *file, int64_t number) {
    Step step;
    Error err = {0};
    fill(&step, number);
    if (!routing_file_write(file, number, step.of, &err)) fail_msg("%s", err.message);
}

static RoutingFile *record(int64_t after) {
    RoutingFile *file = NULL;
    Error err = {0};
    if (!routing_file_record(&file, path, "/run", shape, after, &err)) fail_msg("%s", err.message);
    return file;
}

static int record_all(void **state) {
    (void)state;
    unlink(path);
    RoutingFile *file = record(0);
    for (int64_t step = 1; step <= STEPS; step++) write_step(file, step);
    routing_file_close(file);
    return 0;
}

static RoutingFile *replay(void) {
    RoutingFile *file = NULL;
    Error err = {0};
    if (!routing_file_replay(&file, path, shape, 0, STEPS, &err)) fail_msg("%s", err.message);
    return file;
}

static void assert_reads(RoutingFile *file, int64_t number) {
    Step wanted, read;
    Error err = {0};
    fill(&wanted, number);
    fill(&read, 0);
    if (!routing_file_read(file, number, read.of, &err)) fail_msg("%s", err.message);
    assert_memory_equal(read.first, wanted.first, sizeof read.first);
    assert_memory_equal(read.third, wanted.third, sizeof read.third);
}

static void what_was_written_is_read_in_any_order(void **state) {
    (void)state;
    RoutingFile *file = replay();
    for (int64_t step = STEPS; step >= 1; step--) assert_reads(file, step);
    assert_reads(file, 2);
    routing_file_close(file);
    file = record(1); // steps 2 and 3 once more
    write_step(file, 2);
    write_step(file, 3);
    routing_file_close(file);
    file = replay();
    assert_reads(file, 3);
    routing_file_close(file);
    assert_int_equal(process_tree_signal(0), 0); // and none is left
}

// What a request to stop, a crash of HDF5, HDF5 in a circle, and the lack of memory do to it.
static void however_its_process_ends_is_a_message(void **state) {
    (void)state;
    static const struct {
        int number;
        ExitCode exit_code;
        const char *words;
    } ends[] = {{SIGSEGV, EXIT_CHECKPOINT, "is damaged"},
                {SIGABRT, EXIT_CHECKPOINT, "record it again"},
                {SIGXCPU, EXIT_CHECKPOINT, "not come to an end"},
                {SIGKILL, EXIT_IO, "was killed"}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        RoutingFile *file = replay();
        Step step;
        Error err = {0};
        fill(&step, 0);
        assert_int_equal(process_tree_signal(SIGTERM), 1); // which it does not hear
        assert_int_equal(process_tree_signal(SIGINT), 1);
        assert_reads(file, 1);
        assert_int_equal(process_tree_signal(ends[i].number), 1);
        assert_false(routing_file_read(file, 2, step.of, &err));
        assert_int_equal(err.exit_code, ends[i].exit_code);
        if (!strstr(err.message, path) || !strstr(err.message, ends[i].words))
            fail_msg("%s", err.message);
        assert_false(routing_file_read(file, 2, step.of, &err)); // and does not wait for it
        routing_file_close(file);
    }
    RoutingFile *file = record(STEPS);
    Step step;
    Error err = {0};
    fill(&step, 4);
    assert_int_equal(process_tree_signal(SIGSEGV), 1);
    assert_false(routing_file_write(file, 4, step.of, &err));
    assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
    routing_file_close(file);
}

// Changes the byte `offset` bytes behind the first place of `pattern` in the file.
static void change(const void *pattern, size_t bytes, long offset, int value) {
    static char content[1 << 16];
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    size_t all = fread(content, 1, sizeof content, file);
    const char *place = memmem(content, all, pattern, bytes);
    assert_non_null(place);
    assert_int_equal(fseek(file, place - content + offset, SEEK_SET), 0);
    assert_int_equal(fputc(value, file), value);
    fclose(file);
}

// Structures that HDF5 1.10 believes: it reads behind what it has in memory, to garbage or a crash.
static void structures_of_another_size_are_refused(void **state) {
    static const uint32_t steps[] = {1024, 8}, ids[] = {1, 1, TOKENS, TOP_K, 2}; // chunks
    static const struct {
        const void *pattern;
        size_t bytes;
        long offset;
        int value;
        const char *words;
    } damages[] = {
        {"experts", 8, -3, 0xFF, ""},     // how long the type of an attribute is
        {steps, sizeof steps, -9, 0, ""}, // axes of a chunk: it divides by what they hold
        {steps, sizeof steps, 2, 1, "steps do not follow"},
        {ids, sizeof ids, 13, 4, "cannot be read"}};
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        RoutingFile *file = NULL;
        Step step;
        Error err = {0};
        record_all(state);
        change(damages[i].pattern, damages[i].bytes, damages[i].offset, damages[i].value);
        fill(&step, 0);
        assert_false(routing_file_replay(&file, path, shape, 0, STEPS, &err) &&
                     routing_file_read(file, 1, step.of, &err));
        routing_file_close(file);
        assert_int_equal(err.exit_code, EXIT_CHECKPOINT);
        if (!strstr(err.message, path) || !strstr(err.message, damages[i].words))
            fail_msg("%s", err.message);
    }
}

// Bytes all over the file: refused with exit 4, or what is read are experts. Which it is, the file
// cannot tell: the early format of HDF5 has no checksums of its own structures.
static void a_damaged_file_is_refused_or_read(void **state) {
    int refused = 0;
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (off_t place = 8; place < info.st_size; place += info.st_size / 37) {
        record_all(state);
        int fd = open(path, O_WRONLY);
        assert_int_equal(pwrite(fd, "\xFF\xFF\xFF\x7F", 4, place), 4);
        close(fd);
        RoutingFile *file = NULL;
        Step step;
        Error err = {0};
        fill(&step, 0);
        bool ok = routing_file_replay(&file, path, shape, 0, STEPS, &err);
        for (int64_t number = 1; ok && number <= STEPS; number++)
            ok = routing_file_read(file, number, step.of, &err);
        routing_file_close(file);
        refused += !ok;
        if (!ok && (err.exit_code != EXIT_CHECKPOINT || !strstr(err.message, path)))
            fail_msg("byte %lld: exit code %d: %s", (long long)place, err.exit_code, err.message);
    }
    assert_true(refused > 3);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

int main(int argc, char **argv) {
    if (routing_process_asked(argc, argv)) return routing_process_run();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_was_written_is_read_in_any_order, record_all),
        cmocka_unit_test_setup(however_its_process_ends_is_a_message, record_all),
        cmocka_unit_test_setup(structures_of_another_size_are_refused, record_all),
        cmocka_unit_test_setup(a_damaged_file_is_refused_or_read, record_all),
    };
    close(mkstemp(path));
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
