#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *zeros(int64_t n) {
    double *x = calloc((size_t)n + 1, sizeof *x);
    CHECK(x, "no memory for %lld doubles", (long long)n);
    return x;
}

// First column, width and weight of group i of a row.
typedef struct Group {
    int64_t first, width;
    const float *weight;
    int64_t at; // of its share of dq and dk, one behind the other
} Group;

static Group group_at(AttentionShape s, QkNorm norm, int64_t i) {
    bool whole = norm.kind == QK_NORM_WHOLE;
    int64_t q_groups = whole ? 1 : s.heads, q_width = whole ? s.heads * s.d_head : s.d_head;
    bool is_key = i >= q_groups;
    return (Group){is_key && whole ? q_width : i * q_width,
                   is_key && whole ? s.kv_heads * s.d_head : q_width,
                   tensor_f32(is_key ? norm.k_weight : norm.q_weight), is_key ? q_width : 0};
}

static double inverse_root_mean_square(const float *x, int64_t n, double eps) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return 1 / sqrt(sum / (double)n + eps);
}

void reference_qk_norm_forward(double *out, double *rstd, const float *x, AttentionShape s,
                               QkNorm norm, int64_t N) {
    int64_t W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    int64_t groups = norm.kind == QK_NORM_WHOLE ? 2 : s.heads + s.kv_heads;
    for (int64_t n = 0; n < N; n++) {
        for (int64_t c = 0; c < W; c++) out[n * W + c] = (double)x[n * W + c];
        for (int64_t i = 0; i < groups; i++) {
            Group g = group_at(s, norm, i);
            double *to = out + n * W + g.first;
            double scale = inverse_root_mean_square(x + n * W + g.first, g.width, (double)norm.eps);
            rstd[n * groups + i] = scale;
            for (int64_t d = 0; d < g.width; d++) to[d] *= scale * (double)g.weight[d];
        }
    }
}

void reference_qk_norm_backward(double *dx, double *dx_unit, double *dweights, double *magnitude,
                                const float *dout, const float *x, AttentionShape s, QkNorm norm,
                                int64_t N) {
    int64_t W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    bool whole = norm.kind == QK_NORM_WHOLE;
    int64_t groups = whole ? 2 : s.heads + s.kv_heads;
    int64_t weights = whole ? (s.heads + s.kv_heads) * s.d_head : 2 * s.d_head;
    memset(dweights, 0, (size_t)weights * sizeof *dweights);
    memset(magnitude, 0, (size_t)weights * sizeof *magnitude);
    for (int64_t n = 0; n < N; n++) {
        for (int64_t c = 0; c < W; c++) {
            dx[n * W + c] = (double)dout[n * W + c];
            dx_unit[n * W + c] = 0;
        }
        for (int64_t i = 0; i < groups; i++) {
            Group g = group_at(s, norm, i);
            const float *in = x + n * W + g.first, *dy = dout + n * W + g.first;
            double scale = inverse_root_mean_square(in, g.width, (double)norm.eps);
            double mean = 0, size = 0; // of g x̂
            for (int64_t d = 0; d < g.width; d++) {
                double term = (double)dy[d] * (double)g.weight[d] * (double)in[d] * scale;
                mean += term / (double)g.width;
                size += fabs(term) / (double)g.width;
            }
            for (int64_t d = 0; d < g.width; d++) {
                double unit = (double)in[d] * scale, product = (double)dy[d] * (double)g.weight[d];
                int64_t at = n * W + g.first + d;
                dx[at] = scale * (product - unit * mean);
                dx_unit[at] = scale * (fabs(product) + fabs(unit) * size);
                dweights[g.at + d] += (double)dy[d] * unit;
                magnitude[g.at + d] += fabs((double)dy[d] * unit);
            }
        }
    }
}

void reference_rope(double *row, AttentionShape s, const float *cosines, const float *sines,
                    int64_t half, int64_t position, bool inverse) {
    for (int64_t head = 0; head < s.heads + s.kv_heads; head++)
        for (int64_t i = 0; i < half; i++) {
            double c = (double)cosines[position * half + i];
            double t = (double)sines[position * half + i] * (inverse ? -1 : 1);
            double *a = row + head * s.d_head + i, *b = a + half;
            double turned_a = *a * c - *b * t, turned_b = *a * t + *b * c;
            *a = turned_a;
            *b = turned_b;
        }
}

// What dropout multiplies p (T, T) of head h by in the sequence that begins at row `first`.
static void head_dropout(double *factors, AttentionRule rule, int64_t first, int64_t h) {
    int64_t T = rule.T, H = rule.shape.heads, pieces = (T + 7) / 8;
    double below = floor((double)rule.dropout.rate * 65536 + 0.5);
    for (int64_t i = 0; i < T; i++)
        for (int64_t j = 0; j < T; j++) {
            uint32_t words[4];
            int64_t index = ((rule.dropout.first_token + first + i) * H + h) * pieces + j / 8;
            rng_words(rule.dropout.stream, (uint64_t)index, words);
            uint32_t word = words[j % 8 / 2], bits = j % 2 == 0 ? word & 0xffff : word >> 16;
            factors[i * T + j] = (double)bits < below ? 0 : 65536 / (65536 - below);
        }
}

// One head: the softmax's probabilities p (T, T), what its sink gets of each row (T), the
// derivatives of the cap (T, T), and, if wanted, the logarithm of each row's denominator and the
// largest score of each row before cap and slope. `row` is the sequence's first.
typedef struct Probabilities {
    double *p, *sink, *cap, *lse, *largest;
} Probabilities;

// Whether a query of the sequence whose first row is `row` sees a key.
static bool sees(AttentionRule rule, int64_t row, int64_t query, int64_t key) {
    if (key > query) return rule.bidirectional && sees(rule, row, key, query);
    if (rule.window > 0 && query - key >= rule.window) return false;
    return !rule.positions.data || query - key <= tensor_i32(rule.positions)[row + query];
}

static void head_probabilities(Probabilities to, const float *q, const float *k, AttentionRule rule,
                               int64_t row, int64_t h) {
    double *p = to.p, *sink_p = to.sink, *lse = to.lse;
    double cap = (double)rule.softcap;
    double slope = rule.slopes.data ? (double)tensor_f32(rule.slopes)[h] : 0;
    int64_t T = rule.T, W = attention_qkv_width(rule.shape), d_head = rule.shape.d_head;
    double scale = (double)rule.scale, sink = -INFINITY;
    if (rule.softmax == SOFTMAX_OFF_BY_ONE) sink = 0;
    if (rule.softmax == SOFTMAX_SINK) sink = (double)tensor_f32(rule.sinks)[h];
    for (int64_t i = 0; i < T; i++) {
        int64_t first = i, last = i;
        while (first > 0 && sees(rule, row, i, first - 1)) first--;
        while (last + 1 < T && sees(rule, row, i, last + 1)) last++;
        double largest = sink, sum = 0;
        for (int64_t j = first; j <= last; j++) {
            double score = 0;
            for (int64_t d = 0; d < d_head; d++)
                score += (double)q[i * W + d] * (double)k[j * W + d];
            score *= scale;
            if (to.largest)
                to.largest[i * rule.shape.heads] =
                    j == first ? score : fmax(to.largest[i * rule.shape.heads], score);
            to.cap[i * T + j] = cap > 0 ? 1 - tanh(score / cap) * tanh(score / cap) : 1;
            if (cap > 0) score = cap * tanh(score / cap);
            p[i * T + j] = score - slope * fabs((double)(i - j));
            largest = fmax(largest, p[i * T + j]);
        }
        for (int64_t j = first; j <= last; j++) sum += exp(p[i * T + j] - largest);
        sum += exp(sink - largest);
        sink_p[i] = exp(sink - largest) / sum;
        for (int64_t j = 0; j < T; j++)
            p[i * T + j] = first <= j && j <= last ? exp(p[i * T + j] - largest) / sum : 0;
        if (lse) lse[i * rule.shape.heads] = largest + log(sum);
    }
}

void reference_attention_forward(double *out, double *lse, double *largest, const float *qkv,
                                 AttentionRule rule, int64_t N) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    double *p = zeros(T * T), *sink_p = zeros(T), *cap = zeros(T * T), *kept = zeros(T * T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads);
            const float *q = qkv + first * W + h * s.d_head;
            const float *k = qkv + first * W + (s.heads + kv) * s.d_head;
            const float *v = qkv + first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            Probabilities head = {p, sink_p, cap, lse + first * s.heads + h,
                                  largest + first * s.heads + h};
            head_probabilities(head, q, k, rule, first, h);
            head_dropout(kept, rule, first, h);
            for (int64_t i = 0; i < T; i++)
                for (int64_t c = 0; c < s.d_value; c++) {
                    double sum = 0;
                    for (int64_t j = 0; j < T; j++)
                        sum += p[i * T + j] * kept[i * T + j] * (double)v[j * W + c];
                    out[(first + i) * s.heads * s.d_value + h * s.d_value + c] = sum;
                }
        }
    free(p);
    free(sink_p);
    free(cap);
    free(kept);
}

void reference_attention_backward(double *dqkv, double *dsinks, const float *dout, const float *qkv,
                                  AttentionRule rule, int64_t N) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    int64_t O = s.heads * s.d_value;
    memset(dqkv, 0, (size_t)(N * W) * sizeof *dqkv);
    memset(dsinks, 0, (size_t)s.heads * sizeof *dsinks);
    double *p = zeros(T * T), *dp = zeros(T), *sink_p = zeros(T);
    double *cap = zeros(T * T), *kept = zeros(T * T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads);
            int64_t at_q = first * W + h * s.d_head;
            int64_t at_k = first * W + (s.heads + kv) * s.d_head;
            int64_t at_v = first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            head_probabilities((Probabilities){p, sink_p, cap, NULL, NULL}, qkv + at_q, qkv + at_k,
                               rule, first, h);
            head_dropout(kept, rule, first, h);
            for (int64_t i = 0; i < T; i++) {
                const float *g = dout + (first + i) * O + h * s.d_value;
                double mean = 0;
                for (int64_t j = 0; j < T; j++) {
                    dp[j] = 0;
                    for (int64_t c = 0; c < s.d_value; c++) {
                        dp[j] += (double)g[c] * (double)qkv[at_v + j * W + c];
                        dqkv[at_v + j * W + c] += p[i * T + j] * kept[i * T + j] * (double)g[c];
                    }
                    dp[j] *= kept[i * T + j];
                    mean += p[i * T + j] * dp[j];
                }
                dsinks[h] -= sink_p[i] * mean;
                for (int64_t j = 0; j < T; j++) {
                    double ds = p[i * T + j] * (dp[j] - mean) * cap[i * T + j] * (double)rule.scale;
                    for (int64_t d = 0; d < s.d_head; d++) {
                        dqkv[at_q + i * W + d] += ds * (double)qkv[at_k + j * W + d];
                        dqkv[at_k + j * W + d] += ds * (double)qkv[at_q + i * W + d];
                    }
                }
            }
        }
    free(p);
    free(dp);
    free(sink_p);
    free(cap);
    free(kept);
}

// Adds the squares of one head's errors. Pointers are at the head's first number in the sequence's
// first row.
typedef struct HeadRounding {
    double *out, *dq, *dk, *dv, *dsink; // squares
    const float *q, *k, *v, *dout;
    const double *p, *sink_p, *cap, *kept; // (T, T), the second (T)
    int64_t W, O;                          // row lengths of qkv and of out
    int64_t d_head, d_value, T;
    double scale;
} HeadRounding;

static double square(double x) {
    return x * x;
}

static void head_rounding(HeadRounding r) {
    double *dp = zeros(r.T), *mean_key = zeros(r.d_head);
    for (int64_t i = 0; i < r.T; i++) {
        const double *p = r.p + i * r.T, *cap = r.cap + i * r.T, *kept = r.kept + i * r.T;
        const float *g = r.dout + i * r.O;
        double delta = 0, delta_error = 0; // delta = Σ dout · out
        for (int64_t c = 0; c < r.d_value; c++) {
            double out = 0, errors = 0;
            for (int64_t j = 0; j < r.T; j++) {
                double v = (double)r.v[j * r.W + c];
                out += p[j] * kept[j] * v;
                errors += square(p[j] * kept[j] * v);
                r.dv[j * r.W + c] += square(p[j] * kept[j] * (double)g[c]);
            }
            r.out[i * r.O + c] = errors;
            delta += (double)g[c] * out;
            delta_error += square((double)g[c]) * (errors + square(out));
        }
        *r.dsink += square(r.sink_p[i]) * delta_error;
        memset(mean_key, 0, (size_t)r.d_head * sizeof *mean_key);
        for (int64_t j = 0; j < r.T; j++) {
            dp[j] = 0;
            for (int64_t c = 0; c < r.d_value; c++)
                dp[j] += (double)g[c] * (double)r.v[j * r.W + c];
            dp[j] *= kept[j];
            double own = square(r.scale * p[j] * cap[j] * (dp[j] - delta));
            double common =
                square(r.scale * p[j] * cap[j]) * delta_error; // the same delta for all keys
            for (int64_t d = 0; d < r.d_head; d++) {
                double k = (double)r.k[j * r.W + d];
                r.dk[j * r.W + d] += (own + common) * square((double)r.q[i * r.W + d]);
                r.dq[i * r.W + d] += own * square(k);
                mean_key[d] += p[j] * cap[j] * k;
            }
        }
        for (int64_t d = 0; d < r.d_head; d++)
            r.dq[i * r.W + d] += square(r.scale * mean_key[d]) * delta_error;
    }
    free(dp);
    free(mean_key);
}

void reference_attention_rounding(double *out_unit, double *dqkv_unit, double *dsinks_unit,
                                  const float *dout, const float *qkv, AttentionRule rule,
                                  int64_t N) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    int64_t O = s.heads * s.d_value;
    memset(dqkv_unit, 0, (size_t)(N * W) * sizeof *dqkv_unit);
    memset(dsinks_unit, 0, (size_t)s.heads * sizeof *dsinks_unit);
    double *p = zeros(T * T), *sink_p = zeros(T), *cap = zeros(T * T), *kept = zeros(T * T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads), out = first * O + h * s.d_value;
            int64_t q = first * W + h * s.d_head, k = first * W + (s.heads + kv) * s.d_head;
            int64_t v = first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            head_probabilities((Probabilities){p, sink_p, cap, NULL, NULL}, qkv + q, qkv + k, rule,
                               first, h);
            head_dropout(kept, rule, first, h);
            head_rounding((HeadRounding){out_unit + out, dqkv_unit + q, dqkv_unit + k,
                                         dqkv_unit + v, dsinks_unit + h, qkv + q, qkv + k, qkv + v,
                                         dout + out, p, sink_p, cap, kept, W, O, s.d_head,
                                         s.d_value, T, (double)rule.scale});
        }
    for (int64_t i = 0; i < N * O; i++) out_unit[i] = sqrt(out_unit[i]);
    for (int64_t i = 0; i < N * W; i++) dqkv_unit[i] = sqrt(dqkv_unit[i]);
    for (int64_t h = 0; h < s.heads; h++) dsinks_unit[h] = sqrt(dsinks_unit[h]);
    free(p);
    free(sink_p);
    free(cap);
    free(kept);
}
