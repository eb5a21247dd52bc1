#include "kernels/log.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "kernels/utf8.h"

static int the_rank = 0;
static bool time_shown = false;

void log_set_rank(int rank) {
    the_rank = rank;
}
int log_rank(void) {
    return the_rank;
}
void log_show_time(void) {
    time_shown = true;
}

const char *log_time(char text[LOG_TIME_BYTES]) {
    time_t now = time(NULL);
    struct tm local;
    text[0] = 0;
    if (time_shown && localtime_r(&now, &local))
        strftime(text, LOG_TIME_BYTES, " | %Y-%m-%d %H:%M:%S", &local);
    return text;
}

static void print_line(FILE *out, const char *prefix, const char *format, va_list args) {
    if (the_rank != 0) return;
    char line[4096], printable[sizeof line * 4], when[LOG_TIME_BYTES];
    vsnprintf(line, sizeof line, format, args);
    utf8_make_printable(line, printable, sizeof printable); // whatever names and values it holds
    // A failed write is ignored on purpose (see log.h).
    fprintf(out, "%s%s%s\n", prefix, printable, log_time(when));
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
