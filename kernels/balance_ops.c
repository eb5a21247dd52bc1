#include "kernels/balance_ops.h"

#include "kernels/op_checks.h"

void importance_sums(Device *dev, Tensor sums, Tensor ids, Tensor weights) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    CHECK_SHAPE_2D(sums, I64, sums.shape[0], sums.shape[1]);
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(weights, F32, N, K);
    check_parts(sums.shape[0], N);
    dev->backend->op.importance_sums(dev, sums, ids, weights);
}

void importance_backward(Device *dev, Tensor dweights, Tensor ids, Tensor slopes) {
    int64_t N = ids.shape[0], K = ids.shape[1];
    CHECK_SHAPE_2D(dweights, F32, N, K);
    CHECK_SHAPE_2D(ids, I32, N, K);
    CHECK_SHAPE_2D(slopes, F32, slopes.shape[0], slopes.shape[1]);
    check_parts(slopes.shape[0], N);
    dev->backend->op.importance_backward(dev, dweights, ids, slopes);
}

static void check_noisy(NoisyLogits logits, int64_t parts, int64_t K) {
    int64_t N = logits.raw.shape[0], E = logits.raw.shape[1];
    CHECK_SHAPE_2D(logits.raw, F32, N, E);
    CHECK_SHAPE_2D(logits.noisy, F32, N, E);
    CHECK_SHAPE_2D(logits.scale, F32, N, E);
    check_parts(parts, N);
    CHECK(K >= 1 && K < E && K <= MOST_DRAWN, "%lld of %lld experts", (long long)K, (long long)E);
}

void noisy_load_sums(Device *dev, Tensor sums, NoisyLogits logits, int64_t K) {
    check_noisy(logits, sums.shape[0], K);
    CHECK_SHAPE_2D(sums, I64, sums.shape[0], logits.raw.shape[1]);
    dev->backend->op.noisy_load_sums(dev, sums, logits, K);
}

void noisy_load_backward(Device *dev, Tensor dlogits, Tensor dscale, Tensor slopes,
                         NoisyLogits logits, int64_t K) {
    int64_t N = logits.raw.shape[0], E = logits.raw.shape[1];
    check_noisy(logits, slopes.shape[0], K);
    CHECK_SHAPE_2D(dlogits, F32, N, E);
    CHECK_SHAPE_2D(dscale, F32, N, E);
    CHECK_SHAPE_2D(slopes, F32, slopes.shape[0], E);
    dev->backend->op.noisy_load_backward(dev, dlogits, dscale, slopes, logits, K);
}

void logit_sums(Device *dev, Tensor lse, Tensor squares, Tensor lse2_sum, Tensor logits) {
    int64_t N = logits.shape[0];
    CHECK_SHAPE_2D(logits, F32, N, logits.shape[1]);
    CHECK_SHAPE_1D(lse, F32, N);
    CHECK_SHAPE_1D(squares, F32, N);
    CHECK_SHAPE_1D(lse2_sum, F64, lse2_sum.shape[0]);
    check_parts(lse2_sum.shape[0], N);
    dev->backend->op.logit_sums(dev, lse, squares, lse2_sum, logits);
}

void z_loss_backward(Device *dev, Tensor dlogits, Tensor logits, Tensor lse, float scale) {
    int64_t N = logits.shape[0], E = logits.shape[1];
    CHECK_SHAPE_2D(logits, F32, N, E);
    CHECK_SHAPE_2D(dlogits, F32, N, E);
    CHECK_SHAPE_1D(lse, F32, N);
    dev->backend->op.z_loss_backward(dev, dlogits, logits, lse, scale);
}

void variation_totals(Device *dev, Tensor totals, Tensor slopes, Tensor sums, VariationTerm term,
                      bool add) {
    int64_t parts = slopes.shape[0], E = slopes.shape[1], R = sums.shape[0];
    CHECK_SHAPE_2D(slopes, F32, parts, E);
    CHECK_SHAPE_2D(sums, I64, R, E);
    CHECK_SHAPE_2D(totals, F64, totals.shape[0], totals.shape[1]);
    check_parts(R, parts);
    check_parts(totals.shape[0], parts);
    CHECK(term.run > 0 && R % term.run == 0, "%lld rows do not divide into runs of %lld",
          (long long)R, (long long)term.run);
    CHECK(term.column >= 0 && term.column < totals.shape[1], "the term has no column");
    dev->backend->op.variation_totals(dev, totals, slopes, sums, term, add);
}

void document_balance(Device *dev, Tensor balance, Tensor totals, Tensor base, Tensor logits,
                      Tensor ids, Tensor positions, DocumentTerm term) {
    int64_t N = logits.shape[0], E = logits.shape[1], parts = base.shape[0];
    CHECK(term.T > 0 && N % term.T == 0, "%lld rows in sequences of %lld", (long long)N,
          (long long)term.T);
    CHECK_SHAPE_2D(logits, F32, N, E);
    CHECK_SHAPE_2D(balance, F32, N, E);
    CHECK_SHAPE_2D(base, F32, parts, E);
    CHECK_SHAPE_2D(ids, I32, N, ids.shape[1]);
    CHECK_SHAPE_1D(positions, I32, N);
    CHECK_SHAPE_2D(totals, F64, totals.shape[0], totals.shape[1]);
    check_parts(parts, N);
    check_parts(totals.shape[0], N / term.T);
    CHECK(term.column >= 0 && term.column < totals.shape[1], "the term has no column");
    dev->backend->op.document_balance(dev, balance, totals, base, logits, ids, positions, term);
}
