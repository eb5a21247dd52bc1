#include "worker/analysis/svg.h"

#include <stdlib.h>

#include "kernels/check.h"
#include "kernels/utf8.h"

void svg_begin(Svg *svg, double width, double height) {
    *svg = (Svg){0};
    svg->out = open_memstream(&svg->text, &svg->bytes);
    CHECK_MEMORY(svg->out, "no memory for a figure");
    fprintf(svg->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%g\" height=\"%g\" "
            "font-family=\"sans-serif\" font-size=\"11\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
            width, height);
}

void svg_finish(Svg *svg) {
    fputs("</svg>\n", svg->out);
    CHECK_MEMORY(fclose(svg->out) == 0 && svg->text, "no memory for a figure");
    svg->out = NULL;
}

// Words between tags.
static void print_words(Svg *svg, const char *text) {
    char printable[512];
    utf8_make_printable(text, printable, sizeof printable);
    for (const char *at = printable; *at; at++) {
        switch (*at) {
        case '<':
            fputs("&lt;", svg->out);
            break;
        case '>':
            fputs("&gt;", svg->out);
            break;
        case '&':
            fputs("&amp;", svg->out);
            break;
        default:
            fputc(*at, svg->out);
        }
    }
}

void svg_rectangle(Svg *svg, double x, double y, double width, double height, const char *colour,
                   const char *title) {
    fprintf(svg->out, "<rect x=\"%g\" y=\"%g\" width=\"%g\" height=\"%g\" fill=\"%s\"", x, y, width,
            height, colour);
    if (!title) {
        fputs("/>\n", svg->out);
        return;
    }
    fputs("><title>", svg->out);
    print_words(svg, title);
    fputs("</title></rect>\n", svg->out);
}

void svg_line(Svg *svg, double x0, double y0, double x1, double y1, const char *colour,
              bool dashed) {
    fprintf(svg->out, "<line x1=\"%g\" y1=\"%g\" x2=\"%g\" y2=\"%g\" stroke=\"%s\"%s/>\n", x0, y0,
            x1, y1, colour, dashed ? " stroke-dasharray=\"4 3\"" : "");
}

void svg_text(Svg *svg, double x, double y, SvgAnchor anchor, const char *text) {
    static const char *const anchors[] = {
        [SVG_START] = "start", [SVG_MIDDLE] = "middle", [SVG_END] = "end"};
    fprintf(svg->out, "<text x=\"%g\" y=\"%g\" text-anchor=\"%s\" xml:space=\"preserve\">", x, y,
            anchors[anchor]);
    print_words(svg, text);
    fputs("</text>\n", svg->out);
}

const char *svg_colour(int64_t i) {
    // Tableau 10
    static const char *const colours[] = {"#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f",
                                          "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac"};
    return colours[i % (int64_t)(sizeof colours / sizeof *colours)];
}

void svg_shade(double share, char colour[8]) {
    double dark = share < 0 ? 0 : share > 1 ? 1 : share;
    snprintf(colour, 8, "#%02x%02x%02x", (unsigned)(255 - 247 * dark) & 255,
             (unsigned)(255 - 207 * dark) & 255, (unsigned)(255 - 148 * dark) & 255);
}
