#include "worker/tokenizer/pre_split.h"

#include <stdlib.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct PreSplit {
    int count;
    pcre2_code *stages[MOST_SPLIT_STAGES];
    bool compiled[MOST_SPLIT_STAGES]; // to machine code
};

struct PreSplitRunner {
    const PreSplit *split;
    pcre2_match_data
        *match[MOST_SPLIT_STAGES]; // one a stage: an outer one goes on after inner ones
};

PreSplit *pre_split_new(void) {
    PreSplit *split = calloc(1, sizeof *split);
    CHECK_MEMORY(split, "no memory for patterns");
    return split;
}

bool pre_split_add(PreSplit *split, const char *pattern, Error *err) {
    if (split->count == MOST_SPLIT_STAGES)
        return error_set(err, EXIT_DATA, "more than %d patterns one after the other",
                         MOST_SPLIT_STAGES);
    int number;
    size_t offset;
    pcre2_code *code =
        pcre2_compile((PCRE2_SPTR)pattern, strlen(pattern),
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &number, &offset, NULL);
    if (!code) {
        char message[256];
        pcre2_get_error_message(number, (PCRE2_UCHAR *)message, sizeof message);
        return error_set(err, EXIT_DATA, "%s at byte %zu of the pattern (for PCRE2) %.200s",
                         message, offset, pattern);
    }
    uint32_t may_be_empty = 0;
    pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
    if (may_be_empty) {
        pcre2_code_free(code);
        return error_set(err, EXIT_DATA,
                         "the pattern %.200s may match the empty text, which would cut everywhere; "
                         "write + in the place of *",
                         pattern);
    }
    split->compiled[split->count] = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
    split->stages[split->count++] = code;
    return true;
}

void pre_split_free(PreSplit *split) {
    for (int i = 0; split && i < split->count; i++) pcre2_code_free(split->stages[i]);
    free(split);
}

PreSplitRunner *pre_split_runner(const PreSplit *split) {
    PreSplitRunner *runner = calloc(1, sizeof *runner);
    CHECK_MEMORY(runner, "no memory for patterns");
    runner->split = split;
    for (int i = 0; i < split->count; i++) {
        runner->match[i] = pcre2_match_data_create(1, NULL);
        CHECK_MEMORY(runner->match[i], "no memory for patterns");
    }
    return runner;
}

void pre_split_runner_free(PreSplitRunner *runner) {
    for (int i = 0; runner && i < runner->split->count; i++)
        pcre2_match_data_free(runner->match[i]);
    free(runner);
}

// The first match in a text that is known to be valid; where the machine code has too little stack,
// the interpreter goes on. Negative: none, or an error.
static int find_match(const PreSplitRunner *runner, int stage, const uint8_t *text, size_t bytes) {
    const pcre2_code *code = runner->split->stages[stage];
    pcre2_match_data *match = runner->match[stage];
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (runner->split->compiled[stage])
        found = pcre2_jit_match(code, text, bytes, 0, PCRE2_NO_UTF_CHECK, match, NULL);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(code, text, bytes, 0, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, NULL);
    return found;
}

static bool run_stage(const PreSplitRunner *runner, int stage, const uint8_t *text, size_t bytes,
                      PieceFunction *take, void *context, Error *err) {
    if (stage == runner->split->count) {
        take(context, text, bytes);
        return true;
    }
    bool last = stage == runner->split->count - 1;
    const size_t *place = pcre2_get_ovector_pointer(runner->match[stage]);
    for (size_t at = 0; at < bytes;) {
        int found = find_match(runner, stage, text + at, bytes - at);
        if (found < 0 && found != PCRE2_ERROR_NOMATCH)
            return error_set(err, EXIT_DATA,
                             "a pattern takes more than PCRE2 allows (error %d) at a piece of %zu "
                             "bytes; use a simpler pattern, or shorter lines",
                             found, bytes);
        size_t begin = found < 0 ? bytes - at : place[0], end = found < 0 ? begin : place[1];
        const uint8_t *piece = text + at;
        at += end;
        if (last) { // without a call for each word
            if (begin > 0) take(context, piece, begin);
            if (end > begin) take(context, piece + begin, end - begin);
        } else if ((begin > 0 && !run_stage(runner, stage + 1, piece, begin, take, context, err)) ||
                   (end > begin && !run_stage(runner, stage + 1, piece + begin, end - begin, take,
                                              context, err))) {
            return false;
        }
    }
    return true;
}

bool pre_split_run(PreSplitRunner *runner, const uint8_t *text, size_t bytes, PieceFunction *take,
                   void *context, Error *err) {
    return bytes == 0 || run_stage(runner, 0, text, bytes, take, context, err);
}
