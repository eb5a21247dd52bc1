#include "reference.h"

#include <math.h>
#include <string.h>

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
        losses[n] = 0;
        if (targets[n] == NO_TARGET) {
            for (int64_t v = 0; v < V; v++) dlogits[n * V + v] = 0;
            continue;
        }
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
