#include "worker/tokenizer/bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "worker/tokenizer/byte_level.h"

// A word as tokens; its place in Trainer.symbols stays, its length shrinks.
typedef struct Word {
    int64_t begin, times;
    int32_t length;
} Word;

typedef struct WordList {
    int32_t *words; // ascending, owned
    int64_t count, room;
} WordList;

// A pair that has been met, how often it occurs by now, and the words where the present merge makes
// it.
typedef struct Pair {
    TokenPair of;
    int64_t times;
    WordList made_in;
    int64_t merge; // the last merge of it; -1: none
} Pair;

// A pair that may be merged next, in some words.
typedef struct Candidate {
    int64_t times; // when it came into the heap, or was looked at last
    int64_t pair;
    int64_t number; // of candidates before it
    WordList words;
} Candidate;

typedef struct Trainer {
    Word *words;
    int32_t word_count;
    int32_t *symbols;
    Pair *pairs;
    int64_t pair_count, pair_room;
    int64_t *slots; // number of a pair + 1; 0: free
    uint64_t slot_count;
    int64_t *touched; // pairs that the present merge makes
    int64_t touched_count, touched_room;
    Candidate *heap;
    int64_t heap_count, heap_room, candidates;
    TokenizerSpec *spec;
    int64_t merge_room;
} Trainer;

// Room for one more, twice as much each time.
static void *grow(void *rows, int64_t count, int64_t *room, size_t row_bytes) {
    if (count < *room) return rows;
    *room = *room ? *room * 2 : 8;
    rows = realloc(rows, (size_t)*room * row_bytes);
    CHECK_MEMORY(rows, "no memory for %lld rows of %zu bytes", (long long)*room, row_bytes);
    return rows;
}

// ---- pairs --------------------------------------------------------------------------------------

static uint64_t slot_of(const Trainer *t, TokenPair of) {
    uint64_t key = (uint64_t)(uint32_t)of.left << 32 | (uint32_t)of.right;
    uint64_t hash = key * 0x9E3779B97F4A7C15u, mask = t->slot_count - 1;
    uint64_t slot = (hash ^ hash >> 32) & mask;
    for (; t->slots[slot] != 0; slot = (slot + 1) & mask) {
        const TokenPair *held = &t->pairs[t->slots[slot] - 1].of;
        if (held->left == of.left && held->right == of.right) break;
    }
    return slot;
}

static int64_t find_pair(Trainer *t, TokenPair of) {
    if ((uint64_t)t->pair_count * 2 >= t->slot_count) {
        free(t->slots);
        t->slot_count = t->slot_count ? t->slot_count * 2 : 1 << 10;
        t->slots = calloc(t->slot_count, sizeof *t->slots);
        CHECK_MEMORY(t->slots, "no memory for %llu pairs", (unsigned long long)t->slot_count);
        for (int64_t i = 0; i < t->pair_count; i++) t->slots[slot_of(t, t->pairs[i].of)] = i + 1;
    }
    uint64_t slot = slot_of(t, of);
    if (t->slots[slot] == 0) {
        t->pairs = grow(t->pairs, t->pair_count, &t->pair_room, sizeof *t->pairs);
        t->pairs[t->pair_count++] = (Pair){.of = of, .merge = -1};
        t->slots[slot] = t->pair_count;
    }
    return t->slots[slot] - 1;
}

// The pair occurs `times` more often in a word, or less.
static void change_pair(Trainer *t, int32_t left, int32_t right, int32_t word, int64_t times) {
    int64_t number = find_pair(t, (TokenPair){left, right});
    Pair *pair = &t->pairs[number];
    pair->times += times;
    if (times <= 0) return;
    WordList *list = &pair->made_in;
    if (list->count == 0) {
        t->touched = grow(t->touched, t->touched_count, &t->touched_room, sizeof *t->touched);
        t->touched[t->touched_count++] = number;
    } else if (list->words[list->count - 1] == word) {
        return;
    }
    list->words = grow(list->words, list->count, &list->room, sizeof *list->words);
    list->words[list->count++] = word;
}

// ---- candidates, the most frequent at the top ---------------------------------------------------

static bool is_before(const Trainer *t, const Candidate *a, const Candidate *b) {
    const TokenPair *x = &t->pairs[a->pair].of, *y = &t->pairs[b->pair].of;
    if (a->times != b->times) return a->times > b->times;
    if (x->left != y->left) return x->left < y->left;
    if (x->right != y->right) return x->right < y->right;
    return a->number < b->number;
}

static void sift_down(Trainer *t, Candidate moved) {
    int64_t at = 0;
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= t->heap_count) break;
        if (child + 1 < t->heap_count && is_before(t, &t->heap[child + 1], &t->heap[child]))
            child++;
        if (!is_before(t, &t->heap[child], &moved)) break;
        t->heap[at] = t->heap[child];
        at = child;
    }
    t->heap[at] = moved;
}

static void push(Trainer *t, Candidate candidate) {
    t->heap = grow(t->heap, t->heap_count, &t->heap_room, sizeof *t->heap);
    candidate.number = t->candidates++;
    int64_t at = t->heap_count++;
    while (at > 0 && is_before(t, &candidate, &t->heap[(at - 1) / 2])) {
        t->heap[at] = t->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    t->heap[at] = candidate;
}

static void push_touched(Trainer *t) {
    for (int64_t i = 0; i < t->touched_count; i++) {
        Pair *pair = &t->pairs[t->touched[i]];
        Candidate candidate = {.times = pair->times, .pair = t->touched[i], .words = pair->made_in};
        pair->made_in = (WordList){0};
        if (candidate.times > 0)
            push(t, candidate);
        else
            free(candidate.words.words);
    }
    t->touched_count = 0;
}

// The most frequent pair by what is true now. False when none is left.
static bool pop(Trainer *t, Candidate *top) {
    while (t->heap_count > 0) {
        *top = t->heap[0];
        int64_t times = t->pairs[top->pair].times;
        if (top->times == times) {
            t->heap_count--;
            if (t->heap_count > 0) sift_down(t, t->heap[t->heap_count]);
            if (times > 0) return true;
            free(top->words.words);
            return false;
        }
        top->times = times;
        sift_down(t, *top);
    }
    return false;
}

// ---- words --------------------------------------------------------------------------------------

static const WordCounts *sorted_counts; // qsort has no context

static int compare_words(const void *a, const void *b) {
    size_t x_bytes, y_bytes;
    const uint8_t *x = byte_strings_get(&sorted_counts->words, *(const int32_t *)a, &x_bytes);
    const uint8_t *y = byte_strings_get(&sorted_counts->words, *(const int32_t *)b, &y_bytes);
    int order = memcmp(x, y, x_bytes < y_bytes ? x_bytes : y_bytes);
    return order ? order : (x_bytes > y_bytes) - (x_bytes < y_bytes);
}

// Words of more than one byte in the order of their bytes, each byte its token, and their pairs.
static void take_words(Trainer *t, const WordCounts *counts, const int32_t byte_ids[256]) {
    int32_t *order = malloc((size_t)counts->words.count * sizeof *order + 1);
    size_t symbol_count = 0, bytes;
    CHECK_MEMORY(order, "no memory for %d words", (int)counts->words.count);
    for (int32_t i = 0; i < counts->words.count; i++) {
        byte_strings_get(&counts->words, i, &bytes);
        if (bytes < 2) continue;
        CHECK(bytes < INT32_MAX, "a word of %zu bytes", bytes);
        order[t->word_count++] = i;
        symbol_count += bytes;
    }
    sorted_counts = counts;
    qsort(order, (size_t)t->word_count, sizeof *order, compare_words);
    t->words = malloc((size_t)t->word_count * sizeof *t->words + 1);
    t->symbols = malloc(symbol_count * sizeof *t->symbols + 1);
    CHECK_MEMORY(t->words && t->symbols, "no memory for %d words", (int)t->word_count);
    int64_t used = 0;
    for (int32_t i = 0; i < t->word_count; i++) {
        const uint8_t *word = byte_strings_get(&counts->words, order[i], &bytes);
        t->words[i] = (Word){used, counts->counts[order[i]], (int32_t)bytes};
        for (size_t j = 0; j < bytes; j++) t->symbols[used++] = byte_ids[word[j]];
        const int32_t *symbols = t->symbols + t->words[i].begin;
        for (size_t j = 0; j + 1 < bytes; j++)
            change_pair(t, symbols[j], symbols[j + 1], i, t->words[i].times);
    }
    free(order);
}

// Merges a pair in one word, and says what that changes. How often the pair itself is there stays
// as it was, except where it overlaps itself: nobody asks any more.
static void merge_in_word(Trainer *t, int32_t number, TokenPair of, int32_t id) {
    Word *word = &t->words[number];
    int32_t *s = t->symbols + word->begin;
    int32_t kept = 0;
    for (int32_t i = 0; i < word->length; i++) {
        if (s[i] != of.left || i + 1 == word->length || s[i + 1] != of.right) {
            s[kept++] = s[i];
            continue;
        }
        if (kept > 0) {
            change_pair(t, s[kept - 1], of.left, number, -word->times);
            change_pair(t, s[kept - 1], id, number, word->times);
        }
        s[kept++] = id;
        i++;
        if (i + 1 < word->length) {
            change_pair(t, of.right, s[i + 1], number, -word->times);
            change_pair(t, id, s[i + 1], number, word->times);
        }
    }
    word->length = kept;
}

// ---- training -----------------------------------------------------------------------------------

// The token of both together, which may be there already by way of another merge.
static int32_t unite(TokenizerSpec *spec, TokenPair of) {
    size_t left_bytes, right_bytes;
    byte_strings_get(&spec->tokens, of.right, &right_bytes);
    const uint8_t *left = byte_strings_get(&spec->tokens, of.left, &left_bytes);
    uint8_t *text = malloc(left_bytes + right_bytes + 1);
    CHECK_MEMORY(text, "no memory for a token of %zu bytes", left_bytes + right_bytes);
    memcpy(text, left, left_bytes);
    memcpy(text + left_bytes, byte_strings_get(&spec->tokens, of.right, &right_bytes), right_bytes);
    int32_t id = byte_strings_add(&spec->tokens, text, left_bytes + right_bytes, NULL);
    free(text);
    return id;
}

static void add_merge(Trainer *t, int64_t pair) {
    TokenizerSpec *spec = t->spec;
    int64_t *earlier = &t->pairs[pair].merge;
    if (*earlier >= 0) spec->merges[*earlier].left = -1; // the last one counts
    spec->merges = grow(spec->merges, spec->merge_count, &t->merge_room, sizeof *spec->merges);
    *earlier = spec->merge_count;
    spec->merges[spec->merge_count++] = t->pairs[pair].of;
}

static void drop_earlier_merges(TokenizerSpec *spec) {
    int64_t kept = 0;
    for (int64_t i = 0; i < spec->merge_count; i++)
        if (spec->merges[i].left >= 0) spec->merges[kept++] = spec->merges[i];
    spec->merge_count = kept;
}

static void train(Trainer *t, int64_t size) {
    Candidate top;
    push_touched(t);
    while (t->spec->tokens.count < size && pop(t, &top)) {
        TokenPair of = t->pairs[top.pair].of;
        int32_t id = unite(t->spec, of);
        add_merge(t, top.pair);
        for (int64_t i = 0; i < top.words.count; i++) merge_in_word(t, top.words.words[i], of, id);
        free(top.words.words);
        push_touched(t);
    }
    drop_earlier_merges(t->spec);
}

static void trainer_free(Trainer *t) {
    for (int64_t i = 0; i < t->heap_count; i++) free(t->heap[i].words.words);
    free(t->words);
    free(t->symbols);
    free(t->pairs);
    free(t->slots);
    free(t->touched);
    free(t->heap);
}

bool bpe_train(const WordCounts *counts, int64_t size, SplitKind split, const char *special,
               TokenizerSpec *spec, Error *err) {
    TokenizerSpec s = {.split = split};
    int32_t byte_ids[256];
    bool ok = tokenizer_spec_add_special(&s, special, err);
    for (int place = 0; ok && place < 256; place++) {
        char text[2];
        uint8_t byte = byte_level_sorted(place);
        size_t bytes = byte_level_write(&byte, 1, text);
        byte_ids[byte] = byte_strings_add(&s.tokens, text, bytes, NULL);
    }
    if (ok && size < s.tokens.count)
        ok = error_set(err, EXIT_CONFIG,
                       "a vocabulary of %lld has no room for the 256 bytes and %d special tokens; "
                       "take at least %d",
                       (long long)size, (int)s.special_count, (int)s.tokens.count);
    if (!ok) {
        tokenizer_spec_free(&s);
        return false;
    }
    Trainer t = {.spec = &s};
    take_words(&t, counts, byte_ids);
    train(&t, size);
    trainer_free(&t);
    *spec = s;
    return true;
}
