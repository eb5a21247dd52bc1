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
