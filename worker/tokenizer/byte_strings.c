#include "worker/tokenizer/byte_strings.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "kernels/check.h"

enum { FIRST_SLOTS = 1 << 10, FIRST_ROOM = 1 << 8, FIRST_BYTES = 1 << 12 };
static const uint64_t UPPER = 0xFFFFFFFF00000000u;

const uint8_t *byte_strings_get(const ByteStrings *strings, int32_t number, size_t *count) {
    *count = strings->begin[number + 1] - strings->begin[number];
    return strings->bytes + strings->begin[number];
}

// The slot of a string, or the free one where it would be.
static uint64_t find_slot(const ByteStrings *strings, const void *bytes, size_t count,
                          uint64_t hash) {
    uint64_t mask = strings->slot_count - 1, slot = hash & mask;
    for (; strings->slots[slot] != 0; slot = (slot + 1) & mask) {
        uint64_t held = strings->slots[slot];
        if ((held ^ hash) & UPPER) continue;
        size_t length;
        const uint8_t *other = byte_strings_get(strings, (int32_t)(held & ~UPPER) - 1, &length);
        if (length == count && memcmp(other, bytes, count) == 0) break;
    }
    return slot;
}

int32_t byte_strings_find(const ByteStrings *strings, const void *bytes, size_t count) {
    if (strings->count == 0) return -1;
    uint64_t slot = find_slot(strings, bytes, count, XXH3_64bits(bytes, count));
    return (int32_t)(strings->slots[slot] & ~UPPER) - 1;
}

static void grow_slots(ByteStrings *strings) {
    free(strings->slots);
    strings->slot_count = strings->slot_count ? strings->slot_count * 2 : FIRST_SLOTS;
    strings->slots = calloc(strings->slot_count, sizeof *strings->slots);
    CHECK_MEMORY(strings->slots, "no memory for %llu slots",
                 (unsigned long long)strings->slot_count);
    uint64_t mask = strings->slot_count - 1;
    for (int32_t i = 0; i < strings->count; i++) {
        size_t count;
        const uint8_t *bytes = byte_strings_get(strings, i, &count);
        uint64_t hash = XXH3_64bits(bytes, count), slot = hash & mask;
        while (strings->slots[slot] != 0) slot = (slot + 1) & mask;
        strings->slots[slot] = (hash & UPPER) | (uint64_t)(i + 1);
    }
}

static void grow_room(ByteStrings *strings, size_t count) {
    if (strings->count + 1 >= strings->room) {
        strings->room = strings->room ? strings->room * 2 : FIRST_ROOM;
        strings->begin = realloc(strings->begin, (size_t)strings->room * sizeof *strings->begin);
        CHECK_MEMORY(strings->begin, "no memory for %lld strings", (long long)strings->room);
        if (strings->count == 0) strings->begin[0] = 0;
    }
    size_t used = strings->begin[strings->count];
    if (strings->byte_room - used >= count && strings->bytes) return;
    size_t room = strings->byte_room ? strings->byte_room * 2 : FIRST_BYTES;
    while (room - used < count) room *= 2;
    strings->bytes = realloc(strings->bytes, room);
    CHECK_MEMORY(strings->bytes, "no memory for %zu bytes of strings", room);
    strings->byte_room = room;
}

int32_t byte_strings_add(ByteStrings *strings, const void *bytes, size_t count, bool *added) {
    if ((uint64_t)strings->count * 2 >= strings->slot_count) grow_slots(strings);
    uint64_t hash = XXH3_64bits(bytes, count), slot = find_slot(strings, bytes, count, hash);
    bool is_new = strings->slots[slot] == 0;
    if (added) *added = is_new;
    if (!is_new) return (int32_t)(strings->slots[slot] & ~UPPER) - 1;
    CHECK(strings->count < INT32_MAX - 1, "more than %d different strings", INT32_MAX - 1);
    grow_room(strings, count);
    size_t used = strings->begin[strings->count];
    memcpy(strings->bytes + used, bytes, count);
    strings->begin[++strings->count] = used + count;
    strings->slots[slot] = (hash & UPPER) | (uint64_t)strings->count;
    return strings->count - 1;
}

void byte_strings_clear(ByteStrings *strings) {
    strings->count = 0;
    if (strings->slots) memset(strings->slots, 0, strings->slot_count * sizeof *strings->slots);
}

void byte_strings_free(ByteStrings *strings) {
    free(strings->bytes);
    free(strings->begin);
    free(strings->slots);
    *strings = (ByteStrings){0};
}
