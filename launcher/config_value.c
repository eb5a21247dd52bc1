#include "launcher/config_value.h"

#include "launcher/config_maps.h"
#include "launcher/simple_value.h"
#include "launcher/value_text.h"

bool config_value_parse(const Option *key, const char *text, const char *base_folder, void *field,
                        Error *err) {
    if (key->type == OPTION_MAPS) return config_maps_parse_text(key, text, base_folder, field, err);
    return simple_value_parse(key, text, base_folder, field, err);
}

void config_value_print(FILE *out, const Option *key, const void *field) {
    if (key->type == OPTION_MAPS)
        config_maps_print(out, key, field);
    else
        simple_value_print(out, key, field);
}
