#include "worker/tokenizer/normal_form.h"

#include <utf8proc.h>

#include "kernels/check.h"

bool normal_form_may_change(const uint8_t *text, size_t bytes) {
    enum { LEAD_OF_U0300 = 0xCC };
    uint8_t largest = 0;
    for (size_t i = 0; i < bytes; i++) largest = text[i] > largest ? text[i] : largest;
    return largest >= LEAD_OF_U0300;
}

uint8_t *normal_form_compose(const uint8_t *text, size_t bytes, size_t *composed) {
    utf8proc_uint8_t *out = NULL;
    utf8proc_ssize_t count =
        utf8proc_map(text, (utf8proc_ssize_t)bytes, &out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    CHECK_MEMORY(count != UTF8PROC_ERROR_NOMEM, "no memory for %zu bytes in normal form", bytes);
    CHECK(count >= 0, "normal form of %zu bytes: %s", bytes, utf8proc_errmsg(count));
    *composed = (size_t)count;
    return out;
}
