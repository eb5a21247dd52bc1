#include "kernels/option.h"

#include <stdarg.h>
#include <stdio.h>

bool option_broken(const OptionRules *rules, const char *key, const char *other, const char *format,
                   ...) {
    char message[1024], place[CONFIG_PATH_BYTES + 32];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    if (!rules->is_given(rules, key)) key = other && rules->is_given(rules, other) ? other : NULL;
    rules->place(rules, key, place, sizeof place);
    return error_set(rules->err, EXIT_CONFIG, "%.400s: %s", place, message);
}

void option_list_divisors(int64_t n, int64_t m, char list[160]) {
    size_t used = 0;
    int count = 0;
    for (int64_t d = 1; d <= n && count < 12; d++) {
        if (n % d != 0 || m % d != 0) continue;
        used +=
            (size_t)snprintf(list + used, 160 - used, "%s%lld", count++ ? ", " : "", (long long)d);
    }
}

void option_list_multiples(int64_t n, int64_t most, char list[160]) {
    size_t used = 0;
    list[0] = 0;
    for (int count = 0; n <= most && count < 12; n *= 2)
        used +=
            (size_t)snprintf(list + used, 160 - used, "%s%lld", count++ ? ", " : "", (long long)n);
}
