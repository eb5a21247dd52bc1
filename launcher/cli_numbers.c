#include "launcher/cli_numbers.h"

#include <stdlib.h>
#include <string.h>

bool whole_number(const char *text, int64_t least, int64_t most, int64_t *value) {
    if (!text[0] || text[strspn(text, "0123456789")] || strlen(text) > 18) return false;
    *value = strtoll(text, NULL, 10);
    return *value >= least && *value <= most;
}

bool number(const char *text, double least, double most, double *value) {
    char *end;
    if (!text[0] || text[strspn(text, "0123456789.eE+-")]) return false;
    *value = strtod(text, &end);
    return *end == '\0' && *value >= least && *value <= most;
}
