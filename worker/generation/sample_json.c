#include "worker/generation/sample_json.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/utf8.h"

static json_t *json_of(const char *text, size_t bytes) {
    static const char replacement[] = "\xEF\xBF\xBD"; // U+FFFD
    char *whole = malloc(3 * bytes + 1);
    CHECK_MEMORY(whole, "no memory for %zu bytes of text", 3 * bytes);
    size_t count = 0;
    for (size_t at = 0; at < bytes;) {
        int32_t code_point;
        int length = utf8_decode((const uint8_t *)text + at, bytes - at, &code_point);
        const char *from = length > 0 ? text + at : replacement;
        size_t taken = length > 0 ? (size_t)length : 3;
        memcpy(whole + count, from, taken);
        count += taken;
        at += length > 0 ? (size_t)length : 1;
    }
    json_t *string = json_stringn(whole, count);
    free(whole);
    return string;
}

static void add_ms(json_t *object, const char *key, double ms) {
    json_object_set_new(object, key, isfinite(ms) ? json_real(ms) : json_null());
}

char *sample_json(Sample sample) {
    json_t *tokens = json_array(), *logprobs = sample.logprobs ? json_array() : NULL;
    for (int64_t i = 0; i < sample.count; i++) {
        json_array_append_new(tokens, json_integer(sample.tokens[i]));
        if (logprobs) json_array_append_new(logprobs, json_real(sample.logprobs[i]));
    }
    json_t *object =
        json_pack("{so so so so* ss}", "prompt", json_of(sample.prompt, strlen(sample.prompt)),
                  "text", json_of(sample.text, sample.text_bytes), "tokens", tokens, "logprobs",
                  logprobs, "finish_reason", sample.finish_reason);
    CHECK_MEMORY(object, "no memory for a line of JSON");
    if (sample.times) {
        add_ms(object, "first_token_ms", token_times_first_ms(sample.times));
        add_ms(object, "token_ms", token_times_later_ms(sample.times));
    }
    // Nine digits are those of an f32, which the numbers are.
    char *line = json_dumps(object, JSON_REAL_PRECISION(9));
    CHECK_MEMORY(line, "no memory for a line of JSON");
    json_decref(object);
    return line;
}
