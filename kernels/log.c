#include "kernels/log.h"

#include <stdarg.h>
#include <stdio.h>

#include "kernels/utf8.h"

static int the_rank = 0;

void log_set_rank(int rank) { the_rank = rank; }
int log_rank(void) { return the_rank; }

static void print_line(FILE *out, const char *prefix, const char *format, va_list args) {
    if (the_rank != 0) return;
    char line[4096], printable[sizeof line * 4];
    vsnprintf(line, sizeof line, format, args);
    utf8_make_printable(line, printable, sizeof printable); // whatever names and values it holds
    fprintf(out, "%s%s\n", prefix, printable); // a failed write is ignored on purpose (see log.h)
    fflush(out);
}

void log_info(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line(stdout, "", format, args);
    va_end(args);
}

void log_warn(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line(stderr, "moetrain: warning: ", format, args);
    va_end(args);
}

void log_error(const char *format, ...) {
    va_list args;
    va_start(args, format);
    print_line(stderr, "moetrain: error: ", format, args);
    va_end(args);
}
