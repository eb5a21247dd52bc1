#include "model/placement.h"

#include <stdlib.h>
#include <string.h>

static ExpertPlaces *new_table(int64_t layer, RouterPlace router, int64_t E) {
    ExpertPlaces *table = malloc(sizeof *table);
    int32_t *numbers = calloc((size_t)(2 * E), sizeof *numbers);
    CHECK_MEMORY(table && numbers, "no memory for the places of %lld experts", (long long)E);
    *table = (ExpertPlaces){layer, router, E, numbers, numbers + E, {0}, {0}};
    for (int64_t e = 0; e < E; e++) table->expert_at[e] = table->place_of[e] = (int32_t)e;
    return table;
}

ExpertPlaces *placement_table(Placement *placement, int64_t layer, RouterPlace router, int64_t E) {
    for (int i = 0; i < placement->count; i++) {
        ExpertPlaces *table = placement->tables[i];
        if (table->layer != layer || table->router != router) continue;
        CHECK(table->E == E, "layer %lld has %lld experts and %lld", (long long)layer,
              (long long)table->E, (long long)E);
        return table;
    }
    size_t bytes = ((size_t)placement->count + 1) * sizeof(ExpertPlaces *);
    placement->tables = realloc(placement->tables, bytes);
    CHECK_MEMORY(placement->tables, "no memory for the places of experts");
    return placement->tables[placement->count++] = new_table(layer, router, E);
}

void placement_free(Placement *placement) {
    for (int i = 0; i < placement->count; i++) {
        free(placement->tables[i]->expert_at); // and place_of behind it
        free(placement->tables[i]);
    }
    free(placement->tables);
    *placement = (Placement){0};
}

void placement_layout(Placement *placement, Arena *arena) {
    for (int i = 0; i < placement->count; i++) {
        ExpertPlaces *table = placement->tables[i];
        table->experts = arena_1d(arena, I32, table->E);
        table->places = arena_1d(arena, I32, table->E);
    }
}

void placement_set(ExpertPlaces *places, const int32_t *expert_at) {
    for (int64_t e = 0; e < places->E; e++) places->place_of[e] = -1;
    for (int64_t place = 0; place < places->E; place++) {
        int32_t expert = expert_at[place];
        CHECK(expert >= 0 && expert < places->E && places->place_of[expert] < 0,
              "expert %d of %lld at place %lld", expert, (long long)places->E, (long long)place);
        places->expert_at[place] = expert;
        places->place_of[expert] = (int32_t)place;
    }
}

void placement_upload(const Placement *placement, Device *dev) {
    for (int i = 0; i < placement->count; i++) {
        const ExpertPlaces *table = placement->tables[i];
        device_upload(dev, table->experts, tensor_1d(table->expert_at, I32, table->E));
        device_upload(dev, table->places, tensor_1d(table->place_of, I32, table->E));
    }
}
