// The router's random numbers against the words of rng.h, in double, on every device: noise with
// both passes, and jitter.
#include "harness.h"

#include <math.h>

typedef struct Case {
    Tensor out, logits, scale, dlogits, dscale;
    RouterNoise noise;
    float amount;
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    router_noise_forward(dev, c->out, c->logits, c->scale, c->noise);
    router_noise_backward(dev, c->dscale, c->dlogits, c->scale, c->noise);
}
static void run_jitter(Device *dev, void *context) {
    Case *c = context;
    router_jitter(dev, c->out, c->logits, c->amount, c->noise);
}

static double uniform_at(RngStream stream, uint64_t number, int word) {
    uint32_t words[4];
    rng_words(stream, number / 4, words);
    return (double)(words[word] >> 8) * 0x1p-24;
}
static double normal_at(RngStream stream, uint64_t number) {
    int first = number % 4 < 2 ? 0 : 2;
    double u = 1 - uniform_at(stream, number, first);
    double turn = 6.283185307179586476925 * uniform_at(stream, number, first + 1);
    return sqrt(-2 * log(u)) * (number % 2 ? sin(turn) : cos(turn));
}

static void check(int64_t N, int64_t E, int64_t first_token) {
    RngStream stream = {7, RNG_ROUTER_NOISE, 3, 1};
    Case c = {.logits = random_2d(N, E), .scale = random_2d(N, E), .dlogits = random_2d(N, E)};
    c.noise = (RouterNoise){stream, first_token};
    c.amount = 0.25f;
    double *z = new_doubles(N * E), *ds = new_doubles(N * E), *jittered = new_doubles(N * E);
    for (int64_t i = 0; i < N * E; i++) {
        uint64_t number = (uint64_t)(first_token * E + i);
        tensor_f32(c.scale)[i] *= i % 7 == 0 ? 90 : 5;
        double s = (double)tensor_f32(c.scale)[i], normal = normal_at(stream, number);
        z[i] = (double)tensor_f32(c.logits)[i] + normal * (fmax(s, 0) + log1p(exp(-fabs(s))));
        ds[i] = (double)tensor_f32(c.dlogits)[i] * normal / (1 + exp(-s));
        double uniform = 2 * uniform_at(stream, number, (int)(number % 4)) - 1;
        jittered[i] = (double)tensor_f32(c.logits)[i] * (1 + 0.25 * uniform);
    }
    for (int d = 0; d < device_count(); d++) {
        Device *dev = device_at(d);
        begin_case("noise on %s N=%lld E=%lld first token %lld", dev->name, (long long)N,
                   (long long)E, (long long)first_token);
        c.out = new_2d(F32, N, E);
        c.dscale = new_2d(F32, N, E);
        run_on(dev, run, &c, TENSORS(&c.out, &c.logits, &c.scale, &c.dlogits, &c.dscale));
        // Normals up to 5.8 whose radius and angle are rounded a few times, times up to 90 where
        // they are exact to as many parts; softplus of very negative numbers rounds beside 1.
        expect_near("out", c.out, z, 0, NULL, 90 * 6 * 8 * F32_EPS);
        expect_near("dscale", c.dscale, ds, 0, NULL, 6 * 8 * F32_EPS);
        Tensor noisy = c.out;
        c.out = new_2d(F32, N, E);
        run_on(dev, run_jitter, &c, TENSORS(&c.out, &c.logits));
        expect_near("jittered", c.out, jittered, 3 * F32_EPS, NULL, 0);
        // Rows on their own have the same bits: ranks may hold any number of tokens.
        for (int64_t n = 0; n < N; n += 3) {
            Case one = {.logits = tensor_rows(c.logits, n, 1), .scale = tensor_rows(c.scale, n, 1)};
            one.dlogits = tensor_rows(c.dlogits, n, 1);
            one.noise = (RouterNoise){stream, first_token + n};
            one.amount = c.amount;
            one.out = new_2d(F32, 1, E);
            one.dscale = new_2d(F32, 1, E);
            run_on(dev, run, &one,
                   TENSORS(&one.out, &one.logits, &one.scale, &one.dlogits, &one.dscale));
            expect_same_bytes("row", one.out, tensor_f32(noisy) + n * E);
            expect_same_bytes("dscale of a row", one.dscale, tensor_f32(c.dscale) + n * E);
            run_on(dev, run_jitter, &one, TENSORS(&one.out, &one.logits));
            expect_same_bytes("jittered row", one.out, tensor_f32(c.out) + n * E);
        }
    }
    expect_same_for_any_threads(run, &c, (Tensor[]){c.out, c.dscale}, 2);
    release_all();
}

int main(void) {
    check(0, 3, 0);
    check(1, 1, 0);
    check(7, 3, 5);
    check(33, 64, 1000000);
    check(20, 129, 11);
    return failures();
}
