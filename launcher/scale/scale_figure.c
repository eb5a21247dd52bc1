#include <math.h>
#include <stdio.h>

#include "launcher/scale/scale_table.h"
#include "worker/analysis/svg.h"

enum { LEFT = 56, TOP = 40, HEIGHT = 320, BAR = 44, GAP = 10, GROUP_GAP = 28, LEGEND = 190 };

static double place_y(double share) {
    return TOP + HEIGHT * (1 - share);
}

// A point as a bar of 100 %: below what of its step is as good as the first point's, above it what
// is lost, part by part. Where one part is negative, the others are drawn as much smaller.
static void draw_bar(Svg *svg, const ScalePoint *point, double x) {
    double lost = 0, at = point->efficiency > 1 ? 1 : point->efficiency;
    char text[64];
    for (int p = 0; p < STEP_PARTS; p++) lost += point->lost[p] > 0 ? point->lost[p] : 0;
    snprintf(text, sizeof text, "efficiency %.1f %%", 100 * point->efficiency);
    svg_rectangle(svg, x, place_y(at), BAR, HEIGHT * at, "#dbe7f3", text);
    double room = 1 - at;
    for (int p = 0; p < STEP_PARTS && lost > 0; p++) {
        if (point->lost[p] <= 0) continue;
        double share = point->lost[p] / lost * room;
        snprintf(text, sizeof text, "%s %.1f %%", STEP_PART_NAMES[p], 100 * point->lost[p]);
        at += share;
        svg_rectangle(svg, x, place_y(at), BAR, HEIGHT * share, svg_colour(p), text);
    }
    snprintf(text, sizeof text, "%.0f %%", 100 * point->efficiency);
    svg_text(svg, x + BAR / 2.0, place_y(0) - 6, SVG_MIDDLE, text);
    svg_text(svg, x + BAR / 2.0, place_y(0) + 16, SVG_MIDDLE, point->even ? "even" : "learned");
    snprintf(text, sizeof text, "%d", point->ranks);
    svg_text(svg, x + BAR / 2.0, place_y(0) + 32, SVG_MIDDLE, text);
}

static void draw_legend(Svg *svg, double x) {
    static const char *const names[STEP_PARTS] = {
        "slower computing", "imbalance", "waiting in turns", "exchange", "reduction", "other"};
    for (int p = 0; p < STEP_PARTS; p++) {
        double y = TOP + 14 + 20.0 * p;
        svg_rectangle(svg, x, y - 10, 12, 12, svg_colour(p), NULL);
        svg_text(svg, x + 18, y, SVG_START, names[p]);
    }
}

char *scale_draw(ScaleMode mode, const ScalePoint *points, int count, size_t *bytes) {
    Svg svg = {0};
    double width = LEFT + GROUP_GAP;
    for (int i = 0; i < count; i++)
        width += BAR + (i > 0 && points[i].ranks != points[i - 1].ranks ? GROUP_GAP : GAP);
    svg_begin(&svg, width + LEGEND, TOP + HEIGHT + 56);
    for (int tick = 0; tick <= 100; tick += 20) {
        char text[16];
        snprintf(text, sizeof text, "%d %%", tick);
        svg_line(&svg, LEFT, place_y(tick / 100.0), width, place_y(tick / 100.0), "#dddddd", false);
        svg_text(&svg, LEFT - 6, place_y(tick / 100.0) + 4, SVG_END, text);
    }
    char title[96];
    snprintf(title, sizeof title, "%s scaling: efficiency and what is lost, by ranks and routing",
             SCALE_MODE_NAMES[mode]);
    svg_text(&svg, LEFT, TOP - 20, SVG_START, title);
    double x = LEFT + GROUP_GAP / 2.0;
    for (int i = 0; i < count; i++) {
        if (i > 0) x += BAR + (points[i].ranks != points[i - 1].ranks ? GROUP_GAP : GAP);
        if (isfinite(points[i].efficiency)) draw_bar(&svg, &points[i], x);
    }
    draw_legend(&svg, width + 16);
    svg_finish(&svg);
    *bytes = svg.bytes;
    return svg.text;
}
