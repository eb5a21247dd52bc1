// The norm of queries and keys against the reference, on every device and in both storages.
#include "harness.h"
#include "reference.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct Case {
    Tensor x, out, rstd, dout, dx, dq_weight, dk_weight;
    Tensor x_f32, dout_f32; // the same numbers
    QkNorm norm;
    AttentionShape s;
} Case;

static Case new_case(DType stored, AttentionShape s, QkNormKind kind, int64_t N) {
    int64_t W = attention_qkv_width(s);
    int64_t q = qk_norm_q_width(s, kind), k = qk_norm_k_width(s, kind);
    Case c = {.norm = {kind, 1e-5f, random_1d(q), random_1d(k)}, .s = s};
    c.x_f32 = random_2d(N, W);
    c.x = stored_as(stored, c.x_f32);
    c.dout_f32 = random_2d(N, W);
    c.dout = stored_as(stored, c.dout_f32);
    c.out = new_2d(stored, N, W);
    c.dx = new_2d(stored, N, W);
    c.rstd = new_2d(F32, N, qk_norm_groups(s, kind));
    c.dq_weight = new_2d(F32, N, q);
    c.dk_weight = new_2d(F32, N, k);
    return c;
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    qk_norm_forward(dev, c->out, c->rstd, c->x, c->s, c->norm);
    copy(dev, c->dx, c->dout);
    qk_norm_backward(dev, c->dx, c->dq_weight, c->dk_weight, c->x, c->rstd, c->s, c->norm);
}
static void run_case(Device *dev, Case *c) {
    run_on(dev, run_ops, c,
           TENSORS(&c->x, &c->out, &c->rstd, &c->dout, &c->dx, &c->dq_weight, &c->dk_weight,
                   &c->norm.q_weight, &c->norm.k_weight));
}

// What the rows add to a weight, summed in double.
static Tensor sums_of(Tensor rows) {
    int64_t N = rows.shape[0], width = rows.shape[1];
    Tensor sums = new_1d(F64, width);
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t n = 0; n < N; n++) sum += (double)tensor_f32(rows)[n * width + i];
        tensor_f64(sums)[i] = sum;
    }
    return sums;
}

static void check_on(Device *dev, DType stored, AttentionShape s, QkNormKind kind, int64_t N) {
    begin_case("%s %s norm of queries and keys, %s, %lld rows, %lld/%lld heads, d %lld/%lld",
               dev->name, dtype_name(stored), choice_row(QK_NORM_CHOICES, (int)kind)->word,
               (long long)N, (long long)s.heads, (long long)s.kv_heads, (long long)s.d_head,
               (long long)s.d_value);
    Case c = new_case(stored, s, kind, N);
    int64_t W = c.x.shape[1], q = c.dq_weight.shape[1], k = c.dk_weight.shape[1];
    double *out = new_doubles(N * W), *rstd = new_doubles(tensor_elements(c.rstd));
    double *dx = new_doubles(N * W), *dx_unit = new_doubles(N * W);
    double *dweights = new_doubles(q + k), *magnitude = new_doubles(q + k);
    reference_qk_norm_forward(out, rstd, tensor_f32(c.x_f32), s, c.norm, N);
    reference_qk_norm_backward(dx, dx_unit, dweights, magnitude, tensor_f32(c.dout_f32),
                               tensor_f32(c.x_f32), s, c.norm, N);
    run_case(dev, &c);
    // A mean of squares has a rounding for each addition, half of which its root keeps; the
    // products have one each.
    double width = (double)(kind == QK_NORM_WHOLE ? q : s.d_head);
    double error = (width / 2 + 4) * F32_EPS;
    expect_near("out", c.out, out, error + storage_eps(stored), NULL, 0);
    expect_near("rstd", c.rstd, rstd, error, NULL, 0);
    expect_near("dx", c.dx, dx, storage_eps(stored), dx_unit, 4 * error);
    // In the mode of heads their shares are added in f32 first.
    double shares = error + (double)s.heads * F32_EPS;
    expect_near("dq_weight", sums_of(c.dq_weight), dweights, 0, magnitude, shares);
    expect_near("dk_weight", sums_of(c.dk_weight), dweights + q, 0, magnitude + q, shares);
    Tensor outputs[] = {c.out, c.rstd, c.dx, c.dq_weight, c.dk_weight};
    if (dev->place == ON_HOST) expect_same_for_any_threads(run_ops, &c, outputs, 5);
    if (N > 1) { // the last row alone: the same bits
        Case alone = new_case(stored, s, kind, 1);
        alone.norm = c.norm;
        memcpy(alone.x.data, tensor_rows(c.x, N - 1, 1).data, tensor_bytes(alone.x));
        memcpy(alone.dout.data, tensor_rows(c.dout, N - 1, 1).data, tensor_bytes(alone.dout));
        run_case(dev, &alone);
        expect_same_bytes("out of a lone row", alone.out, tensor_rows(c.out, N - 1, 1).data);
        expect_same_bytes("dx of a lone row", alone.dx, tensor_rows(c.dx, N - 1, 1).data);
    }
    release_all();
}

static void check(AttentionShape s, int64_t N) {
    for (int i = 0; i < device_count(); i++)
        for (int narrow = 0; narrow < 2; narrow++)
            for (int kind = QK_NORM_HEAD; kind < QK_NORM_CHOICES.count; kind++)
                check_on(device_at(i), narrow ? BF16 : F32, s, (QkNormKind)kind, N);
}

static void time_one(Device *dev, void *context) {
    run_ops(dev, context);
    device_synchronize(dev);
}
static void time_both(Device *dev, void *context) {
    Case *c = context;
    printf("%s %s, %s: %.1f ns a row forward and backward\n", dev->name, dtype_name(c->x.dtype),
           choice_row(QK_NORM_CHOICES, (int)c->norm.kind)->word,
           1e9 * time_call(time_one, dev, c) / (double)c->x.shape[0]);
}

int main(int argc, char **argv) {
    if (wants_bench(argc, argv)) {
        for (int i = 0; i < device_count(); i++)
            for (int kind = QK_NORM_HEAD; kind < QK_NORM_CHOICES.count; kind++) {
                Case c = new_case(F32, (AttentionShape){8, 8, 64, 64}, (QkNormKind)kind, 2048);
                run_on(device_at(i), time_both, &c,
                       TENSORS(&c.x, &c.out, &c.rstd, &c.dout, &c.dx, &c.dq_weight, &c.dk_weight,
                               &c.norm.q_weight, &c.norm.k_weight));
                release_all();
            }
        return 0;
    }
    check((AttentionShape){4, 2, 16, 8}, 9);
    check((AttentionShape){3, 1, 5, 3}, 4);
    check((AttentionShape){1, 1, 1, 1}, 2);
    check((AttentionShape){2, 2, 200, 7}, 3);
    check((AttentionShape){8, 4, 64, 64}, 1);
    check((AttentionShape){2, 1, 8, 8}, 0);
    return failures();
}
