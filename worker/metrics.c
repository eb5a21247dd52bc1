#include "worker/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/log.h"

struct Metrics {
    FILE *file;
    bool failed; // a warning has been printed
};

// Bytes of the leading rows with a step of at most `resumed_step`; a torn last line does not count.
static long kept_bytes(FILE *file, int64_t resumed_step) {
    char *line = NULL;
    size_t room = 0;
    long kept = 0;
    ssize_t length;
    while ((length = getline(&line, &room, file)) > 0) {
        long long step;
        if (line[length - 1] != '\n' || sscanf(line, "{\"step\":%lld", &step) != 1 ||
            step > resumed_step)
            break;
        kept += length;
    }
    free(line);
    return kept;
}

bool metrics_open(Metrics **metrics, const char *run_dir, int64_t resumed_step, Error *err) {
    char path[CONFIG_PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/metrics.jsonl", run_dir);
    FILE *file = fopen(path, "a+");
    if (!file)
        return error_set(err, EXIT_IO, "%s: cannot open for writing: %s", path, strerror(errno));
    rewind(file);
    long kept = kept_bytes(file, resumed_step);
    if (ftruncate(fileno(file), kept) != 0 || fseek(file, 0, SEEK_END) != 0) {
        error_set(err, EXIT_IO, "%s: cannot cut back to step %lld: %s", path,
                  (long long)resumed_step, strerror(errno));
        fclose(file);
        return false;
    }
    Metrics *opened = calloc(1, sizeof *opened);
    CHECK_MEMORY(opened, "no memory for metrics");
    opened->file = file;
    *metrics = opened;
    return true;
}

void metrics_close(Metrics *metrics) {
    if (!metrics) return;
    fclose(metrics->file);
    free(metrics);
}

// JSON has no NaN.
static const char *number(double x, char text[40]) {
    if (isfinite(x))
        snprintf(text, 40, "%.17g", x);
    else
        snprintf(text, 40, "null");
    return text;
}

static void finish_row(Metrics *metrics) {
    if (fflush(metrics->file) == 0 || metrics->failed) return;
    metrics->failed = true;
    log_warn("metrics.jsonl cannot be written (%s); training goes on without", strerror(errno));
}

void metrics_write_step(Metrics *metrics, const StepMetrics *row) {
    if (!metrics) return;
    char loss[40], norm[40], balance[40], z[40];
    fprintf(metrics->file, "{\"step\":%lld,\"loss\":%s,\"gradient_norm\":%s,\"lr\":%.9g",
            (long long)row->step, number(row->loss, loss), number(row->gradient_norm, norm),
            row->lr);
    if (row->moe)
        fprintf(metrics->file,
                ",\"balance_loss\":%s,\"z_loss\":%s,\"drop_rate\":%.9g,\"load_imbalance\":%.9g"
                ",\"router_entropy_nats\":%.9g",
                number(row->balance_loss, balance), number(row->z_loss, z), row->drop_rate,
                row->load_imbalance, row->router_entropy);
    fprintf(metrics->file,
            ",\"tokens\":%lld,\"skipped_steps\":%lld,\"step_ms\":%.4f,\"tokens_per_second\":%.2f"
            ",\"gflops\":%.3f,\"gemm_share\":%.4f,\"eta_seconds\":%.1f}\n",
            (long long)row->tokens, (long long)row->skipped_steps, row->step_seconds * 1e3,
            row->tokens_per_second, row->gflops, row->gemm_share, row->eta_seconds);
    finish_row(metrics);
}

void metrics_write_evaluation(Metrics *metrics, int64_t step, double val_loss, double bits_per_byte,
                              double seconds) {
    if (!metrics) return;
    char loss[40], bits[40];
    fprintf(metrics->file,
            "{\"step\":%lld,\"val_loss\":%s,\"val_bits_per_byte\":%s,\"val_seconds\":%.3f}\n",
            (long long)step, number(val_loss, loss),
            bits_per_byte < 0 ? "null" : number(bits_per_byte, bits), seconds);
    finish_row(metrics);
}

static void format_duration(double seconds, char text[32]) {
    long s = seconds < 0 || seconds > 3.6e6 ? 0 : lround(seconds);
    if (s >= 3600)
        snprintf(text, 32, "%ldh%02ldm", s / 3600, s % 3600 / 60);
    else if (s >= 60)
        snprintf(text, 32, "%ldm%02lds", s / 60, s % 60);
    else
        snprintf(text, 32, "%lds", s);
}

void metrics_format_step(const StepMetrics *row, int64_t last, char *line, size_t bytes) {
    char eta[32], routing[128] = "";
    format_duration(row->eta_seconds, eta);
    if (row->moe)
        snprintf(routing, sizeof routing, " | balance %.3f z %.2f | drop %.1f%% load max/mean %.2f",
                 row->balance_loss, row->z_loss, 100 * row->drop_rate, row->load_imbalance);
    snprintf(
        line, bytes,
        "step %lld/%lld | loss %.4f%s | norm %.3f | lr %.2e | %.1f ms %.0f tok/s | %.1f GFLOP/s "
        "(%.0f%% of GEMM) | eta %s",
        (long long)row->step, (long long)last, row->loss, routing, row->gradient_norm, row->lr,
        1e3 * row->step_seconds, row->tokens_per_second, row->gflops, 100 * row->gemm_share, eta);
    if (row->skipped_steps) {
        size_t used = strlen(line);
        snprintf(line + used, bytes - used, " | %lld steps skipped", (long long)row->skipped_steps);
    }
}
