// Attention, RoPE and decoding against the reference.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor qkv, out, lse, dout, dqkv;
    AttentionShape s;
    int64_t T;
    float scale;
} Case;

static Case new_case(AttentionShape s, int64_t sequences, int64_t T) {
    int64_t N = sequences * T, W = attention_qkv_width(s), O = s.heads * s.d_value;
    return (Case){random_2d(N, W),
                  new_2d(F32, N, O),
                  new_2d(F32, N, s.heads),
                  random_2d(N, O),
                  new_2d(F32, N, W),
                  s,
                  T,
                  1.0f / sqrtf((float)s.d_head)};
}

static void run_forward(Device *dev, void *context) {
    Case *c = context;
    attention_forward(dev, c->out, c->lse, c->qkv, c->s, c->T, c->scale);
}
static void run_backward(Device *dev, void *context) {
    Case *c = context;
    attention_backward(dev, c->dqkv, c->dout, c->qkv, c->out, c->lse, c->s, c->T, c->scale);
}
static void run_both(Device *dev, void *context) {
    run_forward(dev, context);
    run_backward(dev, context);
}

static void check(AttentionShape s, int64_t sequences, int64_t T) {
    begin_case("attention %lld x T=%lld, %lld/%lld heads, d %lld/%lld", (long long)sequences,
               (long long)T, (long long)s.heads, (long long)s.kv_heads, (long long)s.d_head,
               (long long)s.d_value);
    Case c = new_case(s, sequences, T);
    int64_t N = sequences * T, group = s.heads / s.kv_heads;
    double *out = new_doubles(tensor_elements(c.out)), *lse = new_doubles(N * s.heads);
    double *dqkv = new_doubles(tensor_elements(c.qkv));
    reference_attention_forward(out, lse, tensor_f32(c.qkv), s, N, T, (double)c.scale);
    reference_attention_backward(dqkv, tensor_f32(c.dout), tensor_f32(c.qkv), s, N, T,
                                 (double)c.scale);
    Device dev = open_cpu(0);
    run_both(&dev, &c);
    // Inputs are below 1, so scores are below √d_head and carry errors of d_head roundings at most; outputs are
    // averages of values below 1.
    double score_error = F32_EPS * (4.0 + sqrt((double)s.d_head) * sqrt((double)s.d_head));
    expect_near("out", c.out, out, 0, NULL, 4 * score_error + 8 * F32_EPS);
    expect_near("lse", c.lse, lse, 4 * F32_EPS, NULL, 4 * score_error);
    // A key's gradient sums over up to T queries of `group` heads; |dp| is below d_value.
    double terms = sqrt((double)(T * group));
    expect_near("dqkv", c.dqkv, dqkv, 0, NULL,
                8 * (score_error + F32_EPS * sqrt((double)s.d_value)) * terms);
    expect_same_for_any_threads(run_both, &c, (Tensor[]){c.out, c.lse, c.dqkv}, 3);

    // The last sequence alone, somewhere else in memory: the same bits.
    Case alone = new_case(s, 1, T);
    int64_t first = (sequences - 1) * T;
    memcpy(alone.qkv.data, tensor_rows(c.qkv, first, T).data, tensor_bytes(alone.qkv));
    memcpy(alone.dout.data, tensor_rows(c.dout, first, T).data, tensor_bytes(alone.dout));
    run_both(&dev, &alone);
    expect_same_bytes("out of a lone sequence", alone.out, tensor_rows(c.out, first, T).data);
    expect_same_bytes("dqkv of a lone sequence", alone.dqkv, tensor_rows(c.dqkv, first, T).data);

    // Decoding the last token against the cache is the last row of the forward pass.
    Tensor cache = new_2d(F32, T, attention_kv_width(s)), decoded = new_2d(F32, 1, c.out.shape[1]);
    for (int64_t t = 0; t < T; t++)
        memcpy(tensor_rows(cache, t, 1).data,
               tensor_f32(tensor_rows(c.qkv, first + t, 1)) + s.heads * s.d_head,
               tensor_bytes(tensor_rows(cache, t, 1)));
    attention_decode(&dev, decoded, tensor_rows(c.qkv, N - 1, 1), cache, s, T - 1, c.scale);
    expect_near("decoded", decoded, out + (N - 1) * c.out.shape[1], 0, NULL,
                4 * score_error + 8 * F32_EPS);
    release_all();
}

typedef struct RopeCase {
    Tensor qkv, source, cosines, sines;
    AttentionShape s;
    int64_t T, first;
    bool inverse;
} RopeCase;

static void run_rope(Device *dev, void *context) {
    RopeCase *c = context;
    memcpy(c->qkv.data, c->source.data, tensor_bytes(c->qkv));
    rope(dev, c->qkv, c->s, c->cosines, c->sines, c->T, c->first, c->inverse);
}

static void check_rope(AttentionShape s, int64_t sequences, int64_t T, int64_t first,
                       bool inverse) {
    begin_case("rope T=%lld from %lld%s", (long long)T, (long long)first, inverse ? " back" : "");
    int64_t N = sequences * T, W = attention_qkv_width(s), positions = first + T + 2;
    RopeCase c = {
        new_2d(F32, N, W),
        random_2d(N, W),
        random_2d(positions, s.d_head / 2), // any numbers will do: the op does not know angles
        random_2d(positions, s.d_head / 2),
        s,
        T,
        first,
        inverse};
    double *want = new_doubles(N * W);
    for (int64_t i = 0; i < N * W; i++) want[i] = (double)tensor_f32(c.source)[i];
    for (int64_t n = 0; n < N; n++)
        reference_rope(want + n * W, s, tensor_f32(c.cosines), tensor_f32(c.sines), first + n % T,
                       inverse);
    Device dev = open_cpu(0);
    run_rope(&dev, &c);
    expect_near("qkv", c.qkv, want, 0, NULL, 4 * F32_EPS); // two products of numbers below 1
    expect_same_for_any_threads(run_rope, &c, &c.qkv, 1);
    release_all();
}

static void bench(AttentionShape s, int64_t sequences, int64_t T) {
    Case c = new_case(s, sequences, T);
    double score_flops =
        (double)(sequences * s.heads * T * T); // two per score and channel, half masked
    double forward = score_flops * (double)(s.d_head + s.d_value);
    double backward = score_flops * (double)(3 * s.d_head + 2 * s.d_value);
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        double f = time_call(run_forward, &dev, &c), b = time_call(run_backward, &dev, &c);
        printf("%3lld x T %4lld, %lld/%lld heads of %lld, %d threads: forward %.1f us a head, "
               "%.0f GFLOP/s; backward %.1f us, %.0f GFLOP/s\n",
               (long long)sequences, (long long)T, (long long)s.heads, (long long)s.kv_heads,
               (long long)s.d_head, threads, 1e6 * f / (double)(sequences * s.heads),
               1e-9 * forward / f, 1e6 * b / (double)(sequences * s.heads), 1e-9 * backward / b);
    }
    release_all();
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench((AttentionShape){8, 8, 16, 16}, 16, 32);
        bench((AttentionShape){8, 2, 64, 64}, 4, 512);
        bench((AttentionShape){8, 8, 64, 64}, 4, 512);
        bench((AttentionShape){4, 4, 128, 128}, 1, 2048);
        return 0;
    }
    check((AttentionShape){8, 8, 16, 16}, 3, 32);
    check((AttentionShape){1, 1, 1, 1}, 2, 1);
    check((AttentionShape){2, 1, 5, 3}, 2, 7);
    check((AttentionShape){6, 2, 24, 40}, 2, 33);
    check((AttentionShape){4, 1, 64, 64}, 1, 130);
    check((AttentionShape){2, 2, 33, 16}, 2, 64);
    check((AttentionShape){1, 1, 16, 100}, 1, 257);
    check((AttentionShape){4, 2, 128, 128}, 1, 65);
    begin_case("no rows");
    Case empty = new_case((AttentionShape){2, 1, 8, 8}, 0, 16);
    Device dev = open_cpu(0);
    run_both(&dev, &empty);
    check_rope((AttentionShape){4, 2, 16, 8}, 3, 9, 0, false);
    check_rope((AttentionShape){4, 2, 6, 6}, 2, 5, 11, true);
    check_rope((AttentionShape){1, 1, 2, 1}, 1, 1, 3, false);
    check_rope((AttentionShape){8, 4, 64, 64}, 2, 40, 1, true);
    return failures();
}
