// A list of maps as the value of a key (OptionMap): [{match: "*.router", decay: 0}].
// Not collective.
#ifndef MOETRAIN_LAUNCHER_CONFIG_MAPS_H
#define MOETRAIN_LAUNCHER_CONFIG_MAPS_H

#include <stdio.h>

#include "kernels/option.h"
#include "launcher/config_yaml.h"

// Reads the maps into the key's field; relative paths begin at base_folder. False with exit 2, the
// number of the map, its field and what is legal; *place is then that of the value or of the map.
bool config_maps_parse(const Option *key, const YamlValue *value, const char *base_folder,
                       void *field, YamlPlace *place, Error *err);
// The same of one line of YAML, as a command line has it: "[{scope: shard, factor: 0.01}]".
bool config_maps_parse_text(const Option *key, const char *text, const char *base_folder,
                            void *field, Error *err);

// Writes the list as config_value_print does; one that a value without brackets would be is that.
void config_maps_print(FILE *out, const Option *key, const void *list);

#endif
