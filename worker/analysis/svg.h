// Figures as SVG text: rectangles, lines and words, in pixels from the upper left corner. Not
// collective.
#ifndef MOETRAIN_WORKER_ANALYSIS_SVG_H
#define MOETRAIN_WORKER_ANALYSIS_SVG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct Svg {
    FILE *out;
    char *text; // once it is finished; to be freed
    size_t bytes;
} Svg;

typedef enum SvgAnchor { SVG_START, SVG_MIDDLE, SVG_END } SvgAnchor;

void svg_begin(Svg *svg, double width, double height);
void svg_finish(Svg *svg);

// colour: "#1f77b4". title: what a pointer over it reads; NULL: nothing.
void svg_rectangle(Svg *svg, double x, double y, double width, double height, const char *colour,
                   const char *title);
void svg_line(Svg *svg, double x0, double y0, double x1, double y1, const char *colour,
              bool dashed);
// Any bytes: what is not printable is escaped.
void svg_text(Svg *svg, double x, double y, SvgAnchor anchor, const char *text);

// Colour number i of few that differ, and a shade of blue from white (0) to dark (1).
const char *svg_colour(int64_t i);
void svg_shade(double share, char colour[8]);

#endif
