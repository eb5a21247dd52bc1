#include "worker/data/best_fit.h"

#include <stdlib.h>

// ---- pieces of documents ------------------------------------------------------------------------

static int64_t document_start(const DocumentStarts *documents, int64_t i, int64_t tokens) {
    if (i == documents->count) return tokens;
    return documents->length > 0 ? i * documents->length : documents->starts[i];
}

// Pieces in the file's order, into `pieces` unless it is NULL; returns their number.
static int64_t cut_documents(Piece *pieces, const DocumentStarts *documents, int64_t tokens,
                             int64_t T) {
    int64_t count = 0;
    for (int64_t i = 0; i < documents->count; i++) {
        int64_t first = document_start(documents, i, tokens);
        int64_t pairs = document_start(documents, i + 1, tokens) - first - 1;
        for (; pairs > 0; first += T, pairs -= T, count++)
            if (pieces) pieces[count] = (Piece){first, pairs < T ? pairs : T};
    }
    return count;
}

static void *room_for(int64_t count, size_t size) {
    void *room = calloc((size_t)count + 1, size);
    CHECK_MEMORY(room, "no memory to pack %lld pieces of documents", (long long)count);
    return room;
}

// The numbers of the pieces, the longest first, of equal ones in the file's order.
static int64_t *longest_first(const Piece *pieces, int64_t count, int64_t T) {
    int64_t *order = room_for(count, sizeof *order), *place = room_for(T + 1, sizeof *place);
    for (int64_t i = 0; i < count; i++) place[pieces[i].length - 1]++; // longer ones come before
    for (int64_t length = T - 1, longer = 0; length >= 0; length--) {
        int64_t as_long = place[length];
        place[length] = longer;
        longer += as_long;
    }
    for (int64_t i = 0; i < count; i++) order[place[pieces[i].length - 1]++] = i;
    free(place);
    return order;
}

// ---- rooms that are left ------------------------------------------------------------------------

// Windows by the room left in them, those of the same room in a stack; which rooms there are is two
// levels of bits.
typedef struct Rooms {
    int64_t *top;           // (T + 1): the window of each room, number + 1; 0: none
    int64_t *next;          // (windows): below it in its stack
    uint64_t *bits, *words; // (T / 64 + 1) and (T / 4096 + 1)
    int64_t T;
} Rooms;

static void set_bit(Rooms *rooms, int64_t room, bool there) {
    uint64_t *word = &rooms->bits[room / 64], *all = &rooms->words[room / 4096];
    *word = there ? *word | 1ull << room % 64 : *word & ~(1ull << room % 64);
    uint64_t bit = 1ull << room / 64 % 64;
    *all = *word ? *all | bit : *all & ~bit;
}

static void put_window(Rooms *rooms, int64_t window, int64_t room) {
    rooms->next[window] = rooms->top[room];
    rooms->top[room] = window + 1;
    set_bit(rooms, room, true);
}

static int64_t take_window(Rooms *rooms, int64_t room) {
    int64_t window = rooms->top[room] - 1;
    rooms->top[room] = rooms->next[window];
    if (rooms->top[room] == 0) set_bit(rooms, room, false);
    return window;
}

// The least room of at least `wanted`, or -1.
static int64_t least_room(const Rooms *rooms, int64_t wanted) {
    uint64_t bits = rooms->bits[wanted / 64] & ~0ull << wanted % 64;
    if (bits) return wanted / 64 * 64 + __builtin_ctzll(bits);
    int64_t word = wanted / 64 + 1, words = rooms->T / 64 + 1;
    if (word >= words) return -1;
    int64_t group = word / 64;
    uint64_t some = rooms->words[group] & ~0ull << word % 64;
    while (!some && group < rooms->T / 4096) some = rooms->words[++group];
    if (!some) return -1;
    word = group * 64 + __builtin_ctzll(some);
    return word * 64 + __builtin_ctzll(rooms->bits[word]);
}

// ---- windows ------------------------------------------------------------------------------------

// The window of each piece; returns how many there are.
static int64_t fit(int64_t *window_of, const Piece *pieces, const int64_t *order, int64_t count,
                   int64_t T) {
    Rooms rooms = {.top = room_for(T + 1, sizeof *rooms.top),
                   .next = room_for(count, sizeof *rooms.next),
                   .bits = room_for(T / 64 + 1, sizeof *rooms.bits),
                   .words = room_for(T / 4096 + 1, sizeof *rooms.words),
                   .T = T};
    int64_t windows = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t length = pieces[order[i]].length, room = least_room(&rooms, length);
        int64_t window = room < 0 ? windows++ : take_window(&rooms, room);
        window_of[order[i]] = window;
        int64_t left = (room < 0 ? T : room) - length;
        if (left > 0) put_window(&rooms, window, left);
    }
    free(rooms.top);
    free(rooms.next);
    free(rooms.bits);
    free(rooms.words);
    return windows;
}

void packing_make(Packing *packing, const DocumentStarts *documents, int64_t tokens, int64_t T) {
    int64_t count = cut_documents(NULL, documents, tokens, T);
    Piece *pieces = room_for(count, sizeof *pieces);
    cut_documents(pieces, documents, tokens, T);
    int64_t *order = longest_first(pieces, count, T), *window_of = room_for(count, sizeof(int64_t));
    Packing p = {.T = T, .windows = fit(window_of, pieces, order, count, T)};
    p.pieces = room_for(count, sizeof *p.pieces);
    p.of_window = room_for(p.windows + 1, sizeof *p.of_window);
    // Counted behind their windows' places, then put there, the longest first.
    for (int64_t i = 0; i < count; i++) p.of_window[window_of[i] + 1]++;
    for (int64_t w = 0; w < p.windows; w++) p.of_window[w + 1] += p.of_window[w];
    int64_t *next = room_for(p.windows, sizeof *next);
    for (int64_t w = 0; w < p.windows; w++) next[w] = p.of_window[w];
    for (int64_t i = 0; i < count; i++) {
        p.pieces[next[window_of[order[i]]]++] = pieces[order[i]];
        p.pairs += pieces[i].length;
    }
    free(next);
    free(window_of);
    free(order);
    free(pieces);
    *packing = p;
}

void packing_free(Packing *packing) {
    free(packing->pieces);
    free(packing->of_window);
    *packing = (Packing){0};
}

double packing_padding(const Packing *packing) {
    double places = (double)packing->windows * (double)packing->T;
    return places > 0 ? 1 - (double)packing->pairs / places : 0;
}
