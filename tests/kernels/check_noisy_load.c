// Smooth load and the z-loss of raw logits, on every device: sums against their formula in double,
// gradients against its differences.
#include "harness.h"

#include <math.h>
#include <stdlib.h>

typedef struct Case {
    Tensor sums, dlogits, dscale, slopes;
    NoisyLogits logits;
    int64_t K;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    noisy_load_sums(dev, c->sums, c->logits, c->K);
    noisy_load_backward(dev, c->dlogits, c->dscale, c->slopes, c->logits, c->K);
}
static void run_on_device(Device *dev, Case *c) {
    run_on(dev, run, c,
           TENSORS(&c->sums, &c->dlogits, &c->dscale, &c->slopes, &c->logits.raw, &c->logits.noisy,
                   &c->logits.scale));
}

enum { MOST = 400 }; // experts

// One token in double: its noise stays while z and s move.
typedef struct Token {
    double z[MOST], s[MOST], normal[MOST];
} Token;

static double softplus(double x) {
    return fmax(x, 0) + log1p(exp(-fabs(x)));
}

// Each expert's probability: h is the K-th largest of the others' noisy logits.
static void probabilities(double *P, const Token *t, int64_t E, int64_t K) {
    double noisy[MOST], last = 0, next = 0; // the K-th and the one behind it
    int64_t above[MOST];
    for (int64_t e = 0; e < E; e++) noisy[e] = t->z[e] + t->normal[e] * softplus(t->s[e]);
    for (int64_t e = 0; e < E; e++) {
        above[e] = 0;
        for (int64_t j = 0; j < E; j++)
            above[e] += noisy[j] > noisy[e] || (noisy[j] == noisy[e] && j < e);
        if (above[e] == K - 1) last = noisy[e];
        if (above[e] == K) next = noisy[e];
    }
    for (int64_t e = 0; e < E; e++) {
        double u = (t->z[e] - (above[e] < K ? next : last)) / softplus(t->s[e]);
        P[e] = 0.5 * erfc(-u / sqrt(2));
    }
}
static double weighed(const Token *t, const float *slopes, int64_t E, int64_t K) {
    double sum = 0, P[MOST];
    probabilities(P, t, E, K);
    for (int64_t e = 0; e < E; e++) sum += (double)slopes[e] * P[e];
    return sum;
}

static int descending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}
// Whether small steps leave the order of the logits around the border as it is.
static bool is_decided(const float *noisy, int64_t E, int64_t K) {
    float sorted[MOST];
    for (int64_t e = 0; e < E; e++) sorted[e] = noisy[e];
    qsort(sorted, (size_t)E, sizeof *sorted, descending);
    for (int64_t i = K > 1 ? K - 2 : 0; i <= K && i + 1 < E; i++)
        if (sorted[i] - sorted[i + 1] < 1e-3f) return false;
    return true;
}

static void draw_row(const Case *c, int64_t n, Token *t) {
    int64_t E = c->logits.raw.shape[1];
    float *z = tensor_f32(c->logits.raw) + n * E, *s = tensor_f32(c->logits.scale) + n * E;
    float *h = tensor_f32(c->logits.noisy) + n * E;
    do {
        for (int64_t e = 0; e < E; e++) {
            z[e] = (float)random_below(6000) / 1000.0f - 3.0f;
            s[e] = (float)random_below(4000) / 1000.0f - 2.0f;
            double normal = (double)random_below(4000) / 1000.0 - 2.0;
            h[e] = (float)((double)z[e] + normal * softplus((double)s[e]));
        }
    } while (!is_decided(h, E, c->K));
    for (int64_t e = 0; e < E; e++) {
        t->z[e] = (double)z[e], t->s[e] = (double)s[e];
        t->normal[e] = ((double)h[e] - t->z[e]) / softplus(t->s[e]);
    }
}

static void check(int64_t N, int64_t E, int64_t K, int64_t parts) {
    static Token token;
    const double h = 1e-5;
    Case c = {.logits = {new_2d(F32, N, E), new_2d(F32, N, E), new_2d(F32, N, E)}, .K = K};
    c.slopes = random_2d(parts, E);
    Tensor before = random_2d(N, E);
    double *sums = new_doubles(parts * E), *dz = new_doubles(N * E), *ds = new_doubles(N * E);
    for (int64_t i = 0; i < parts * E; i++) sums[i] = 0;
    for (int64_t n = 0; n < N; n++) {
        draw_row(&c, n, &token);
        const float *slopes = tensor_f32(c.slopes) + n / (N / parts) * E;
        double P[MOST];
        probabilities(P, &token, E, K);
        for (int64_t e = 0; e < E; e++) {
            sums[n / (N / parts) * E + e] += P[e];
            for (int of_scale = 0; of_scale < 2; of_scale++) {
                double *x = of_scale ? &token.s[e] : &token.z[e], at = *x;
                *x = at + h;
                double above = weighed(&token, slopes, E, K);
                *x = at - h;
                double below = weighed(&token, slopes, E, K);
                *x = at;
                (of_scale ? ds : dz)[n * E + e] =
                    (double)tensor_f32(before)[n * E + e] + (above - below) / (2 * h);
            }
        }
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("noisy load on %s N=%lld E=%lld K=%lld parts=%lld", dev->name, (long long)N,
                   (long long)E, (long long)K, (long long)parts);
        c.sums = new_2d(I64, parts, E);
        c.dlogits = copy_of(before);
        c.dscale = copy_of(before);
        run_on_device(dev, &c);
        // u, up to 30, is rounded a few times, and Φ within 4e-7; both in every token.
        Tensor got = new_2d(F64, parts, E);
        for (int64_t i = 0; i < parts * E; i++)
            tensor_f64(got)[i] = (double)tensor_i64(c.sums)[i] * BALANCE_UNIT;
        expect_near("sums", got, sums, 0, NULL, 1e-6 * (double)(N / parts));
        // Densities over σ >= 0.12 are 3 at most, of which E come together; the differences err by
        // h² of the third derivative, some hundreds.
        expect_near("dlogits", c.dlogits, dz, 4 * F32_EPS, NULL, 2e-6 * sqrt((double)E) + 1e-7);
        expect_near("dscale", c.dscale, ds, 4 * F32_EPS, NULL, 4e-6 * sqrt((double)E) + 1e-7);
    }
    expect_same_for_any_threads(run, &c, (Tensor[]){c.sums}, 1);
    release_all();
}

// Noise that has died away: the load is that of the choices, and nothing is not a number.
static void check_without_noise(void) {
    enum { N = 3, E = 5, K = 2 };
    for (int d = 0; d < device_count(); d++) {
        begin_case("noisy load without noise on %s", device_at(d)->name);
        Case c = {.logits = {new_2d(F32, N, E), new_2d(F32, N, E), new_2d(F32, N, E)}, .K = K};
        c.slopes = random_2d(1, E);
        c.sums = new_2d(I64, 1, E);
        c.dlogits = random_2d(N, E);
        c.dscale = random_2d(N, E);
        for (int64_t i = 0; i < N * E; i++) {
            tensor_f32(c.logits.raw)[i] = tensor_f32(c.logits.noisy)[i] = (float)(i % E);
            tensor_f32(c.logits.scale)[i] = i < E ? -1e4f : i < 2 * E ? -100.0f : -20.0f;
        }
        run_on_device(device_at(d), &c);
        for (int64_t e = 0; e < E; e++)
            expect(tensor_i64(c.sums)[e] == (e >= E - K ? (int64_t)N << 30 : 0), "expert %lld",
                   (long long)e);
        for (int64_t i = 0; i < N * E; i++)
            expect(isfinite(tensor_f32(c.dlogits)[i]) && isfinite(tensor_f32(c.dscale)[i]),
                   "gradient %lld", (long long)i);
        release_all();
    }
}

// ---- z-loss -------------------------------------------------------------------------------------

typedef struct ZCase {
    Tensor lse, squares, lse2_sum, logits, dlogits;
} ZCase;

static void run_z(Device *dev, void *context) {
    ZCase *c = context;
    logit_sums(dev, c->lse, c->squares, c->lse2_sum, c->logits);
    z_loss_backward(dev, c->dlogits, c->logits, c->lse, 0.25f);
}

static void check_z(int64_t N, int64_t E, int64_t parts) {
    ZCase c = {.logits = random_2d(N, E)};
    Tensor before = random_2d(N, E);
    double *lse = new_doubles(N), *squares = new_doubles(N), *dz = new_doubles(N * E);
    double *lse2 = new_doubles(parts);
    for (int64_t p = 0; p < parts; p++) lse2[p] = 0;
    for (int64_t n = 0; n < N; n++) {
        double sum = 0;
        squares[n] = 0;
        for (int64_t e = 0; e < E; e++) {
            float *z = &tensor_f32(c.logits)[n * E + e];
            *z *= 6;
            sum += exp((double)*z);
            squares[n] += (double)*z * (double)*z;
        }
        lse[n] = log(sum);
        lse2[n / (N / parts)] += lse[n] * lse[n];
        for (int64_t e = 0; e < E; e++)
            dz[n * E + e] = (double)tensor_f32(before)[n * E + e] +
                            0.5 * lse[n] * exp((double)tensor_f32(c.logits)[n * E + e] - lse[n]);
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("z-loss on %s N=%lld E=%lld parts=%lld", dev->name, (long long)N, (long long)E,
                   (long long)parts);
        c.lse = new_1d(F32, N), c.squares = new_1d(F32, N), c.lse2_sum = new_1d(F64, parts);
        c.dlogits = copy_of(before);
        run_on(dev, run_z, &c, TENSORS(&c.lse, &c.squares, &c.lse2_sum, &c.logits, &c.dlogits));
        // As check_router's: z - lse, up to 16, is rounded to 2^-21.
        expect_near("lse", c.lse, lse, 4 * F32_EPS, NULL, 4 * F32_EPS);
        // A lane adds every 16th at most, and what is left over one by one.
        expect_near("squares", c.squares, squares, (double)(16 + E / 16) * F32_EPS, NULL, 0);
        expect_near("lse2_sum", c.lse2_sum, lse2, 16 * F32_EPS, NULL, 1e-12);
        expect_near("dlogits", c.dlogits, dz, 32 * F32_EPS, NULL, 64 * F32_EPS);
    }
    expect_same_for_any_threads(run_z, &c, (Tensor[]){c.lse, c.squares, c.lse2_sum}, 3);
    release_all();
}

int main(void) {
    check(0, 3, 1, 1);
    check(1, 2, 1, 1);
    check(12, 4, 2, 3);
    check(140, 5, 2, 2); // more tokens than a block's
    check(4, 40, 8, 2);
    check(2, 130, 3, 1);
    check_without_noise();
    check_z(0, 3, 1);
    check_z(7, 1, 1);
    check_z(12, 70, 3);
    check_z(600, 9, 2);
    return failures();
}
