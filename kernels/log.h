// Reporting to people. Rank 0 speaks; the other ranks are silent except for fatal errors (check.h).
// Log output is a convenience: a closed or full stdout never stops training.
// Every message is one line of printable UTF-8, whatever paths, keys and prompts it repeats
// (utf8_make_printable).
#ifndef MOETRAIN_KERNELS_LOG_H
#define MOETRAIN_KERNELS_LOG_H

// Tells the log which rank this process is; before the call every process speaks as rank 0.
void log_set_rank(int rank);
int log_rank(void);

// From now on every line ends with the local time: " | 2026-01-31 17:53:01". For verbs that run
// long.
void log_show_time(void);
// That ending, for lines that are printed elsewhere; empty before log_show_time. Returns `text`.
enum { LOG_TIME_BYTES = 32 };
const char *log_time(char text[LOG_TIME_BYTES]);

// One line to stdout from rank 0; nothing on other ranks. The newline is added.
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
// One line "moetrain: warning: …" to stderr from rank 0.
void log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
// One line "moetrain: error: …" to stderr from rank 0.
void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
