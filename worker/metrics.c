#include "worker/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/clock.h"

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

void metrics_write_step(RowFile *rows, const StepMetrics *row) {
    if (!rows) return;
    char loss[40], norm[40], now[CLOCK_UTC_BYTES];
    char figures[STATISTICS_SUMMARIES_MAX * 80], text[sizeof figures + 768], outliers[48] = "";
    if (row->outlier_steps >= 0)
        snprintf(outliers, sizeof outliers, ",\"outlier_steps\":%lld",
                 (long long)row->outlier_steps);
    write_figures(&row->figures, figures, sizeof figures);
    snprintf(text, sizeof text,
             "{\"step\":%lld,\"loss\":%s,\"gradient_norm\":%s,\"lr\":%.9g%s,\"tokens\":%lld"
             ",\"skipped_steps\":%lld%s,\"step_ms\":%.4f,\"tokens_per_second\":%.2f,\"gflops\":%.3f"
             ",\"gemm_share\":%.4f,\"eta_seconds\":%.1f,\"time\":\"%s\"}\n",
             (long long)row->step, number(row->loss, loss), number(row->gradient_norm, norm),
             row->lr, figures, (long long)row->tokens, (long long)row->skipped_steps, outliers,
             row->step_seconds * 1e3, row->tokens_per_second, row->gflops, row->gemm_share,
             row->eta_seconds, clock_utc(now));
    row_file_append(rows, text);
}

void metrics_write_evaluation(RowFile *rows, int64_t step, double val_loss, double bits_per_byte,
                              const Figures *figures, double seconds) {
    if (!rows) return;
    char loss[40], bits[40], now[CLOCK_UTC_BYTES];
    char told[STATISTICS_SUMMARIES_MAX * 80], text[sizeof told + 512];
    write_figures(figures, told, sizeof told);
    snprintf(text, sizeof text,
             "{\"step\":%lld,\"val_loss\":%s,\"val_bits_per_byte\":%s%s,\"val_seconds\":%.3f"
             ",\"time\":\"%s\"}\n",
             (long long)step, number(val_loss, loss),
             bits_per_byte < 0 ? "null" : number(bits_per_byte, bits), told, seconds,
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
    format_figures(row, figures, sizeof figures);
    snprintf(
        line, bytes,
        "step %lld/%lld | loss %.4f%s | norm %.3f | lr %.2e | %.1f ms %.0f tok/s | %.1f GFLOP/s "
        "(%.0f%% of GEMM) | eta %s",
        (long long)row->step, (long long)last, row->loss, figures, row->gradient_norm, row->lr,
        1e3 * row->step_seconds, row->tokens_per_second, row->gflops, 100 * row->gemm_share,
        clock_duration(row->eta_seconds, eta));
    int64_t skipped = row->skipped_steps + (row->outlier_steps > 0 ? row->outlier_steps : 0);
    if (skipped) {
        size_t used = strlen(line);
        snprintf(line + used, bytes - used, " | %lld steps skipped", (long long)skipped);
    }
}
