// What keys would be if they were left out.
#ifndef MOETRAIN_LAUNCHER_LEFT_OUT_H
#define MOETRAIN_LAUNCHER_LEFT_OUT_H

#include "launcher/config_origin.h"

// Whether the key was given, with another value than it would have if it were left out. Not
// collective.
bool config_says_more(const Config *config, int row);

// Once a file is read that says every key, hence one that the program has written (RUN/config.yaml,
// or what --print-config prints): nobody has given what follows from other keys of it, so that it
// follows from them again when they are changed. Of a file that says fewer keys all stay given. Not
// collective.
void config_leave_out_derived(Config *config);

#endif
