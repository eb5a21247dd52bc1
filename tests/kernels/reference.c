#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double *zeros(int64_t n) {
    return calloc((size_t)n + 1, sizeof(double));
}

// ---- matrices -----------------------------------------------------------------------------------

// Group that serves row m, or -1.
static int64_t group_of(Segments rows, int64_t m) {
    for (int64_t i = 0; i < rows.groups * rows.parts; i++)
        if (m >= rows.offsets[i] && m < rows.offsets[i + 1]) return i / rows.parts;
    return -1;
}

void reference_matmul_forward(double *y, double *magnitude, const float *x, const float *w,
                              Segments rows, int64_t N, int64_t K) {
    for (int64_t m = rows.offsets[0]; m < rows.offsets[rows.groups * rows.parts]; m++) {
        int64_t g = group_of(rows, m);
        for (int64_t n = 0; n < N; n++) {
            double sum = 0, absolute = 0;
            for (int64_t k = 0; k < K; k++) {
                double product = (double)x[m * K + k] * (double)w[(g * N + n) * K + k];
                sum += product;
                absolute += fabs(product);
            }
            y[m * N + n] = sum;
            if (magnitude) magnitude[m * N + n] = absolute;
        }
    }
}

void reference_matmul_backward_input(double *dx, double *magnitude, const float *dy, const float *w,
                                     Segments rows, int64_t N, int64_t K) {
    for (int64_t m = rows.offsets[0]; m < rows.offsets[rows.groups * rows.parts]; m++) {
        int64_t g = group_of(rows, m);
        for (int64_t k = 0; k < K; k++) {
            double sum = 0, absolute = 0;
            for (int64_t n = 0; n < N; n++) {
                double product = (double)dy[m * N + n] * (double)w[(g * N + n) * K + k];
                sum += product;
                absolute += fabs(product);
            }
            dx[m * K + k] = sum;
            if (magnitude) magnitude[m * K + k] = absolute;
        }
    }
}

void reference_matmul_backward_weight(double *dw, double *magnitude, const float *dy,
                                      const float *x, Segments rows, int64_t N, int64_t K) {
    for (int64_t g = 0; g < rows.groups; g++)
        for (int64_t n = 0; n < N; n++)
            for (int64_t k = 0; k < K; k++) {
                double sum = 0, absolute = 0;
                for (int64_t m = rows.offsets[g * rows.parts];
                     m < rows.offsets[(g + 1) * rows.parts]; m++) {
                    double product = (double)dy[m * N + n] * (double)x[m * K + k];
                    sum += product;
                    absolute += fabs(product);
                }
                dw[(g * N + n) * K + k] = sum;
                if (magnitude) magnitude[(g * N + n) * K + k] = absolute;
            }
}

// ---- embedding ----------------------------------------------------------------------------------

void reference_bias_backward(double *dbias, double *magnitude, const float *dy, Segments rows,
                             int64_t N) {
    for (int64_t i = 0; i < rows.groups * N; i++) dbias[i] = magnitude[i] = 0;
    for (int64_t g = 0; g < rows.groups; g++)
        for (int64_t row = rows.offsets[g * rows.parts]; row < rows.offsets[(g + 1) * rows.parts];
             row++)
            for (int64_t i = 0; i < N; i++) {
                dbias[g * N + i] += (double)dy[row * N + i];
                magnitude[g * N + i] += fabs((double)dy[row * N + i]);
            }
}

void reference_embedding_backward(double *dweight, double *magnitude, const float *dout,
                                  const int32_t *tokens, int64_t N, int64_t D, int64_t V) {
    memset(dweight, 0, (size_t)(V * D) * sizeof *dweight);
    if (magnitude) memset(magnitude, 0, (size_t)(V * D) * sizeof *magnitude);
    for (int64_t n = 0; n < N; n++)
        for (int64_t d = 0; d < D; d++) {
            dweight[tokens[n] * D + d] += (double)dout[n * D + d];
            if (magnitude) magnitude[tokens[n] * D + d] += fabs((double)dout[n * D + d]);
        }
}

// ---- norms --------------------------------------------------------------------------------------

// What a norm does to a row: x̂ = (x - mean) rstd.
typedef struct RowNorm {
    double mean, rstd;
} RowNorm;

static RowNorm row_norm(const float *x, int64_t D, NormRule rule) {
    double mean = 0, sum = 0;
    switch (rule.kind) {
    case RMSNORM:
        for (int64_t d = 0; d < D; d++) sum += (double)x[d] * (double)x[d];
        return (RowNorm){0, 1.0 / sqrt(sum / (double)D + (double)rule.eps)};
    case LAYERNORM:
        for (int64_t d = 0; d < D; d++) mean += (double)x[d] / (double)D;
        for (int64_t d = 0; d < D; d++) sum += ((double)x[d] - mean) * ((double)x[d] - mean);
        return (RowNorm){mean, 1.0 / sqrt(sum / (double)D + (double)rule.eps)};
    }
    CHECK(false, "norm %d", (int)rule.kind);
}

void reference_normalize_forward(double *out, double *statistics, const float *x,
                                 const float *weight, const float *bias, NormRule rule, int64_t N,
                                 int64_t D) {
    for (int64_t n = 0; n < N; n++) {
        RowNorm row = row_norm(x + n * D, D, rule);
        statistics[n] = row.rstd;
        if (norm_statistics(rule.kind) > 1) statistics[N + n] = row.mean;
        for (int64_t d = 0; d < D; d++)
            out[n * D + d] = ((double)x[n * D + d] - row.mean) * row.rstd * (double)weight[d] +
                             (bias ? (double)bias[d] : 0);
    }
}

// y_i = x̂_i w_i + b_i. With h = g · w: ∂rstd/∂x_j = -rstd³ (x_j - mean) / D and, where the mean is
// subtracted, ∂mean/∂x_j = 1 / D; hence dx_j = rstd (h_j - x̂_j Σ h x̂ / D - Σ h / D).
void reference_normalize_backward(double *dx, double *dweight, double *dbias, double *magnitude,
                                  const float *dout, const float *x, const float *weight,
                                  NormRule rule, int64_t N, int64_t D) {
    bool centred = norm_statistics(rule.kind) > 1;
    memset(magnitude, 0, (size_t)(2 * D) * sizeof *magnitude);
    for (int64_t d = 0; d < D; d++) dweight[d] = 0;
    for (int64_t d = 0; d < D && dbias; d++) dbias[d] = 0;
    for (int64_t n = 0; n < N; n++) {
        const float *g = dout + n * D;
        RowNorm row = row_norm(x + n * D, D, rule);
        double sum = 0, product = 0;
        for (int64_t d = 0; d < D; d++) {
            double unit = ((double)x[n * D + d] - row.mean) * row.rstd;
            sum += (double)g[d] * (double)weight[d];
            product += (double)g[d] * (double)weight[d] * unit;
        }
        for (int64_t d = 0; d < D; d++) {
            double unit = ((double)x[n * D + d] - row.mean) * row.rstd;
            dx[n * D + d] =
                row.rstd * ((double)g[d] * (double)weight[d] - unit * product / (double)D -
                            (centred ? sum / (double)D : 0));
            dweight[d] += (double)g[d] * unit;
            magnitude[d] += fabs((double)g[d] * unit);
            // A mean is rounded, and made of rounded sums of numbers below 2.
            if (centred) magnitude[d] += fabs((double)g[d]) * row.rstd * (fabs(row.mean) + 0.1);
            if (dbias) dbias[d] += (double)g[d];
            magnitude[D + d] += fabs((double)g[d]);
        }
    }
}

// ---- attention ----------------------------------------------------------------------------------

void reference_rope(double *row, AttentionShape s, const float *cosines, const float *sines,
                    int64_t position, bool inverse) {
    int64_t half = s.d_head / 2;
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

// Softmax probabilities p (T, T) of head h, what its sink gets of each row (T), and, if wanted, the
// logarithm of each row's denominator.
static void head_probabilities(double *p, double *sink_p, double *lse, const float *q,
                               const float *k, AttentionRule rule, int64_t h) {
    int64_t T = rule.T, W = attention_qkv_width(rule.shape), d_head = rule.shape.d_head;
    double scale = (double)rule.scale, sink = -INFINITY;
    if (rule.softmax == SOFTMAX_OFF_BY_ONE) sink = 0;
    if (rule.softmax == SOFTMAX_SINK) sink = (double)tensor_f32(rule.sinks)[h];
    for (int64_t i = 0; i < T; i++) {
        int64_t first = rule.window > 0 && i >= rule.window ? i - rule.window + 1 : 0;
        double largest = sink, sum = 0;
        for (int64_t j = first; j <= i; j++) {
            double score = 0;
            for (int64_t d = 0; d < d_head; d++)
                score += (double)q[i * W + d] * (double)k[j * W + d];
            p[i * T + j] = score * scale;
            largest = fmax(largest, score * scale);
        }
        for (int64_t j = first; j <= i; j++) sum += exp(p[i * T + j] - largest);
        sum += exp(sink - largest);
        sink_p[i] = exp(sink - largest) / sum;
        for (int64_t j = 0; j < T; j++)
            p[i * T + j] = first <= j && j <= i ? exp(p[i * T + j] - largest) / sum : 0;
        if (lse) lse[i * rule.shape.heads] = largest + log(sum);
    }
}

void reference_attention_forward(double *out, double *lse, const float *qkv, AttentionRule rule,
                                 int64_t N) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    double *p = zeros(T * T), *sink_p = zeros(T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads);
            const float *q = qkv + first * W + h * s.d_head;
            const float *k = qkv + first * W + (s.heads + kv) * s.d_head;
            const float *v = qkv + first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            head_probabilities(p, sink_p, lse + first * s.heads + h, q, k, rule, h);
            for (int64_t i = 0; i < T; i++)
                for (int64_t c = 0; c < s.d_value; c++) {
                    double sum = 0;
                    for (int64_t j = 0; j <= i; j++) sum += p[i * T + j] * (double)v[j * W + c];
                    out[(first + i) * s.heads * s.d_value + h * s.d_value + c] = sum;
                }
        }
    free(p);
    free(sink_p);
}

void reference_attention_backward(double *dqkv, double *dsinks, const float *dout, const float *qkv,
                                  AttentionRule rule, int64_t N) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, W = s.heads * s.d_head + s.kv_heads * (s.d_head + s.d_value);
    int64_t O = s.heads * s.d_value;
    memset(dqkv, 0, (size_t)(N * W) * sizeof *dqkv);
    memset(dsinks, 0, (size_t)s.heads * sizeof *dsinks);
    double *p = zeros(T * T), *dp = zeros(T), *sink_p = zeros(T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads);
            int64_t at_q = first * W + h * s.d_head;
            int64_t at_k = first * W + (s.heads + kv) * s.d_head;
            int64_t at_v = first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            head_probabilities(p, sink_p, NULL, qkv + at_q, qkv + at_k, rule, h);
            for (int64_t i = 0; i < T; i++) {
                const float *g = dout + (first + i) * O + h * s.d_value;
                double mean = 0;
                for (int64_t j = 0; j <= i; j++) {
                    dp[j] = 0;
                    for (int64_t c = 0; c < s.d_value; c++) {
                        dp[j] += (double)g[c] * (double)qkv[at_v + j * W + c];
                        dqkv[at_v + j * W + c] += p[i * T + j] * (double)g[c];
                    }
                    mean += p[i * T + j] * dp[j];
                }
                dsinks[h] -= sink_p[i] * mean;
                for (int64_t j = 0; j <= i; j++) {
                    double ds = p[i * T + j] * (dp[j] - mean) * (double)rule.scale;
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
}

// Adds the squares of one head's errors. Pointers are at the head's first number in the sequence's
// first row.
typedef struct HeadRounding {
    double *out, *dq, *dk, *dv, *dsink; // squares
    const float *q, *k, *v, *dout;
    const double *p, *sink_p; // (T, T), (T)
    int64_t W, O;             // row lengths of qkv and of out
    int64_t d_head, d_value, T;
    double scale;
} HeadRounding;

static double square(double x) {
    return x * x;
}

static void head_rounding(HeadRounding r) {
    double *dp = zeros(r.T), *mean_key = zeros(r.d_head);
    for (int64_t i = 0; i < r.T; i++) {
        const double *p = r.p + i * r.T;
        const float *g = r.dout + i * r.O;
        double delta = 0, delta_error = 0; // delta = Σ dout · out
        for (int64_t c = 0; c < r.d_value; c++) {
            double out = 0, errors = 0;
            for (int64_t j = 0; j <= i; j++) {
                double v = (double)r.v[j * r.W + c];
                out += p[j] * v;
                errors += square(p[j] * v);
                r.dv[j * r.W + c] += square(p[j] * (double)g[c]);
            }
            r.out[i * r.O + c] = errors;
            delta += (double)g[c] * out;
            delta_error += square((double)g[c]) * (errors + square(out));
        }
        *r.dsink += square(r.sink_p[i]) * delta_error;
        memset(mean_key, 0, (size_t)r.d_head * sizeof *mean_key);
        for (int64_t j = 0; j <= i; j++) {
            dp[j] = 0;
            for (int64_t c = 0; c < r.d_value; c++)
                dp[j] += (double)g[c] * (double)r.v[j * r.W + c];
            double own = square(r.scale * p[j] * (dp[j] - delta));
            double common = square(r.scale * p[j]) * delta_error; // the same delta for all keys
            for (int64_t d = 0; d < r.d_head; d++) {
                double k = (double)r.k[j * r.W + d];
                r.dk[j * r.W + d] += (own + common) * square((double)r.q[i * r.W + d]);
                r.dq[i * r.W + d] += own * square(k);
                mean_key[d] += p[j] * k;
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
    double *p = zeros(T * T), *sink_p = zeros(T);
    for (int64_t first = 0; first < N; first += T)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads), out = first * O + h * s.d_value;
            int64_t q = first * W + h * s.d_head, k = first * W + (s.heads + kv) * s.d_head;
            int64_t v = first * W + (s.heads + s.kv_heads) * s.d_head + kv * s.d_value;
            head_probabilities(p, sink_p, NULL, qkv + q, qkv + k, rule, h);
            head_rounding((HeadRounding){out_unit + out, dqkv_unit + q, dqkv_unit + k,
                                         dqkv_unit + v, dsinks_unit + h, qkv + q, qkv + k, qkv + v,
                                         dout + out, p, sink_p, W, O, s.d_head, s.d_value, T,
                                         (double)rule.scale});
        }
    for (int64_t i = 0; i < N * O; i++) out_unit[i] = sqrt(out_unit[i]);
    for (int64_t i = 0; i < N * W; i++) dqkv_unit[i] = sqrt(dqkv_unit[i]);
    for (int64_t h = 0; h < s.heads; h++) dsinks_unit[h] = sqrt(dsinks_unit[h]);
    free(p);
    free(sink_p);
}

// ---- feed-forward -------------------------------------------------------------------------------

// What the gate is multiplied by, and where that follows `up`.
static double factor_of(Activation kind, double up) {
    if (kind == SWIGLU_OAI) return fmin(fmax(up, -7), 7) + 1;
    return kind == SWIGLU_LIMIT ? fmin(fmax(up, -10), 10) : up;
}
static bool is_clamped(Activation kind, double up) {
    return (kind == SWIGLU_OAI && fabs(up) > 7) || (kind == SWIGLU_LIMIT && fabs(up) > 10);
}

static double activated(Activation kind, double x, double up) {
    switch (kind) {
    case SWIGLU:
        return x / (1 + exp(-x)) * up;
    case RELU:
        return fmax(0, x);
    case GELU:
        return x * 0.5 * erfc(-x * sqrt(0.5));
    case GELU_TANH:
        return x / (1 + exp(-2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case GEGLU:
        return activated(GELU, x, 1) * up;
    case RELU2:
        return fmax(0, x) * fmax(0, x);
    case SWIGLU_OAI:
        return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7))) * factor_of(kind, up);
    case SWIGLU_LIMIT:
        return activated(SWIGLU, fmin(x, 10), factor_of(kind, up));
    }
    CHECK(false, "activation %d", (int)kind);
}

void reference_activation_forward(double *out, const float *in, Activation kind, int64_t N,
                                  int64_t F) {
    int64_t W = activation_input_width(kind, F);
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++)
            out[n * F + f] = activated(kind, (double)in[n * W + f], (double)in[n * W + W - F + f]);
}

// The derivative of `activated` by x, for up = 1.
static double slope(Activation kind, double x) {
    double s = 1 / (1 + exp(-x));
    switch (kind) {
    case SWIGLU: // d/dx x s(x) = s + x s (1 - s)
        return s + x * s * (1 - s);
    case RELU:
        return x > 0 ? 1 : 0;
    case GELU: // Φ(x) + x φ(x)
        return 0.5 * erfc(-x * sqrt(0.5)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case GELU_TANH: // the derivative of tanh is 1 - tanh²
        s = tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + s) + 0.5 * x * (1 - s * s) * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    case GEGLU:
        return slope(GELU, x);
    case RELU2:
        return 2 * fmax(0, x);
    case SWIGLU_OAI: // of x s(1.702 x)
        s = 1 / (1 + exp(-1.702 * x));
        return x > 7 ? 0 : s + 1.702 * x * s * (1 - s);
    case SWIGLU_LIMIT:
        return x > 10 ? 0 : slope(SWIGLU, x);
    }
    CHECK(false, "activation %d", (int)kind);
}

void reference_activation_backward(double *din, const float *dout, const float *in, Activation kind,
                                   int64_t N, int64_t F) {
    bool gated = activation_is_gated(kind);
    int64_t W = activation_input_width(kind, F);
    for (int64_t n = 0; n < N; n++)
        for (int64_t f = 0; f < F; f++) {
            double g = (double)dout[n * F + f], x = (double)in[n * W + f];
            double up = gated ? (double)in[n * W + F + f] : 1;
            double gate = activated(kind, x, 1) / factor_of(kind, 1);
            din[n * W + f] = g * factor_of(kind, up) * slope(kind, x);
            if (gated) din[n * W + F + f] = is_clamped(kind, up) ? 0 : g * gate;
        }
}

// ---- loss and optimizer -------------------------------------------------------------------------

void reference_dropout(double *out, const float *x, Dropout rule, int64_t N, int64_t D) {
    for (int64_t n = 0; n < N; n++)
        for (int64_t d = 0; d < D; d++) {
            int64_t row = rule.rows.data ? tensor_i64(rule.rows)[n] : rule.first_row + n;
            uint64_t element = (uint64_t)row * (uint64_t)D + (uint64_t)d;
            uint32_t words[4];
            rng_words(rule.stream, element / 4, words);
            bool kept = (double)words[element % 4] >= rule.rate * 4294967296.0;
            out[n * D + d] = kept ? (double)x[n * D + d] / (1 - rule.rate) : 0;
        }
}

void reference_cross_entropy(double *losses, double *dlogits, const float *logits,
                             const int32_t *targets, double scale, int64_t N, int64_t V) {
    for (int64_t n = 0; n < N; n++) {
        const float *z = logits + n * V;
        double largest = -INFINITY, sum = 0;
        for (int64_t v = 0; v < V; v++) largest = fmax(largest, (double)z[v]);
        for (int64_t v = 0; v < V; v++) sum += exp((double)z[v] - largest);
        losses[n] = largest + log(sum) - (double)z[targets[n]];
        for (int64_t v = 0; v < V; v++)
            dlogits[n * V + v] =
                (exp((double)z[v] - largest) / sum - (v == targets[n] ? 1 : 0)) * scale;
    }
}

void reference_adamw(double *w, double *m, double *v, double g, int group, AdamW rule) {
    double beta1 = (double)rule.beta1, beta2 = (double)rule.beta2;
    g *= (double)rule.grad_scale;
    *m = beta1 * *m + (1 - beta1) * g;
    *v = beta2 * *v + (1 - beta2) * g * g;
    double m_hat = *m / (double)rule.bias_correction1, v_hat = *v / (double)rule.bias_correction2;
    *w -= (double)rule.lr[group] *
          (m_hat / (sqrt(v_hat) + (double)rule.eps) + (double)rule.weight_decay[group] * *w);
}

void reference_sgd(double *w, double *m, double g, int group, Sgd rule) {
    double momentum = (double)rule.momentum;
    g = g * (double)rule.grad_scale + (double)rule.weight_decay[group] * *w;
    *m = momentum * *m + g;
    *w -= (double)rule.lr[group] * (rule.nesterov ? g + momentum * *m : *m);
}

void reference_lion(double *w, double *m, double g, int group, Lion rule) {
    double beta1 = (double)rule.beta1, beta2 = (double)rule.beta2;
    g *= (double)rule.grad_scale;
    double c = beta1 * *m + (1 - beta1) * g;
    *w -= (double)rule.lr[group] * ((c > 0   ? 1
                                     : c < 0 ? -1
                                             : 0) +
                                    (double)rule.weight_decay[group] * *w);
    *m = beta2 * *m + (1 - beta2) * g;
}
