#include "launcher/scale/scale_table.h"

#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/file_io.h"

static bool is_known(const ScalePoint *point) {
    return isfinite(point->step_ms);
}

static const ScalePoint *first_of(const ScalePoint *points, int count, bool even) {
    for (int i = 0; i < count; i++)
        if (points[i].even == even) return is_known(&points[i]) ? &points[i] : NULL;
    return NULL;
}

void scale_find_losses(ScalePoint *points, int count) {
    for (int i = 0; i < count; i++) {
        ScalePoint *point = &points[i];
        const ScalePoint *first = first_of(points, count, point->even);
        if (!first || !is_known(point)) continue;
        // The step of the first point, were its batch and its ranks those of this one.
        double scale = (double)point->batch / (double)first->batch * first->ranks / point->ranks;
        double ideal_ms = first->step_ms * scale;
        point->efficiency = ideal_ms / point->step_ms;
        for (int p = 0; p < STEP_PARTS; p++)
            point->lost[p] = point->parts[p] - first->parts[p] * point->efficiency;
    }
}

// ---- for people ---------------------------------------------------------------------------------

static const char *routing_name(const ScalePoint *point) {
    return point->even ? "even" : "learned";
}

void scale_print_table(FILE *out, const ScalePoint *points, int count) {
    fputs("| ranks | routing | batch | ms a step | 10 to 90 % | tokens/s | efficiency, % | lost, %:"
          " computing | imbalance | waiting | exchange | reduction | other | runs |\n|",
          out);
    for (int i = 0; i < 14; i++) fputs(i == 1 ? "---|" : "--:|", out);
    fputc('\n', out);
    for (int i = 0; i < count; i++) {
        const ScalePoint *point = &points[i];
        fprintf(out, "| %d | %s | %lld |", point->ranks, routing_name(point),
                (long long)point->batch);
        if (is_known(point))
            fprintf(out, " %.2f | %.2f–%.2f | %.0f |", point->step_ms, point->low_ms,
                    point->high_ms, point->tokens_per_second);
        else
            fputs(" – | – | – |", out);
        if (isfinite(point->efficiency)) {
            fprintf(out, " %.1f |", 100 * point->efficiency);
            for (int p = 0; p < STEP_PARTS; p++) fprintf(out, " %.1f |", 100 * point->lost[p]);
        } else {
            for (int p = 0; p <= STEP_PARTS; p++) fputs(" – |", out);
        }
        fprintf(out, " %d%s |\n", point->runs, point->failed ? ", and some failed" : "");
    }
}

static int largest_loss(const ScalePoint *point) {
    int largest = 0;
    for (int p = 1; p < STEP_PARTS; p++)
        if (point->lost[p] > point->lost[largest]) largest = p;
    return largest;
}

static const ScalePoint *last_known(const ScalePoint *points, int count, bool even) {
    for (int i = count - 1; i >= 0; i--)
        if (points[i].even == even && isfinite(points[i].efficiency)) return &points[i];
    return NULL;
}

void scale_print_conclusion(FILE *out, const ScalePoint *points, int count) {
    static const char *const losses[STEP_PARTS] = {
        "slower computing", "imbalance", "waiting in turns", "exchange", "reduction", "other"};
    const ScalePoint *last = last_known(points, count, false),
                     *even = last_known(points, count, true);
    const ScalePoint *first = first_of(points, count, false);
    if (!last || !first || last == first) {
        fputs("too few points ended for a conclusion\n", out);
        return;
    }
    int most = largest_loss(last);
    fprintf(out, "%d ranks do %.2f times the work of %d in a second (efficiency %.0f %%)",
            last->ranks, last->tokens_per_second / first->tokens_per_second, first->ranks,
            100 * last->efficiency);
    if (last->lost[most] > 0.005)
        fprintf(out, "; most is lost to %s (%.0f %%)", losses[most], 100 * last->lost[most]);
    if (even && even->ranks == last->ranks)
        fprintf(out, "; with even routing %.0f %%", 100 * even->efficiency);
    fputc('\n', out);
}

// ---- files --------------------------------------------------------------------------------------

// An unknown number is an empty field.
static void print_number(FILE *out, double value) {
    if (isfinite(value))
        fprintf(out, ",%.9g", value);
    else
        fputc(',', out);
}

static char *csv_of(const ScalePoint *points, int count, size_t *bytes) {
    char *text = NULL;
    FILE *out = open_memstream(&text, bytes);
    CHECK_MEMORY(out, "out of memory");
    fputs("ranks,routing,batch,experts,runs,failed,step_ms,step_ms_p10,step_ms_p90,"
          "tokens_per_second,efficiency",
          out);
    for (int p = 0; p < STEP_PARTS; p++) fprintf(out, ",%s", STEP_PART_NAMES[p]);
    for (int p = 0; p < STEP_PARTS; p++) fprintf(out, ",lost_%s", STEP_PART_NAMES[p]);
    fputc('\n', out);
    for (int i = 0; i < count; i++) {
        const ScalePoint *point = &points[i];
        fprintf(out, "%d,%s,%lld,%lld,%d,%d", point->ranks, routing_name(point),
                (long long)point->batch, (long long)point->experts, point->runs, point->failed);
        const double numbers[] = {point->step_ms, point->low_ms, point->high_ms,
                                  point->tokens_per_second, point->efficiency};
        for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) print_number(out, numbers[n]);
        for (int p = 0; p < STEP_PARTS; p++) print_number(out, point->parts[p]);
        for (int p = 0; p < STEP_PARTS; p++)
            print_number(out, isfinite(point->efficiency) ? point->lost[p] : NAN);
        fputc('\n', out);
    }
    fclose(out);
    CHECK_MEMORY(text, "out of memory");
    return text;
}

static bool write_file(const char *folder, const char *name, char *text, size_t bytes, Error *err) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    bool ok = file_replace_shared(path, text, bytes, err) || error_prefix(err, "%s", path);
    free(text);
    return ok;
}

bool scale_write_files(const char *folder, ScaleMode mode, const ScalePoint *points, int count,
                       Error *err) {
    size_t bytes = 0;
    char *text = csv_of(points, count, &bytes);
    if (!write_file(folder, "scale.csv", text, bytes, err)) return false;
    text = scale_draw(mode, points, count, &bytes);
    return write_file(folder, "scale.svg", text, bytes, err);
}
