// Attention, RoPE and decoding against the reference, on every device and in both storages.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct Case {
    Tensor qkv, out, lse, largest, dout, dqkv; // largest: in shaped cases
    Tensor qkv_f32, dout_f32;                  // the same numbers as qkv and dout
    Tensor dsinks;                             // (N, H)
    AttentionRule rule;
} Case;

static bool is_shaped(AttentionRule rule) {
    return rule.softcap > 0 || rule.slopes.data || rule.dropout.rate > 0;
}

// Places in documents of a few rows or many, one row or all of a sequence.
static Tensor random_positions(int64_t sequences, int64_t T) {
    Tensor positions = new_1d(I32, sequences * T);
    int64_t longest = 1, left = 0;
    for (int64_t i = 0; i < sequences * T; i++, left--) {
        bool begins = i % T == 0 || left == 0;
        if (begins) {
            longest = 1 + random_below(2 * T);
            left = 1 + random_below(longest);
        }
        tensor_i32(positions)[i] = begins ? 0 : tensor_i32(positions)[i - 1] + 1;
    }
    return positions;
}

// Queries and keys are below `size`, all else below 1. The rule's scale and sinks are made here.
static Case new_case(DType stored, AttentionRule rule, int64_t sequences, float size) {
    AttentionShape s = rule.shape;
    int64_t N = sequences * rule.T, W = attention_qkv_width(s), O = s.heads * s.d_value;
    Case c = {.rule = rule};
    c.rule.scale = 1.0f / sqrtf((float)s.d_head);
    if (rule.softmax == SOFTMAX_SINK) c.rule.sinks = random_1d(s.heads);
    if (rule.positions.data) c.rule.positions = random_positions(sequences, rule.T);
    c.qkv_f32 = random_2d(N, W);
    for (int64_t n = 0; n < N; n++)
        for (int64_t i = 0; i < (s.heads + s.kv_heads) * s.d_head; i++)
            tensor_f32(c.qkv_f32)[n * W + i] *= size;
    c.qkv = stored_as(stored, c.qkv_f32);
    c.dout_f32 = random_2d(N, O);
    c.dout = stored_as(stored, c.dout_f32);
    c.out = new_2d(stored, N, O);
    c.lse = new_2d(F32, N, s.heads);
    c.dqkv = new_2d(stored, N, W);
    c.dsinks = new_2d(F32, N, s.heads);
    if (is_shaped(rule)) c.largest = new_2d(F32, N, s.heads);
    return c;
}

static void forward(Device *dev, void *context) {
    Case *c = context;
    attention_forward(dev, c->out, c->lse, c->largest, c->qkv, c->rule);
}
static void backward(Device *dev, void *context) {
    Case *c = context;
    attention_backward(dev, c->dqkv, c->dsinks, c->dout, c->qkv, c->out, c->lse, c->rule);
}
static void both(Device *dev, void *context) {
    forward(dev, context);
    backward(dev, context);
}
static void run_both(Device *dev, Case *c) {
    run_on(dev, both, c,
           TENSORS(&c->qkv, &c->out, &c->lse, &c->largest, &c->dout, &c->dqkv, &c->dsinks,
                   &c->rule.sinks, &c->rule.slopes, &c->rule.positions));
}

// What results may differ from the reference by, element by element.
typedef struct Tolerance {
    double *out, *dqkv, *dsinks;
    double lse;
} Tolerance;

static Tolerance tolerance(Case c, float size) {
    int64_t N = c.qkv.shape[0], O = c.out.shape[1], W = c.qkv.shape[1];
    AttentionShape s = c.rule.shape;
    int64_t rotated = (s.heads + s.kv_heads) * s.d_head;
    // Dropout makes what is left larger.
    double kept = c.rule.dropout.rate > 0 ? (double)attention_kept_factor(c.rule.dropout.rate) : 1;
    Tolerance t = {new_doubles(N * O), new_doubles(N * W), new_doubles(s.heads), 0};
    reference_attention_rounding(t.out, t.dqkv, t.dsinks, tensor_f32(c.dout_f32),
                                 tensor_f32(c.qkv_f32), c.rule, N);
    // f32: queries and keys are below `size`, so scores are below size² √d_head and carry errors of
    // d_head roundings at most; outputs are averages of values below 1. A key's gradient sums over
    // up to T queries of `group` heads; |dp| is below d_value.
    // A cap and a slope round numbers of up to their own size.
    double score_error =
        F32_EPS * (4.0 + (double)(size * size) * (double)s.d_head + 8 * (double)c.rule.softcap +
                   (c.rule.slopes.data ? 4 * (double)c.rule.T : 0));
    double terms = sqrt((double)(c.rule.T * (s.heads / s.kv_heads)));
    double gradient_error = 8 * (score_error + F32_EPS * sqrt((double)s.d_value)) * terms;
    // bf16: tensor cores take p and ds rounded to bf16, and delta is made of a rounded `out`. An
    // error spreads evenly over ± 2^-9, so its standard deviation is 2^-9 / √3: seven of them. (The
    // result's own rounding is the caller's.)
    double rounding = c.qkv.dtype == BF16 ? 4 * BF16_EPS : 0;
    for (int64_t i = 0; i < N * O; i++)
        t.out[i] = rounding * t.out[i] + kept * (4 * score_error + 8 * F32_EPS);
    for (int64_t i = 0; i < N * W; i++)
        t.dqkv[i] = rounding * t.dqkv[i] +
                    kept * gradient_error * (i % W < rotated ? fmax(1.0, (double)size) : 1.0);
    // Each row's share is below d_value; a row's errors do not depend on another's.
    for (int64_t h = 0; h < s.heads; h++)
        t.dsinks[h] =
            rounding * t.dsinks[h] + 8 * (score_error + F32_EPS) * sqrt((double)(N * s.d_value));
    t.lse = 4 * score_error;
    return t;
}

// The last sequence alone, somewhere else in memory: the same bits.
static void check_alone(Device *dev, Case c) {
    Case alone = new_case(c.qkv.dtype, c.rule, 1, 1.0f);
    alone.rule = c.rule;
    int64_t T = c.rule.T, first = c.qkv.shape[0] - T;
    alone.rule.dropout.first_token += first;
    if (c.rule.positions.data)
        alone.rule.positions = copy_of(tensor_range(c.rule.positions, first, T));
    memcpy(alone.qkv.data, tensor_rows(c.qkv, first, T).data, tensor_bytes(alone.qkv));
    memcpy(alone.dout.data, tensor_rows(c.dout, first, T).data, tensor_bytes(alone.dout));
    run_both(dev, &alone);
    expect_same_bytes("out of a lone sequence", alone.out, tensor_rows(c.out, first, T).data);
    expect_same_bytes("lse of a lone sequence", alone.lse, tensor_rows(c.lse, first, T).data);
    expect_same_bytes("dqkv of a lone sequence", alone.dqkv, tensor_rows(c.dqkv, first, T).data);
}

// Whatever runs first, the same bits. (The emulated GPU takes another order of blocks, warps and
// lanes; a GPU does so by itself.)
static void check_any_order(Device *dev, Case *c) {
    if (dev->place == ON_HOST) {
        expect_same_for_any_threads(both, c, (Tensor[]){c->out, c->lse, c->dqkv}, 3);
        return;
    }
    void *out = copy_of(c->out).data, *lse = copy_of(c->lse).data, *dqkv = copy_of(c->dqkv).data;
    begin_other_schedule();
    run_both(dev, c);
    end_other_schedule();
    expect_same_bytes("out in another order", c->out, out);
    expect_same_bytes("lse in another order", c->lse, lse);
    expect_same_bytes("dqkv in another order", c->dqkv, dqkv);
}

typedef struct DecodeCase {
    Tensor out, qkv, cache;
    AttentionRule rule;
    int64_t position;
} DecodeCase;

static void decode(Device *dev, void *context) {
    DecodeCase *c = context;
    attention_decode(dev, c->out, c->qkv, c->cache, c->rule, c->position);
}

// Decoding the last n tokens against the cache gives the last rows of the forward pass, on the CPU
// in its bits; later rows of the cache, NaN here, and how many there are do not matter.
static void check_decode(Device *dev, Case c, int64_t n, const double *out,
                         const double *out_tolerance) {
    AttentionShape s = c.rule.shape;
    int64_t N = c.qkv.shape[0], O = c.out.shape[1], T = c.rule.T, first_row = N - n;
    size_t bytes = dtype_bytes(c.qkv.dtype);
    Tensor first = {0};
    for (int64_t room = 0; room <= 3; room += 3) {
        DecodeCase d = {.out = new_2d(c.qkv.dtype, n, O),
                        .qkv = tensor_rows(c.qkv, first_row, n),
                        .cache = new_2d(c.qkv.dtype, T + room, attention_kv_width(s)),
                        .rule = c.rule,
                        .position = T - n};
        for (int64_t t = 0; t < T; t++) {
            Tensor row = tensor_rows(d.cache, t, 1), from = tensor_rows(c.qkv, N - T + t, 1);
            memcpy(row.data, (char *)from.data + (size_t)(s.heads * s.d_head) * bytes,
                   tensor_bytes(row));
        }
        run_on(dev, decode, &d, TENSORS(&d.out, &d.qkv, &d.cache, &d.rule.sinks, &d.rule.slopes));
        expect_near("decoded", d.out, out + first_row * O, storage_eps(c.qkv.dtype),
                    out_tolerance + first_row * O, 1.0);
        if (dev->place == ON_HOST)
            expect_same_bytes("decoded", d.out, tensor_rows(c.out, first_row, n).data);
        if (room == 0) first = copy_of(d.out);
        expect_same_bytes("decoded with a larger cache", d.out, first.data);
    }
}

// New tokens have the bits that each has alone, where the keys that they see begin to fill another
// split of a GPU's (128), with a window and without.
static void check_decode_together(Device *dev) {
    enum { ROWS = 7, POSITION = 125 };
    AttentionShape s = {.heads = 4, .kv_heads = 2, .d_head = 8, .d_value = 12};
    for (int64_t window = 0; window <= 126; window += 126)
        for (int narrow = 0; narrow < 2; narrow++) {
            DType stored = narrow ? BF16 : F32;
            begin_case("%s %s: %d new tokens, window %lld", dev->name, dtype_name(stored), ROWS,
                       (long long)window);
            DecodeCase all = {
                .out = new_2d(stored, ROWS, s.heads * s.d_value),
                .qkv = stored_as(stored, random_2d(ROWS, attention_qkv_width(s))),
                .cache = stored_as(stored, random_2d(POSITION + ROWS, attention_kv_width(s))),
                .rule = {.shape = s, .scale = 0.3f, .window = window},
                .position = POSITION};
            run_on(dev, decode, &all, TENSORS(&all.out, &all.qkv, &all.cache));
            for (int64_t row = 0; row < ROWS; row++) {
                DecodeCase one = all;
                one.out = new_2d(stored, 1, s.heads * s.d_value);
                one.qkv = tensor_rows(all.qkv, row, 1);
                one.position = POSITION + row;
                run_on(dev, decode, &one, TENSORS(&one.out, &one.qkv, &one.cache));
                expect_same_bytes("a token alone", one.out, tensor_rows(all.out, row, 1).data);
            }
            release_all();
        }
}

// The sums over rows are the caller's: here in double.
static void check_sinks(Case c, const double *want, const double *tolerance) {
    int64_t H = c.rule.shape.heads;
    Tensor sums = new_1d(F64, H);
    for (int64_t h = 0; h < H; h++) {
        double sum = 0;
        for (int64_t n = 0; n < c.dsinks.shape[0]; n++)
            sum += (double)tensor_f32(c.dsinks)[n * H + h];
        tensor_f64(sums)[h] = sum;
    }
    expect_near("dsinks", sums, want, 4 * F32_EPS, tolerance, 1.0);
}

static void check_on(Device *dev, DType stored, AttentionRule rule, int64_t sequences, float size) {
    AttentionShape s = rule.shape;
    int64_t T = rule.T, N = sequences * T;
    begin_case("%s %s attention %lld x T=%lld, %lld/%lld heads, d %lld/%lld, size %g, softmax %s, "
               "window %lld, cap %g%s, dropout %g%s%s",
               dev->name, dtype_name(stored), (long long)sequences, (long long)T,
               (long long)s.heads, (long long)s.kv_heads, (long long)s.d_head, (long long)s.d_value,
               (double)size, choice_row(ATTENTION_SOFTMAX_CHOICES, (int)rule.softmax)->word,
               (long long)rule.window, (double)rule.softcap, rule.slopes.data ? ", slopes" : "",
               (double)rule.dropout.rate, rule.positions.data ? ", documents" : "",
               rule.bidirectional ? ", bidirectional" : "");
    if (rule.slopes.data) rule.slopes = random_1d(s.heads);
    for (int64_t h = 0; rule.slopes.data && h < s.heads; h++)
        tensor_f32(rule.slopes)[h] = fabsf(tensor_f32(rule.slopes)[h]);
    Case c = new_case(stored, rule, sequences, size);
    double *out = new_doubles(tensor_elements(c.out)), *lse = new_doubles(N * s.heads);
    double *largest = new_doubles(N * s.heads);
    double *dqkv = new_doubles(tensor_elements(c.qkv)), *dsinks = new_doubles(s.heads);
    reference_attention_forward(out, lse, largest, tensor_f32(c.qkv_f32), c.rule, N);
    reference_attention_backward(dqkv, dsinks, tensor_f32(c.dout_f32), tensor_f32(c.qkv_f32),
                                 c.rule, N);
    Tolerance t = tolerance(c, size);
    run_both(dev, &c);
    expect_near("out", c.out, out, storage_eps(stored), t.out, 1.0);
    expect_near("lse", c.lse, lse, 4 * F32_EPS, NULL, t.lse);
    if (is_shaped(rule)) expect_near("largest", c.largest, largest, 4 * F32_EPS, NULL, t.lse);
    expect_near("dqkv", c.dqkv, dqkv, storage_eps(stored), t.dqkv, 1.0);
    if (rule.softmax == SOFTMAX_SINK) check_sinks(c, dsinks, t.dsinks);
    if (dev->place == ON_HOST || T <= 70) check_any_order(dev, &c); // an emulated GPU is slow
    if (dev->place == ON_HOST || sequences > 1) check_alone(dev, c);
    if (rule.dropout.rate == 0 && !rule.positions.data && !rule.bidirectional) {
        check_decode(dev, c, 1, out, t.out);
        // more than share a tile, or what an emulated GPU has time for
        check_decode(dev, c, dev->place == ON_HOST && T > 19 ? 19 : T > 2 ? 2 : 1, out, t.out);
    }
    release_all();
}

static int first_narrow; // `narrow`: 1, what a Hopper has kernels of its own for
static void check_rule(AttentionRule rule, int64_t sequences, float size) {
    if (first_narrow > 0 && is_shaped(rule)) return;
    for (int i = first_device(); i < device_count(); i++)
        for (int narrow = first_narrow; narrow < 2; narrow++)
            check_on(device_at(i), narrow ? BF16 : F32, rule, sequences, size);
}

static void check(AttentionShape s, int64_t sequences, int64_t T, float size) {
    check_rule((AttentionRule){.shape = s, .T = T}, sequences, size);
}

// Denominators with more in them than exponentials of scores.
static void check_softmax(AttentionShape s, int64_t sequences, int64_t T, float size) {
    check_rule((AttentionRule){.shape = s, .T = T, .softmax = SOFTMAX_OFF_BY_ONE}, sequences, size);
    check_rule((AttentionRule){.shape = s, .T = T, .softmax = SOFTMAX_SINK}, sequences, size);
}

static void check_window(AttentionShape s, int64_t sequences, int64_t T, int64_t window) {
    check_rule((AttentionRule){.shape = s, .T = T, .window = window}, sequences, 1.0f);
    check_rule((AttentionRule){.shape = s, .T = T, .softmax = SOFTMAX_SINK, .window = window},
               sequences, 1.0f);
}

// Caps, slopes and dropout, alone and together. The slopes' numbers are drawn for each case.
static void check_shaped(AttentionShape s, int64_t sequences, int64_t T) {
    static float any;
    Tensor slopes = tensor_1d(&any, F32, 1);
    AttentionDropout dropout = {0.3f, {7, RNG_DROPOUT_ATTENTION, 3, 1}, 1000};
    AttentionRule rule = {.shape = s, .T = T, .softcap = 0.7f};
    check_rule(rule, sequences, 2.0f);
    check_rule((AttentionRule){.shape = s, .T = T, .slopes = slopes}, sequences, 1.0f);
    check_rule((AttentionRule){.shape = s, .T = T, .dropout = dropout}, sequences, 1.0f);
    rule.slopes = slopes;
    rule.dropout = dropout;
    rule.softmax = SOFTMAX_SINK;
    rule.window = T / 2 + 1;
    check_rule(rule, sequences, 2.0f);
}

// Documents, alone and with all else.
static void check_documents(AttentionShape s, int64_t sequences, int64_t T) {
    static float any;
    static int32_t some;
    AttentionRule rule = {.shape = s, .T = T, .positions = tensor_1d(&some, I32, 1)};
    check_rule(rule, sequences, 1.0f);
    rule.window = T / 3 + 1;
    rule.softmax = SOFTMAX_SINK;
    check_rule(rule, sequences, 1.0f);
    rule.softcap = 0.7f;
    rule.slopes = tensor_1d(&any, F32, 1);
    rule.dropout = (AttentionDropout){0.3f, {7, RNG_DROPOUT_ATTENTION, 3, 1}, 1000};
    check_rule(rule, sequences, 2.0f);
}

// Later keys, too: of all kinds of rules.
static void check_bidirectional(AttentionShape s, int64_t sequences, int64_t T) {
    static float any;
    static int32_t some;
    AttentionRule rule = {.shape = s, .T = T, .bidirectional = true};
    check_rule(rule, sequences, 1.0f);
    rule.window = T / 3 + 1;
    check_rule(rule, sequences, 1.0f);
    rule.positions = tensor_1d(&some, I32, 1);
    check_rule(rule, sequences, 1.0f);
    rule.window = 0;
    rule.softmax = SOFTMAX_SINK;
    rule.softcap = 0.7f;
    rule.slopes = tensor_1d(&any, F32, 1);
    rule.dropout = (AttentionDropout){0.3f, {7, RNG_DROPOUT_ATTENTION, 3, 1}, 1000};
    check_rule(rule, sequences, 2.0f);
}

// A document's rows have what it has alone where it begins with a block of the kernels' (all of
// which divide 64): no bit of it depends on what lies before it.
static void check_packed(AttentionShape s) {
    enum { FIRST = 128, SECOND = 70, T = FIRST + SECOND };
    for (int i = first_device(); i < device_count(); i++)
        for (int narrow = first_narrow; narrow < 2; narrow++) {
            begin_case("%s: documents of %d and %d rows", device_at(i)->name, FIRST, SECOND);
            AttentionRule rule = {.shape = s, .T = T};
            Case c = new_case(narrow ? BF16 : F32, rule, 1, 1.0f);
            c.rule.positions = new_1d(I32, T);
            for (int t = 0; t < T; t++) tensor_i32(c.rule.positions)[t] = t < FIRST ? t : t - FIRST;
            run_both(device_at(i), &c);
            for (int first = 0; first < T; first += FIRST) {
                int64_t rows = first ? SECOND : FIRST;
                AttentionRule own = {.shape = s, .T = rows};
                Case alone = new_case(c.qkv.dtype, own, 1, 1.0f);
                memcpy(alone.qkv.data, tensor_rows(c.qkv, first, rows).data,
                       tensor_bytes(alone.qkv));
                memcpy(alone.dout.data, tensor_rows(c.dout, first, rows).data,
                       tensor_bytes(alone.dout));
                run_both(device_at(i), &alone);
                expect_same_bytes("out", alone.out, tensor_rows(c.out, first, rows).data);
                expect_same_bytes("lse", alone.lse, tensor_rows(c.lse, first, rows).data);
                expect_same_bytes("dqkv", alone.dqkv, tensor_rows(c.dqkv, first, rows).data);
            }
            release_all();
        }
}

// A window that holds all keys changes no bit.
static void check_wide_window(AttentionShape s, int64_t sequences, int64_t T) {
    for (int i = first_device(); i < device_count(); i++)
        for (int narrow = first_narrow; narrow < 2; narrow++) {
            begin_case("%s: a window of all %lld keys", device_at(i)->name, (long long)T);
            AttentionRule rule = {.shape = s, .T = T};
            Case c = new_case(narrow ? BF16 : F32, rule, sequences, 1.0f);
            run_both(device_at(i), &c);
            void *out = copy_of(c.out).data, *lse = copy_of(c.lse).data;
            void *dqkv = copy_of(c.dqkv).data;
            c.rule.window = T;
            run_both(device_at(i), &c);
            expect_same_bytes("out", c.out, out);
            expect_same_bytes("lse", c.lse, lse);
            expect_same_bytes("dqkv", c.dqkv, dqkv);
            release_all();
        }
}

static void check_no_rows(void) {
    AttentionRule rule = {.shape = {2, 1, 8, 8}, .T = 16, .softmax = SOFTMAX_SINK};
    for (int i = first_device(); i < device_count(); i++)
        for (int narrow = first_narrow; narrow < 2; narrow++) {
            begin_case("%s: no rows", device_at(i)->name);
            Case c = new_case(narrow ? BF16 : F32, rule, 0, 1.0f);
            run_both(device_at(i), &c);
            release_all();
        }
}

// ---- RoPE ---------------------------------------------------------------------------------------

typedef struct RopeCase {
    Tensor qkv, source, cosines, sines;
    AttentionShape s;
    int64_t T, first;
    bool inverse;
    Tensor of_rows; // (N) i32; data NULL: none
} RopeCase;

static void rotate(Device *dev, void *context) {
    RopeCase *c = context;
    rope(dev, c->qkv, c->s, c->cosines, c->sines, (RowPositions){c->T, c->first, c->of_rows},
         c->inverse);
}
static void run_rope(Device *dev, void *context) {
    RopeCase *c = context;
    memcpy(c->qkv.data, c->source.data, tensor_bytes(c->qkv));
    run_on(dev, rotate, c, TENSORS(&c->qkv, &c->cosines, &c->sines, &c->of_rows));
}

static void check_rope_on(Device *dev, DType stored, AttentionShape s, int64_t pairs,
                          int64_t sequences, int64_t T, int64_t first, bool inverse) {
    begin_case("%s %s rope T=%lld from %lld, %lld pairs of d %lld/%lld%s", dev->name,
               dtype_name(stored), (long long)T, (long long)first, (long long)pairs,
               (long long)s.d_head, (long long)s.d_value, inverse ? " back" : "");
    int64_t N = sequences * T, W = attention_qkv_width(s), positions = first + T + 2;
    Tensor source = random_2d(N, W);
    RopeCase c = {new_2d(stored, N, W),
                  stored_as(stored, source),
                  random_2d(positions, pairs), // any numbers will do: the op does not know angles
                  random_2d(positions, pairs),
                  s,
                  T,
                  first,
                  inverse,
                  first == 0 && sequences > 1 ? random_positions(sequences, T) : (Tensor){0}};
    double *want = new_doubles(N * W);
    for (int64_t i = 0; i < N * W; i++) want[i] = (double)tensor_f32(source)[i];
    for (int64_t n = 0; n < N; n++)
        reference_rope(want + n * W, s, tensor_f32(c.cosines), tensor_f32(c.sines), pairs,
                       c.of_rows.data ? tensor_i32(c.of_rows)[n] : first + n % T, inverse);
    run_rope(dev, &c);
    // two products of numbers below 1
    expect_near("qkv", c.qkv, want, storage_eps(stored), NULL, 4 * F32_EPS);
    int64_t values = s.kv_heads * s.d_value; // the tail of every row is left alone
    for (int64_t n = 0; n < N; n++) {
        size_t at = (size_t)((n + 1) * W - values) * dtype_bytes(stored);
        expect(memcmp((char *)c.qkv.data + at, (char *)c.source.data + at,
                      (size_t)values * dtype_bytes(stored)) == 0,
               "values of row %lld changed", (long long)n);
    }
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_rope, &c, &c.qkv, 1);
    RopeCase alone = c; // the last sequence
    alone.source = tensor_rows(c.source, N - T, T);
    alone.qkv = new_2d(stored, T, W);
    if (c.of_rows.data) alone.of_rows = copy_of(tensor_range(c.of_rows, N - T, T));
    run_rope(dev, &alone);
    expect_same_bytes("a lone sequence", alone.qkv, tensor_rows(c.qkv, N - T, T).data);
    release_all();
}

static void check_rope(AttentionShape s, int64_t pairs, int64_t sequences, int64_t T, int64_t first,
                       bool inverse) {
    for (int i = first_device(); i < device_count(); i++) {
        check_rope_on(device_at(i), F32, s, pairs, sequences, T, first, inverse);
        check_rope_on(device_at(i), BF16, s, pairs, sequences, T, first, inverse);
    }
}

// ---- bench --------------------------------------------------------------------------------------

static void forward_and_wait(Device *dev, void *context) {
    forward(dev, context);
    device_synchronize(dev);
}
static void backward_and_wait(Device *dev, void *context) {
    backward(dev, context);
    device_synchronize(dev);
}

typedef struct Seconds {
    double forward, backward;
} Seconds;

static Seconds plain_seconds; // what the plain softmax took of the same shape on the same device

static void time_both(Device *dev, void *context) {
    Case *c = context;
    AttentionShape s = c->rule.shape;
    int64_t T = c->rule.T, sequences = c->qkv.shape[0] / T, heads = sequences * s.heads;
    double score_flops = (double)(heads * T * T); // two per score and channel, half masked
    double forward_flops = score_flops * (double)(s.d_head + s.d_value);
    double backward_flops = score_flops * (double)(3 * s.d_head + 2 * s.d_value);
    double f = time_call(forward_and_wait, dev, c), b = time_call(backward_and_wait, dev, c);
    bool plain = c->rule.softmax == SOFTMAX_PLAIN && c->rule.window == 0;
    if (plain) plain_seconds = (Seconds){f, b};
    printf("%s %s, %d threads, %3lld x T %4lld, %lld/%lld heads of %lld, softmax %-10s, window "
           "%4lld: forward "
           "%.1f us a head, %.0f GFLOP/s, %.2f x plain; backward %.1f us, %.0f GFLOP/s, %.2f x\n",
           dev->name, dtype_name(c->qkv.dtype), dev->threads, (long long)sequences, (long long)T,
           (long long)s.heads, (long long)s.kv_heads, (long long)s.d_head,
           choice_row(ATTENTION_SOFTMAX_CHOICES, (int)c->rule.softmax)->word,
           (long long)c->rule.window, 1e6 * f / (double)heads, 1e-9 * forward_flops / f,
           f / plain_seconds.forward, 1e6 * b / (double)heads, 1e-9 * backward_flops / b,
           b / plain_seconds.backward);
}

static void time_on(Device *dev, DType stored, AttentionRule rule, int64_t sequences) {
    Case c = new_case(stored, rule, sequences, 1.0f);
    run_on(dev, time_both, &c,
           TENSORS(&c.qkv, &c.out, &c.lse, &c.largest, &c.dout, &c.dqkv, &c.dsinks, &c.rule.sinks,
                   &c.rule.slopes));
    release_all();
}

// Every kind of softmax, and a window of a quarter of the keys.
static void time_rules(Device *dev, DType stored, AttentionShape s, int64_t sequences, int64_t T) {
    AttentionRule rule = {.shape = s, .T = T};
    for (int softmax = 0; softmax < ATTENTION_SOFTMAX_CHOICES.count; softmax++) {
        rule.softmax = (AttentionSoftmax)softmax;
        time_on(dev, stored, rule, sequences);
    }
    time_on(dev, stored, (AttentionRule){.shape = s, .T = T, .window = T / 4}, sequences);
}

static void bench(AttentionShape s, int64_t sequences, int64_t T) {
    for (int threads = 1; threads <= 2; threads++) {
        Device dev = open_cpu(threads);
        time_rules(&dev, F32, s, sequences, T);
    }
    for (int i = 1; i < device_count(); i++) {
        time_rules(device_at(i), F32, s, sequences, T);
        time_rules(device_at(i), BF16, s, sequences, T);
    }
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        bench((AttentionShape){8, 8, 16, 16}, 16, 32);
        bench((AttentionShape){8, 2, 64, 64}, 4, 512);
        bench((AttentionShape){8, 8, 64, 64}, 4, 512);
        bench((AttentionShape){4, 4, 128, 128}, 1, 2048);
        return 0;
    }
    first_narrow = argc > 1 && strcmp(argv[1], "narrow") == 0;
    check((AttentionShape){4, 4, 16, 16}, 3, 32, 1.0f);
    check((AttentionShape){1, 1, 1, 1}, 2, 1, 1.0f);
    check((AttentionShape){2, 1, 5, 3}, 2, 7, 1.0f);
    check((AttentionShape){6, 2, 24, 40}, 2, 33, 1.0f);
    check((AttentionShape){4, 1, 64, 64}, 1, 80, 1.0f);
    check((AttentionShape){2, 1, 64, 64}, 1, 130, 1.0f);
    check((AttentionShape){2, 2, 33, 16}, 2, 64, 1.0f);
    check((AttentionShape){1, 1, 16, 100}, 1, 257, 1.0f);
    check((AttentionShape){4, 2, 128, 128}, 1, 65, 1.0f);
    check((AttentionShape){2, 1, 200, 136}, 1, 70, 1.0f);
    check((AttentionShape){1, 1, 7, 255}, 2, 40, 1.0f);
    check((AttentionShape){2, 1, 32, 32}, 1, 70,
          30.0f); // scores up to 5000: the softmax must not overflow
    check_softmax((AttentionShape){4, 2, 16, 16}, 3, 32, 1.0f);
    check_softmax((AttentionShape){3, 3, 5, 3}, 2, 7, 1.0f);
    check_softmax((AttentionShape){2, 1, 64, 64}, 1, 130, 1.0f);
    check_softmax((AttentionShape){2, 2, 128, 72}, 1, 65, 1.0f);
    check_softmax((AttentionShape){1, 1, 200, 40}, 2, 35, 1.0f);
    check_softmax((AttentionShape){2, 1, 32, 32}, 1, 70, 30.0f);
    check_window((AttentionShape){4, 2, 16, 16}, 2, 32, 5);
    check_window((AttentionShape){2, 1, 5, 3}, 2, 9, 1);
    check_window((AttentionShape){2, 1, 64, 64}, 1, 200, 64);
    check_window((AttentionShape){1, 1, 33, 16}, 1, 257, 30);
    check_window((AttentionShape){2, 2, 128, 72}, 1, 170, 65);
    check_window((AttentionShape){1, 1, 200, 40}, 2, 60, 17);
    check_shaped((AttentionShape){4, 2, 16, 8}, 2, 20);
    check_shaped((AttentionShape){2, 1, 5, 3}, 2, 9);
    check_shaped((AttentionShape){2, 1, 64, 64}, 1, 130);
    check_shaped((AttentionShape){1, 1, 128, 72}, 1, 67);
    check_shaped((AttentionShape){1, 1, 200, 40}, 1, 70);
    check_documents((AttentionShape){4, 2, 16, 8}, 3, 20);
    check_documents((AttentionShape){2, 1, 64, 64}, 1, 200);
    check_documents((AttentionShape){2, 2, 33, 128}, 1, 140);
    check_documents((AttentionShape){1, 1, 200, 40}, 2, 70);
    check_bidirectional((AttentionShape){4, 2, 16, 8}, 3, 20);
    check_bidirectional((AttentionShape){2, 1, 64, 64}, 1, 200);
    check_bidirectional((AttentionShape){1, 1, 128, 72}, 2, 70);
    check_bidirectional((AttentionShape){1, 1, 200, 40}, 1, 71);
    check_packed((AttentionShape){2, 1, 64, 64});
    check_wide_window((AttentionShape){2, 1, 24, 40}, 2, 150);
    check_no_rows();
    if (first_narrow > 0) return failures();
    check_rope((AttentionShape){4, 2, 16, 8}, 8, 3, 9, 0, false);
    check_rope((AttentionShape){4, 2, 6, 6}, 3, 2, 5, 11, true);
    check_rope((AttentionShape){1, 1, 2, 1}, 1, 1, 1, 3, false);
    check_rope((AttentionShape){8, 4, 64, 64}, 32, 2, 40, 1, true);
    check_rope((AttentionShape){24, 8, 128, 64}, 64, 2, 3, 0, false);
    check_rope((AttentionShape){4, 2, 16, 8}, 3, 2, 9, 2, false);
    check_rope((AttentionShape){2, 2, 64, 64}, 16, 1, 5, 0, true);
    check_rope((AttentionShape){2, 1, 7, 3}, 2, 1, 5, 0, false);
    for (int d = first_device(); d < device_count(); d++) check_decode_together(device_at(d));
    return failures();
}
