// What a scaling experiment has come to: efficiency and where it is lost, as a table, as CSV, as a
// figure and in one sentence. Not collective.
#ifndef MOETRAIN_LAUNCHER_SCALE_SCALE_TABLE_H
#define MOETRAIN_LAUNCHER_SCALE_SCALE_TABLE_H

#include <stdio.h>

#include "launcher/scale/scale_point.h"

// Efficiency of every point against the first one of the same routing, and what is lost: the parts
// of its step beyond those that the first point's would be with all its tokens at the same rate a
// rank. They add up to 1 - efficiency; one may be negative, as computing in smaller caches.
void scale_find_losses(ScalePoint *points, int count);

void scale_print_table(FILE *out, const ScalePoint *points, int count);
// One line: how far it goes, what most is lost to, and what even routing would change.
void scale_print_conclusion(FILE *out, const ScalePoint *points, int count);
// scale.csv and scale.svg in the folder. False with exit 5.
bool scale_write_files(const char *folder, ScaleMode mode, const ScalePoint *points, int count,
                       Error *err);

// The figure as text, to be freed by the caller, and its length.
char *scale_draw(ScaleMode mode, const ScalePoint *points, int count, size_t *bytes);

#endif
