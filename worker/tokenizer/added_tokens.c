#include "worker/tokenizer/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/utf8.h"

void added_tokens_add(AddedTokens *tokens, const AddedToken *token) {
    if (tokens->count == tokens->room) {
        tokens->room = tokens->room ? tokens->room * 2 : 16;
        tokens->rows = realloc(tokens->rows, (size_t)tokens->room * sizeof *tokens->rows);
        CHECK_MEMORY(tokens->rows, "no memory for %d added tokens", (int)tokens->room);
    }
    AddedToken *row = &tokens->rows[tokens->count++];
    *row = *token;
    row->content = malloc(token->bytes + 1);
    CHECK_MEMORY(row->content, "no memory for a token of %zu bytes", token->bytes);
    memcpy(row->content, token->content, token->bytes);
    row->content[token->bytes] = '\0';
}

void added_tokens_free(AddedTokens *tokens) {
    for (int32_t i = 0; i < tokens->count; i++) free(tokens->rows[i].content);
    free(tokens->rows);
    *tokens = (AddedTokens){0};
}

// ---- the search ---------------------------------------------------------------------------------

static int compare_contents(const void *a, const void *b) {
    const AddedToken *x = *(AddedToken *const *)a, *y = *(AddedToken *const *)b;
    size_t shorter = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->content, y->content, shorter);
    return order ? order : (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

void token_search_open(TokenSearch *search, const AddedTokens *tokens, bool normalized) {
    *search = (TokenSearch){.rows = calloc((size_t)tokens->count + 1, sizeof *search->rows)};
    CHECK_MEMORY(search->rows, "no memory for %d added tokens", (int)tokens->count);
    for (int32_t i = 0; i < tokens->count; i++) {
        const AddedToken *row = &tokens->rows[i];
        if (row->hidden || row->normalized != normalized) continue;
        search->rows[search->count++] = row;
        search->begins[row->content[0]] = true;
    }
    qsort(search->rows, (size_t)search->count, sizeof *search->rows, compare_contents);
}

void token_search_close(TokenSearch *search) {
    free(search->rows);
    *search = (TokenSearch){0};
}

// The first of rows [low, high), which agree in `depth` bytes, whose next byte is at least `byte`;
// those that end there come first.
static int32_t lower_bound(const TokenSearch *search, int32_t low, int32_t high, size_t depth,
                           int byte) {
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        const AddedToken *row = search->rows[middle];
        if (row->bytes > depth && row->content[depth] >= byte)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static const AddedToken *longest_at(const TokenSearch *search, const uint8_t *text, size_t bytes) {
    const AddedToken *longest = NULL;
    int32_t low = 0, high = search->count;
    for (size_t depth = 0; depth < bytes; depth++) {
        low = lower_bound(search, low, high, depth, text[depth]);
        high = lower_bound(search, low, high, depth, text[depth] + 1);
        if (low == high) break;
        if (search->rows[low]->bytes == depth + 1) longest = search->rows[low];
    }
    return longest;
}

const AddedToken *token_search_next(const TokenSearch *search, const uint8_t *text, size_t bytes,
                                    size_t *at) {
    if (search->count == 0) return NULL;
    for (size_t i = *at; i < bytes; i++) {
        if (!search->begins[text[i]]) continue;
        const AddedToken *found = longest_at(search, text + i, bytes - i);
        if (!found) continue;
        *at = i;
        return found;
    }
    return NULL;
}

// ---- white space --------------------------------------------------------------------------------

static bool is_space(int32_t c) { // White_Space of Unicode
    return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

size_t white_space_after(const uint8_t *text, size_t begin, size_t end) {
    size_t at = begin;
    while (at < end) {
        int32_t character;
        int length = utf8_decode(text + at, end - at, &character);
        if (length == 0 || !is_space(character)) break;
        at += (size_t)length;
    }
    return at - begin;
}

size_t white_space_before(const uint8_t *text, size_t begin, size_t end) {
    size_t at = end;
    while (at > begin) {
        size_t start = at - 1;
        int32_t character;
        while (start > begin && (text[start] & 0xC0) == 0x80) start--;
        if (utf8_decode(text + start, at - start, &character) == 0 || !is_space(character)) break;
        at = start;
    }
    return end - at;
}
