#include "launcher/compare/result_curves.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/analysis/svg.h"

enum { LEFT = 64, TOP = 20, PLOT_WIDTH = 620, PLOT_HEIGHT = 400, LEGEND_WIDTH = 260, BOTTOM = 48 };
enum { DISTINCT_COLOURS = 10 };

// A row's mean over seeds, at the steps that all its runs have.
typedef struct Curve {
    int row, count;
    double *steps, *losses, *deviations;
} Curve;

static double loss_at(const RunResult *result, int64_t step) {
    for (int i = 0; i < result->point_count; i++)
        if (result->points[i].step == step) return result->points[i].loss;
    return NAN;
}

static Curve curve_of(ComparedResults all, int row) {
    const RunResult *runs[COMPARED_SEEDS];
    int count = 0;
    for (int i = 0; i < all.count && count < COMPARED_SEEDS; i++)
        if (all.runs[i].row == row && all.results[i].point_count > 0)
            runs[count++] = &all.results[i];
    Curve curve = {.row = row};
    size_t room = count > 0 ? (size_t)runs[0]->point_count : 1;
    curve.steps = calloc(room, sizeof *curve.steps);
    curve.losses = calloc(room, sizeof *curve.losses);
    curve.deviations = calloc(room, sizeof *curve.deviations);
    CHECK_MEMORY(curve.steps && curve.losses && curve.deviations, "no memory for a curve");
    for (int i = 0; count > 0 && i < runs[0]->point_count; i++) {
        double losses[COMPARED_SEEDS];
        for (int j = 0; j < count; j++) losses[j] = loss_at(runs[j], runs[0]->points[i].step);
        Spread spread = spread_of(losses, count);
        if (spread.count < count) continue;
        curve.steps[curve.count] = (double)runs[0]->points[i].step;
        curve.losses[curve.count] = spread.mean;
        curve.deviations[curve.count++] = count > 1 ? spread.deviation : 0;
    }
    return curve;
}

// ---- axes ---------------------------------------------------------------------------------------

typedef struct Axes {
    double steps, low, high; // of the plot: x from 0 to steps, y from low to high
} Axes;

// First losses would press all others together: the top is where the slowest row is after a tenth.
static bool choose_axes(Axes *axes, const Curve *curves, int count) {
    *axes = (Axes){0, INFINITY, -INFINITY};
    bool drawn = false;
    for (int c = 0; c < count; c++)
        for (int i = 0; i < curves[c].count; i++)
            axes->steps = fmax(axes->steps, curves[c].steps[i]);
    for (int c = 0; c < count; c++) {
        const Curve *curve = &curves[c];
        drawn |= curve->count > 1;
        for (int i = 0; i < curve->count; i++) {
            if (curve->steps[i] < 0.1 * axes->steps) continue;
            axes->low = fmin(axes->low, curve->losses[i] - curve->deviations[i]);
            axes->high = fmax(axes->high, curve->losses[i] + curve->deviations[i]);
        }
    }
    double margin = axes->high > axes->low ? 0.05 * (axes->high - axes->low) : 0.05;
    axes->low -= margin;
    axes->high += margin;
    return drawn;
}

static double place_x(const Axes *axes, double step) {
    return LEFT + PLOT_WIDTH * step / axes->steps;
}
static double place_y(const Axes *axes, double loss) {
    return TOP + PLOT_HEIGHT * (axes->high - loss) / (axes->high - axes->low);
}

// The distance of about six round numbers.
static double tick_distance(double range) {
    double raw = range / 6, power = pow(10, floor(log10(raw))), best = power;
    static const double factors[] = {2, 5, 10};
    for (int i = 0; i < 3; i++)
        if (fabs(factors[i] * power - raw) < fabs(best - raw)) best = factors[i] * power;
    return best;
}

static void draw_axes(Svg *svg, const Axes *axes) {
    char text[32];
    double bottom = TOP + PLOT_HEIGHT, distance = tick_distance(axes->high - axes->low);
    for (double i = ceil(axes->low / distance); i * distance <= axes->high; i++) {
        double y = place_y(axes, i * distance);
        svg_line(svg, LEFT, y, LEFT + PLOT_WIDTH, y, "#dddddd", false);
        snprintf(text, sizeof text, "%.6g", i * distance);
        svg_text(svg, LEFT - 6, y + 4, SVG_END, text);
    }
    distance = tick_distance(axes->steps);
    for (double i = 0; i * distance <= axes->steps; i++) {
        double x = place_x(axes, i * distance);
        svg_line(svg, x, bottom, x, bottom + 5, "#222222", false);
        snprintf(text, sizeof text, "%.10g", i * distance);
        svg_text(svg, x, bottom + 18, SVG_MIDDLE, text);
    }
    svg_line(svg, LEFT, TOP, LEFT, bottom, "#222222", false);
    svg_line(svg, LEFT, bottom, LEFT + PLOT_WIDTH, bottom, "#222222", false);
    svg_text(svg, LEFT + PLOT_WIDTH / 2.0, bottom + 38, SVG_MIDDLE, "steps");
    svg_text(svg, LEFT, TOP - 6, SVG_MIDDLE, "validation loss");
}

// ---- curves -------------------------------------------------------------------------------------

// The part of a segment that lies below the top.
static void draw_segment(Svg *svg, const Axes *axes, const Curve *curve, int i, const char *colour,
                         bool dashed) {
    double x0 = curve->steps[i - 1], x1 = curve->steps[i];
    double y0 = curve->losses[i - 1], y1 = curve->losses[i];
    if (y0 > axes->high && y1 > axes->high) return;
    double cut = (axes->high - y0) / (y1 - y0); // used only where they lie on two sides
    if (y0 > axes->high) x0 += cut * (x1 - x0), y0 = axes->high;
    if (y1 > axes->high) x1 = x0 + cut * (x1 - x0), y1 = axes->high;
    svg_line(svg, place_x(axes, x0), place_y(axes, y0), place_x(axes, x1), place_y(axes, y1),
             colour, dashed);
}

static void draw_curve(Svg *svg, const Axes *axes, const Curve *curve, int number,
                       const char *name) {
    const char *colour = svg_colour(number);
    bool dashed = number / DISTINCT_COLOURS % 2 == 1;
    for (int i = 1; i < curve->count; i++) draw_segment(svg, axes, curve, i, colour, dashed);
    int last = curve->count - 1;
    if (last >= 0 && curve->deviations[last] > 0) {
        double x = place_x(axes, curve->steps[last]) + 3 + 2 * (number % 6);
        svg_line(svg, x, place_y(axes, curve->losses[last] - curve->deviations[last]), x,
                 place_y(axes, curve->losses[last] + curve->deviations[last]), colour, false);
    }
    double y = TOP + 12 + 15.0 * number, x = LEFT + PLOT_WIDTH + 24;
    svg_line(svg, x, y - 4, x + 22, y - 4, colour, dashed);
    svg_text(svg, x + 28, y, SVG_START, name);
}

char *curves_draw(const Comparison *comparison, ComparedResults results, size_t *bytes) {
    int count = comparison->row_count;
    Curve *curves = calloc((size_t)count, sizeof *curves);
    CHECK_MEMORY(curves, "no memory for %d curves", count);
    for (int r = 0; r < count; r++) curves[r] = curve_of(results, r);
    Axes axes;
    Svg svg = {0};
    if (choose_axes(&axes, curves, count)) {
        double height = fmax(TOP + PLOT_HEIGHT + BOTTOM, TOP + 15.0 * count + 12);
        svg_begin(&svg, LEFT + PLOT_WIDTH + LEGEND_WIDTH, height);
        draw_axes(&svg, &axes);
        for (int r = 0; r < count; r++)
            draw_curve(&svg, &axes, &curves[r], r, comparison->rows[r].name);
        svg_finish(&svg);
    }
    for (int r = 0; r < count; r++) {
        free(curves[r].steps);
        free(curves[r].losses);
        free(curves[r].deviations);
    }
    free(curves);
    *bytes = svg.bytes;
    return svg.text;
}
