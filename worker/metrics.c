#include "worker/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/clock.h"

enum { QUOTED_BYTES = 2 * 255 + 3 }; // of the name of a file

bool metrics_open(RowFile **rows, const char *run_dir, int64_t resumed_step, Error *err) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    return row_file_open(rows, path, resumed_step, err);
}

// JSON has no NaN.
static const char *digits(double x, int count, char text[40]) {
    if (isfinite(x))
        snprintf(text, 40, "%.*g", count, x);
    else
        snprintf(text, 40, "null");
    return text;
}
static const char *number(double x, char text[40]) {
    return digits(x, 17, text);
}

// `,"field":value` of each figure.
static void write_figures(const Figures *figures, char *text, size_t bytes) {
    char value[40];
    text[0] = 0;
    for (int i = 0; i < figures->count; i++) {
        const Summary *summary = figures->of[i].summary;
        size_t used = strlen(text);
        snprintf(text + used, bytes - used, ",\"%s\":%s", summary->field,
                 digits(figures->of[i].value, summary->digits, value));
    }
}

// A name of the configuration, which has no control characters, as a string of JSON.
static void quote(const char *name, char quoted[QUOTED_BYTES]) {
    size_t used = 0;
    quoted[used++] = '"';
    for (; *name && used + 3 < QUOTED_BYTES; name++) {
        if (*name == '"' || *name == '\\') quoted[used++] = '\\';
        quoted[used++] = *name;
    }
    quoted[used++] = '"';
    quoted[used] = '\0';
}

// `,"field":{"name":value, …}` of the sources of a mix.
static void write_of_sources(const StepMetrics *row, const char *field, const double *values,
                             int count, char *text, size_t bytes) {
    char name[QUOTED_BYTES], value[40];
    size_t used = strlen(text);
    if (row->sources == 0) return;
    used += (size_t)snprintf(text + used, bytes - used, ",\"%s\":{", field);
    for (int s = 0; s < row->sources; s++) {
        quote(row->source_names[s], name);
        used += (size_t)snprintf(text + used, bytes - used, "%s%s:%s", s == 0 ? "" : ",", name,
                                 digits(values[s], count, value));
    }
    snprintf(text + used, bytes - used, "}");
}

static void write_sources(const StepMetrics *row, char *text, size_t bytes) {
    text[0] = 0;
    write_of_sources(row, "source_loss", row->source_losses, 17, text, bytes);
    if (!row->source_loads) return;
    write_of_sources(row, "source_load_imbalance", row->source_imbalances, 9, text, bytes);
    write_of_sources(row, "source_load_distance", row->source_distances, 9, text, bytes);
}

// `,"step_parts_ms":{"compute":1.5, …}`.
static void write_parts(const StepMetrics *row, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = 0;
    if (step_parts_sum(row->parts) == 0) return;
    for (int i = 0; i < STEP_PARTS && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, "%s\"%s\":%.4f%s",
                                 i == 0 ? ",\"step_parts_ms\":{" : ",", STEP_PART_NAMES[i],
                                 1e3 * row->parts[i], i + 1 == STEP_PARTS ? "}" : "");
}

void metrics_write_step(RowFile *rows, const StepMetrics *row) {
    if (!rows) return;
    char loss[40], norm[40], now[CLOCK_UTC_BYTES];
    char figures[STATISTICS_SUMMARIES_MAX * 80],
        sources[3 * DATA_SOURCES_MAX * (QUOTED_BYTES + 64)];
    char text[sizeof figures + sizeof sources + 1024], outliers[96] = "";
    if (row->outlier_steps >= 0)
        snprintf(outliers, sizeof outliers, ",\"outlier_steps\":%lld",
                 (long long)row->outlier_steps);
    if (row->rollbacks >= 0) {
        size_t used = strlen(outliers);
        snprintf(outliers + used, sizeof outliers - used, ",\"rollbacks\":%lld",
                 (long long)row->rollbacks);
    }
    char slowest[80] = "";
    if (row->slowest_score > 0)
        snprintf(slowest, sizeof slowest, ",\"slowest_rank\":%d,\"slowest_score\":%.4f",
                 row->slowest_rank, row->slowest_score);
    char parts[STEP_PARTS * 40];
    write_parts(row, parts, sizeof parts);
    write_figures(&row->figures, figures, sizeof figures);
    write_sources(row, sources, sizeof sources);
    snprintf(text, sizeof text,
             "{\"step\":%lld,\"loss\":%s,\"gradient_norm\":%s,\"lr\":%.9g%s%s,\"tokens\":%lld"
             ",\"skipped_steps\":%lld%s,\"step_ms\":%.4f,\"tokens_per_second\":%.2f,\"gflops\":%.3f"
             ",\"gemm_share\":%.4f%s%s,\"eta_seconds\":%.1f,\"time\":\"%s\"}\n",
             (long long)row->step, number(row->loss, loss), number(row->gradient_norm, norm),
             row->lr, figures, sources, (long long)row->tokens, (long long)row->skipped_steps,
             outliers, row->step_seconds * 1e3, row->tokens_per_second, row->gflops,
             row->gemm_share, slowest, parts, row->eta_seconds, clock_utc(now));
    row_file_append(rows, text);
}

void metrics_write_evaluation(RowFile *rows, int64_t step, const char *set, double val_loss,
                              double bits_per_byte, const Figures *figures, int64_t tokens,
                              double seconds) {
    if (!rows) return;
    char quoted[QUOTED_BYTES], named[sizeof quoted + 20] = "";
    quote(set, quoted);
    if (set[0]) snprintf(named, sizeof named, ",\"validation\":%s", quoted);
    char loss[40], bits[40], now[CLOCK_UTC_BYTES];
    char told[STATISTICS_SUMMARIES_MAX * 80], text[sizeof told + sizeof named + 512];
    write_figures(figures, told, sizeof told);
    snprintf(text, sizeof text,
             "{\"step\":%lld%s,\"val_loss\":%s,\"val_bits_per_byte\":%s%s,\"val_tokens\":%lld"
             ",\"val_seconds\":%.9g,\"time\":\"%s\"}\n",
             (long long)step, named, number(val_loss, loss),
             bits_per_byte < 0 ? "null" : number(bits_per_byte, bits), told, (long long)tokens,
             seconds, clock_utc(now));
    row_file_append(rows, text);
}

void metrics_write_rollback(RowFile *rows, int64_t step, int64_t spike, int64_t batches,
                            int64_t times) {
    if (!rows) return;
    char text[256], now[CLOCK_UTC_BYTES];
    snprintf(text, sizeof text,
             "{\"step\":%lld,\"spike_step\":%lld,\"skipped_batches\":%lld,\"rollbacks\":%lld"
             ",\"time\":\"%s\"}\n",
             (long long)step, (long long)spike, (long long)batches, (long long)times,
             clock_utc(now));
    row_file_append(rows, text);
}

static void format_figures(const StepMetrics *row, char *text, size_t bytes) {
    text[0] = 0;
    for (int i = 0; i < row->figures.count; i++) {
        const Summary *summary = row->figures.of[i].summary;
        size_t used = strlen(text);
        if (!summary->line.before) continue;
        snprintf(text + used, bytes - used, "%s%.*f%s", summary->line.before,
                 summary->line.decimals,
                 row->figures.of[i].value * (summary->line.percent ? 100 : 1),
                 summary->line.percent ? "%" : "");
    }
}

void metrics_format_step(const StepMetrics *row, int64_t last, char *line, size_t bytes) {
    char eta[CLOCK_DURATION_BYTES], figures[STATISTICS_SUMMARIES_MAX * 80];
    char loss[40] = "none, without targets";
    format_figures(row, figures, sizeof figures);
    if (!row->untargeted) snprintf(loss, sizeof loss, "%.4f", row->loss);
    snprintf(line, bytes,
             "step %lld/%lld | loss %s%s | norm %.3f | lr %.2e | %.1f ms %.0f tok/s | %.1f GFLOP/s "
             "(%.0f%% of GEMM) | eta %s",
             (long long)row->step, (long long)last, loss, figures, row->gradient_norm, row->lr,
             1e3 * row->step_seconds, row->tokens_per_second, row->gflops, 100 * row->gemm_share,
             clock_duration(row->eta_seconds, eta));
    bool outliers = row->outlier_steps > 0 && !row->outliers_applied;
    int64_t skipped = row->skipped_steps + (outliers ? row->outlier_steps : 0);
    if (skipped) {
        size_t used = strlen(line);
        snprintf(line + used, bytes - used, " | %lld steps skipped", (long long)skipped);
    }
}
