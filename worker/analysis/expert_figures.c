#include "worker/analysis/expert_figures.h"

#include <stdlib.h>

#include "kernels/integers.h"

static const double MARGIN = 20, TITLE = 24, NAMES = 30;

static void title_of_layer(Svg *svg, double y, const LayerAccount *layer, const char *what) {
    char text[160];
    snprintf(text, sizeof text, "layer %lld: %s", (long long)layer->layer, what);
    svg_text(svg, MARGIN, y, SVG_START, text);
}

// ---- pairs --------------------------------------------------------------------------------------

enum { MOST_SHOWN = 32 };
static const double CELL = 14;

// The largest share of an expert's tokens that one other expert has too.
static double companionship(const LayerAccount *layer, int64_t expert) {
    double most = 0;
    for (int64_t other = 0; other < layer->experts; other++)
        if (other != expert && expert_together(layer, expert, other) > most)
            most = expert_together(layer, expert, other);
    return most;
}

// Which experts are shown, in ascending order.
static int64_t choose_shown(const LayerAccount *layer, int64_t shown[MOST_SHOWN]) {
    int64_t E = layer->experts, count = 0;
    double *most = malloc((size_t)E * sizeof *most);
    CHECK_MEMORY(most, "no memory for %lld experts", (long long)E);
    for (int64_t e = 0; e < E; e++) most[e] = companionship(layer, e);
    for (int64_t e = 0; e < E && count < MOST_SHOWN; e++) {
        int64_t before = 0; // experts with more, lower numbers first
        for (int64_t other = 0; other < E; other++)
            before += most[other] > most[e] || (most[other] == most[e] && other < e);
        if (before < MOST_SHOWN) shown[count++] = e;
    }
    free(most);
    return count;
}

static void draw_pairs(Svg *svg, double top, const LayerAccount *layer, const int64_t *shown,
                       int64_t count) {
    char text[96], colour[8];
    double left = MARGIN + NAMES;
    for (int64_t i = 0; i < count; i++) {
        snprintf(text, sizeof text, "%lld", (long long)shown[i]);
        svg_text(svg, left - 4, top + ((double)i + 0.8) * CELL, SVG_END, text);
        svg_text(svg, left + ((double)i + 0.45) * CELL, top - 4, SVG_MIDDLE, text);
        for (int64_t j = 0; j < count; j++) {
            if (i == j) continue;
            double share = expert_together(layer, shown[i], shown[j]);
            snprintf(text, sizeof text, "%.1f %% of expert %lld's tokens chose %lld too",
                     100 * share, (long long)shown[i], (long long)shown[j]);
            svg_shade(share, colour);
            svg_rectangle(svg, left + (double)j * CELL, top + (double)i * CELL, CELL - 1, CELL - 1,
                          colour, text);
        }
    }
}

void figure_coactivation(Svg *svg, const ExpertAccount *account) {
    int64_t most = 0;
    double height = MARGIN;
    for (int64_t l = 0; l < account->count; l++) {
        int64_t count = smaller(account->layers[l].experts, MOST_SHOWN);
        most = larger(most, count);
        height += 2 * TITLE + (double)count * CELL;
    }
    double width = 2 * MARGIN + NAMES + (double)most * CELL;
    svg_begin(svg, width < 420 ? 420 : width, height);
    double y = MARGIN;
    for (int64_t l = 0; l < account->count; l++) {
        int64_t shown[MOST_SHOWN], count = choose_shown(&account->layers[l], shown);
        title_of_layer(svg, y + 4, &account->layers[l],
                       "share of a row's tokens that chose the column's expert too");
        draw_pairs(svg, y + TITLE, &account->layers[l], shown, count);
        y += 2 * TITLE + (double)count * CELL;
    }
    svg_finish(svg);
}

// ---- domains ------------------------------------------------------------------------------------

static const double BAR = 5, PANEL = 120;

static double largest_share(const ExpertAccount *account, const LayerAccount *layer) {
    double most = (double)layer->top_k / (double)layer->experts;
    for (int64_t s = 0; s < account->sets; s++)
        for (int64_t e = 0; e < layer->experts; e++)
            if (expert_domain(account, layer, s, e) > most)
                most = expert_domain(account, layer, s, e);
    return most;
}

static void draw_bars(Svg *svg, double top, const ExpertAccount *account, const LayerAccount *layer,
                      const char *const *names) {
    char text[256];
    double left = MARGIN + NAMES + 10, step = BAR * (double)account->sets + 6;
    double most = largest_share(account, layer), bottom = top + PANEL;
    double even = (double)layer->top_k / (double)layer->experts;
    double right = left + step * (double)layer->experts;
    snprintf(text, sizeof text, "%.0f %%", 100 * most);
    svg_text(svg, left - 6, top + 8, SVG_END, text);
    svg_text(svg, left - 6, bottom, SVG_END, "0 %");
    for (int64_t e = 0; e < layer->experts; e++) {
        double x = left + step * (double)e;
        for (int64_t s = 0; s < account->sets; s++) {
            double share = expert_domain(account, layer, s, e), high = PANEL * share / most;
            snprintf(text, sizeof text, "%.100s: %.2f %% of its tokens chose expert %lld", names[s],
                     100 * share, (long long)e);
            svg_rectangle(svg, x + BAR * (double)s, bottom - high, BAR, high, svg_colour(s), text);
        }
        snprintf(text, sizeof text, "%lld", (long long)e);
        bool named = step >= 16 || e % 4 == 0; // where numbers have room
        if (named)
            svg_text(svg, x + BAR * (double)account->sets / 2, bottom + 13, SVG_MIDDLE, text);
    }
    svg_line(svg, left, bottom, right, bottom, "#000000", false);
    svg_line(svg, left, bottom - PANEL * even / most, right, bottom - PANEL * even / most,
             "#000000", true);
}

void figure_domains(Svg *svg, const ExpertAccount *account, const char *const *set_names) {
    const double high = TITLE + PANEL + MARGIN + 10;
    int64_t experts = 0;
    for (int64_t l = 0; l < account->count; l++)
        experts = larger(experts, account->layers[l].experts);
    double width = 3 * MARGIN + NAMES + (BAR * (double)account->sets + 6) * (double)experts;
    double y = MARGIN + 16 * (double)account->sets;
    svg_begin(svg, width < 520 ? 520 : width, y + high * (double)account->count + MARGIN);
    for (int64_t s = 0; s < account->sets; s++) {
        double at = MARGIN + 16 * (double)s;
        svg_rectangle(svg, MARGIN, at - 9, 10, 10, svg_colour(s), NULL);
        svg_text(svg, MARGIN + 16, at, SVG_START, set_names[s]);
    }
    for (int64_t l = 0; l < account->count; l++, y += high) {
        title_of_layer(svg, y + 8, &account->layers[l],
                       "share of each data set's tokens that chose an expert");
        draw_bars(svg, y + TITLE, account, &account->layers[l], set_names);
    }
    svg_finish(svg);
}

// ---- vocabulary ---------------------------------------------------------------------------------

enum { TOKENS_SHOWN = 10 };

// Whether token a is before b in an expert's list: by share, then by occurrences, then by number.
static bool is_before(const ExpertAccount *account, const LayerAccount *layer, int64_t expert,
                      int64_t a, int64_t b) {
    double of_a = expert_vocabulary(account, layer, a, expert);
    double of_b = expert_vocabulary(account, layer, b, expert);
    if (of_a != of_b) return of_a > of_b;
    if (account->tokens[a] != account->tokens[b]) return account->tokens[a] > account->tokens[b];
    return a < b;
}

static int choose_tokens(const ExpertAccount *account, const LayerAccount *layer, int64_t expert,
                         int64_t top[TOKENS_SHOWN]) {
    int count = 0;
    for (int64_t v = 0; v < account->vocab_size; v++) {
        if (account->tokens[v] < FEWEST_OCCURRENCES ||
            layer->of_token[v * layer->experts + expert] == 0)
            continue;
        int at = count < TOKENS_SHOWN ? count++ : TOKENS_SHOWN;
        while (at > 0 && is_before(account, layer, expert, v, top[at - 1])) {
            if (at < TOKENS_SHOWN) top[at] = top[at - 1];
            at--;
        }
        if (at < TOKENS_SHOWN) top[at] = v;
    }
    return count;
}

// Behind the data's tokens a masked model has one of its own.
static const char *word_of(const Vocabulary *vocabulary, int64_t token, char scratch[32],
                           size_t *bytes) {
    static const char mask[] = "[MASK]";
    *bytes = sizeof mask - 1;
    if (token >= vocabulary->size) return mask;
    return vocabulary_decode(vocabulary, (int32_t)token, scratch, bytes);
}

static void list_tokens(Svg *svg, double y, const ExpertAccount *account, const LayerAccount *layer,
                        int64_t expert, const Vocabulary *vocabulary) {
    int64_t top[TOKENS_SHOWN];
    char text[160], colour[8], word[64];
    int count = choose_tokens(account, layer, expert, top);
    snprintf(text, sizeof text, "%lld", (long long)expert);
    svg_text(svg, MARGIN + NAMES - 6, y, SVG_END, text);
    for (int i = 0; i < count; i++) {
        char scratch[32];
        size_t bytes;
        const char *token = word_of(vocabulary, top[i], scratch, &bytes);
        double share = expert_vocabulary(account, layer, top[i], expert), x = MARGIN + NAMES;
        snprintf(word, sizeof word, "%.*s", bytes < 40 ? (int)bytes : 40, token);
        snprintf(text, sizeof text, "%lld occurrences of token %lld",
                 (long long)account->tokens[top[i]], (long long)top[i]);
        svg_shade(share / 2, colour); // words stay readable
        x += 110.0 * i;
        svg_rectangle(svg, x, y - 11, 106, 14, colour, text);
        snprintf(text, sizeof text, "'%s' %.0f %%", word, 100 * share);
        svg_text(svg, x + 3, y, SVG_START, text);
    }
}

void figure_vocabulary(Svg *svg, const ExpertAccount *account, const Vocabulary *vocabulary) {
    double height = MARGIN;
    for (int64_t l = 0; l < account->count; l++)
        height += TITLE + 16 * (double)account->layers[l].experts + MARGIN;
    svg_begin(svg, 2 * MARGIN + NAMES + 110.0 * TOKENS_SHOWN, height);
    double y = MARGIN;
    for (int64_t l = 0; l < account->count; l++) {
        const LayerAccount *layer = &account->layers[l];
        title_of_layer(svg, y + 4, layer, "tokens most of whose occurrences chose an expert");
        y += TITLE;
        for (int64_t e = 0; e < layer->experts; e++, y += 16)
            list_tokens(svg, y, account, layer, e, vocabulary);
        y += MARGIN;
    }
    svg_finish(svg);
}
