// Keys that the user gave and that no layer of the model reads: those of another kind of layer,
// where a command line sets model.feed_forward of a common file, say.
#ifndef MOETRAIN_LAUNCHER_UNREAD_KEYS_H
#define MOETRAIN_LAUNCHER_UNREAD_KEYS_H

#include "launcher/config_origin.h"

// Names them in one warning, if there are any. Rank 0 writes it; not collective.
void config_warn_of_unread_keys(const Config *config);

#endif
