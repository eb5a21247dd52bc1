#include "kernels/check.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/host_memory.h"
#include "kernels/log.h"
#include "kernels/utf8.h"

void (*die_witness)(int exit_code, const char *message) = NULL;
void (*die_hook)(int exit_code) = NULL;

bool error_set(Error *err, ExitCode exit_code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    err->exit_code = (int)exit_code;
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    return false;
}

bool error_prefix(Error *err, const char *format, ...) {
    char prefix[512];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    char whole[sizeof prefix + sizeof err->message + 2];
    snprintf(whole, sizeof whole, "%s: %s", prefix, err->message);
    memcpy(err->message, whole, sizeof err->message - 1); // the longest tail is cut off
    err->message[sizeof err->message - 1] = 0;
    return false;
}

void die(ExitCode exit_code, const char *file, int line, const char *format, ...) {
    char host[256] = "?", message[1536], printable[sizeof message * 4], when[LOG_TIME_BYTES];
    gethostname(host, sizeof host - 1);
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    utf8_make_printable(message, printable, sizeof printable);
    fprintf(stderr, "moetrain: fatal: rank %d on %s: %s (%s:%d)%s\n", log_rank(), host, printable,
            file, line, log_time(when));
    fflush(stderr);
    if (die_witness) die_witness((int)exit_code, message);
    if (die_hook) die_hook((int)exit_code);
    _exit((int)exit_code);
}

void die_without_memory(const char *file, int line, const char *format, ...) {
    char message[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    HostMemory memory = host_memory();
    die(EXIT_IO, file, line,
        "%s; %.1f MiB are free (%s); `moetrain plan` shows what a rank needs; start fewer ranks on "
        "a host, or ask for more memory",
        message, (double)memory.available_bytes / 1048576.0, memory.limit);
}
