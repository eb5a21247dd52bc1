#include "worker/tokenizer/bpe.h"

#include <stdlib.h>

#include "kernels/check.h"

enum { SHORT_WORD = 32, FIRST_MERGES = 1 << 10 };
static const uint32_t NO_RANK = UINT32_MAX;

// ---- lists of tokens ----------------------------------------------------------------------------

static void token_list_grow(TokenList *list, int64_t count) {
    if (list->room - list->count >= count) return;
    int64_t room = list->room ? list->room * 2 : 256;
    while (room - list->count < count) room *= 2;
    list->ids = realloc(list->ids, (size_t)room * sizeof *list->ids);
    CHECK_MEMORY(list->ids, "no memory for %lld tokens", (long long)room);
    list->room = room;
}

void token_list_add(TokenList *list, int32_t id) {
    token_list_grow(list, 1);
    list->ids[list->count++] = id;
}

void token_list_free(TokenList *list) {
    free(list->ids);
    *list = (TokenList){0};
}

// ---- the vocabulary -----------------------------------------------------------------------------

static int32_t *grow_ids(int32_t *ids, int64_t *room, int64_t needed) {
    if (needed <= *room) return ids;
    int64_t wanted = *room ? *room * 2 : 512;
    while (wanted < needed) wanted *= 2;
    ids = realloc(ids, (size_t)wanted * sizeof *ids);
    CHECK_MEMORY(ids, "no memory for %lld tokens", (long long)wanted);
    for (int64_t i = *room; i < wanted; i++) ids[i] = -1;
    *room = wanted;
    return ids;
}

bool bpe_add_token(Bpe *bpe, const void *bytes, size_t count, int32_t id) {
    bpe->number_of = grow_ids(bpe->number_of, &bpe->number_room, (int64_t)id + 1);
    bool is_new;
    if (bpe->number_of[id] >= 0) return false;
    int32_t number = byte_strings_add(&bpe->tokens, bytes, count, &is_new);
    if (!is_new) return false;
    bpe->id_of = grow_ids(bpe->id_of, &bpe->id_room, bpe->tokens.count);
    bpe->id_of[number] = id;
    bpe->number_of[id] = number;
    if (id >= bpe->size) bpe->size = (int64_t)id + 1;
    return true;
}

int32_t bpe_find(const Bpe *bpe, const void *bytes, size_t count) {
    int32_t number = byte_strings_find(&bpe->tokens, bytes, count);
    return number < 0 ? -1 : bpe->id_of[number];
}

const uint8_t *bpe_token(const Bpe *bpe, int32_t id, size_t *count) {
    if (bpe->number_of[id] < 0) return NULL;
    return byte_strings_get(&bpe->tokens, bpe->number_of[id], count);
}

bool bpe_find_bytes(Bpe *bpe, int *missing) {
    for (int i = 0; i < 256; i++) {
        uint8_t byte = (uint8_t)i;
        bpe->byte_ids[i] = bpe_find(bpe, &byte, 1);
        *missing = i;
        if (bpe->byte_ids[i] < 0) return false;
    }
    return true;
}

// ---- merges -------------------------------------------------------------------------------------

static uint64_t pair_key(int32_t left, int32_t right) {
    return (uint64_t)(left + 1) << 32 | (uint32_t)right;
}

static Merge *merge_slot(const Bpe *bpe, uint64_t pair) {
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    uint64_t mask = bpe->merge_slots - 1, slot = (hash ^ hash >> 32) & mask;
    while (bpe->merges[slot].pair != 0 && bpe->merges[slot].pair != pair) slot = (slot + 1) & mask;
    return &bpe->merges[slot];
}

static void grow_merges(Bpe *bpe) {
    Merge *old = bpe->merges;
    uint64_t slots = bpe->merge_slots;
    bpe->merge_slots = slots ? slots * 2 : FIRST_MERGES;
    bpe->merges = calloc(bpe->merge_slots, sizeof *bpe->merges);
    CHECK_MEMORY(bpe->merges, "no memory for %llu merges", (unsigned long long)bpe->merge_slots);
    for (uint64_t i = 0; i < slots; i++)
        if (old[i].pair != 0) *merge_slot(bpe, old[i].pair) = old[i];
    free(old);
}

void bpe_add_merge(Bpe *bpe, int32_t left, int32_t right, int32_t id) {
    if ((uint64_t)bpe->merge_count * 2 >= bpe->merge_slots) grow_merges(bpe);
    uint64_t pair = pair_key(left, right);
    *merge_slot(bpe, pair) = (Merge){pair, (uint32_t)bpe->merge_count++, id};
}

void bpe_free(Bpe *bpe) {
    byte_strings_free(&bpe->tokens);
    free(bpe->id_of);
    free(bpe->number_of);
    free(bpe->merges);
    *bpe = (Bpe){0};
}

// The merge of two neighbours, or a rank above all others.
static Merge find_merge(const Bpe *bpe, int32_t left, int32_t right) {
    if (bpe->merge_slots > 0) {
        const Merge *merge = merge_slot(bpe, pair_key(left, right));
        if (merge->pair != 0) return *merge;
    }
    return (Merge){.rank = NO_RANK};
}

// ---- a short word: look at all neighbours each time ---------------------------------------------

static void encode_short(const Bpe *bpe, const uint8_t *word, int count, TokenList *out) {
    int32_t ids[SHORT_WORD];
    Merge with_next[SHORT_WORD];
    for (int i = 0; i < count; i++) ids[i] = bpe->byte_ids[word[i]];
    for (int i = 0; i + 1 < count; i++) with_next[i] = find_merge(bpe, ids[i], ids[i + 1]);
    for (;;) {
        int best = 0;
        for (int i = 1; i + 1 < count; i++)
            if (with_next[i].rank < with_next[best].rank) best = i;
        if (count < 2 || with_next[best].rank == NO_RANK) break;
        ids[best] = with_next[best].id;
        count--;
        for (int i = best + 1; i < count; i++) ids[i] = ids[i + 1];
        for (int i = best + 1; i + 1 < count; i++) with_next[i] = with_next[i + 1];
        if (best > 0) with_next[best - 1] = find_merge(bpe, ids[best - 1], ids[best]);
        if (best + 1 < count) with_next[best] = find_merge(bpe, ids[best], ids[best + 1]);
    }
    token_list_grow(out, count);
    for (int i = 0; i < count; i++) out->ids[out->count++] = ids[i];
}

// ---- a long word: a linked list of symbols, and a heap of what may be merged --------------------

enum { NO_SYMBOL = -1 };

typedef struct Symbol {
    int32_t id; // NO_SYMBOL: it has become part of its left neighbour
    int32_t previous, next;
    Merge with_next;
} Symbol;

// Candidates as rank and place in one number, the least at the top. One whose symbol has another
// rank by now is stale.
typedef struct Candidates {
    uint64_t *entries;
    size_t count;
} Candidates;

static void push(Candidates *heap, const Symbol *symbols, int32_t place) {
    if (symbols[place].with_next.rank == NO_RANK) return;
    uint64_t entry = (uint64_t)symbols[place].with_next.rank << 32 | (uint32_t)place;
    size_t at = heap->count++;
    while (at > 0 && heap->entries[(at - 1) / 2] > entry) {
        heap->entries[at] = heap->entries[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap->entries[at] = entry;
}

static uint64_t pop(Candidates *heap) {
    uint64_t top = heap->entries[0], last = heap->entries[--heap->count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= heap->count) break;
        if (child + 1 < heap->count && heap->entries[child + 1] < heap->entries[child]) child++;
        if (heap->entries[child] >= last) break;
        heap->entries[at] = heap->entries[child];
        at = child;
    }
    heap->entries[at] = last;
    return top;
}

static void look_at(const Bpe *bpe, Symbol *symbols, int32_t place, Candidates *heap) {
    int32_t next = symbols[place].next;
    symbols[place].with_next = next == NO_SYMBOL
                                   ? (Merge){.rank = NO_RANK}
                                   : find_merge(bpe, symbols[place].id, symbols[next].id);
    push(heap, symbols, place);
}

static void encode_long(const Bpe *bpe, BpeScratch *scratch, const uint8_t *word, int32_t count,
                        TokenList *out) {
    // Every merge pushes at most two candidates.
    size_t needed = (size_t)count * (sizeof(Symbol) + 3 * sizeof(uint64_t));
    if (scratch->bytes < needed) {
        free(scratch->memory);
        scratch->memory = malloc(needed);
        CHECK_MEMORY(scratch->memory, "no memory for a word of %d bytes", (int)count);
        scratch->bytes = needed;
    }
    Candidates heap = {.entries = scratch->memory};
    Symbol *symbols = (Symbol *)(heap.entries + 3 * (size_t)count);
    for (int32_t i = 0; i < count; i++)
        symbols[i] = (Symbol){.id = bpe->byte_ids[word[i]],
                              .previous = i - 1,
                              .next = i + 1 < count ? i + 1 : NO_SYMBOL};
    for (int32_t i = 0; i < count; i++) look_at(bpe, symbols, i, &heap);
    while (heap.count > 0) {
        uint64_t top = pop(&heap);
        int32_t place = (int32_t)(uint32_t)top;
        Symbol *left = &symbols[place];
        if (left->id == NO_SYMBOL || left->with_next.rank != (uint32_t)(top >> 32)) continue;
        Symbol *right = &symbols[left->next];
        left->id = left->with_next.id;
        left->next = right->next;
        right->id = NO_SYMBOL;
        if (left->next != NO_SYMBOL) symbols[left->next].previous = place;
        look_at(bpe, symbols, place, &heap);
        if (left->previous != NO_SYMBOL) look_at(bpe, symbols, left->previous, &heap);
    }
    for (int32_t i = 0; i != NO_SYMBOL; i = symbols[i].next) token_list_add(out, symbols[i].id);
}

void bpe_encode(const Bpe *bpe, BpeScratch *scratch, const uint8_t *word, size_t count,
                TokenList *out) {
    int32_t whole = bpe->whole_words ? bpe_find(bpe, word, count) : -1;
    CHECK(count > 0 && count < INT32_MAX, "a word of %zu bytes", count);
    if (whole >= 0)
        token_list_add(out, whole);
    else if (count <= SHORT_WORD)
        encode_short(bpe, word, (int)count, out);
    else
        encode_long(bpe, scratch, word, (int32_t)count, out);
}

void bpe_scratch_free(BpeScratch *scratch) {
    free(scratch->memory);
    *scratch = (BpeScratch){0};
}
