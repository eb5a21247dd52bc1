#include "kernels/choice.h"

#include <string.h>

#include "kernels/check.h"

const Choice *choice_row(ChoiceTable table, int value) {
    CHECK(value >= 0 && value < table.count, "value %d of an enumeration of %d", value,
          table.count);
    return (const Choice *)((const char *)table.rows + (size_t)value * table.row_bytes);
}

int choice_find(ChoiceTable table, const char *word) {
    for (int value = 0; value < table.count; value++)
        if (strcmp(choice_row(table, value)->word, word) == 0) return value;
    return -1;
}
