// Multiplication by a number and the soft cap on every device, in every storage, also in place and
// where elements are not aligned.
#include "harness.h"

#include <math.h>
#include <string.h>

typedef struct Case {
    Tensor x, product, dout, out, dx;
    int64_t shift, n; // elements before and after those that ops are given stay as they are
    float factor, cap;
} Case;

static Tensor inner(const Case *c, Tensor x) {
    return tensor_range(x, c->shift, c->n);
}

static void run_ops(Device *dev, void *context) {
    Case *c = context;
    multiply_by(dev, inner(c, c->product), inner(c, c->x), c->factor);
    softcap_forward(dev, inner(c, c->out), inner(c, c->x), c->cap);
    softcap_backward(dev, inner(c, c->dx), inner(c, c->dout), inner(c, c->out), c->cap);
}

static void run_in_place(Device *dev, void *context) {
    Case *c = context;
    copy(dev, c->dx, c->dout);
    softcap_backward(dev, inner(c, c->dx), inner(c, c->dx), inner(c, c->out), c->cap);
    copy(dev, c->out, c->x);
    softcap_forward(dev, inner(c, c->out), inner(c, c->out), c->cap);
}

static void check_on(Device *dev, int64_t n, int64_t shift, DType from, DType to) {
    begin_case("%s n=%lld shift=%lld %s into %s", dev->name, (long long)n, (long long)shift,
               dtype_name(from), dtype_name(to));
    Tensor x = random_1d(n + 2 * shift), dout = random_1d(n + 2 * shift);
    for (int64_t i = 0; i < tensor_elements(x); i++) tensor_f32(x)[i] *= 40;
    Case c = {.n = n, .shift = shift, .factor = 0.3f, .cap = 15, .x = stored_as(from, x)};
    c.product = new_1d(to, n + 2 * shift);
    c.dout = stored_as(from, dout);
    c.out = new_1d(from, n + 2 * shift);
    c.dx = new_1d(from, n + 2 * shift);
    memset(c.out.data, 0, tensor_bytes(c.out));
    memset(c.dx.data, 0, tensor_bytes(c.dx));
    memset(c.product.data, 0, tensor_bytes(c.product));
    run_on(dev, run_ops, &c, TENSORS(&c.x, &c.product, &c.dout, &c.out, &c.dx));
    int64_t all = n + 2 * shift;
    double *product = new_doubles(all), *out = new_doubles(all), *dx = new_doubles(all);
    Tensor found = widened(c.out);
    for (int64_t i = 0; i < all; i++) {
        bool given = i >= shift && i < shift + n;
        double value = (double)tensor_f32(x)[i], t = (double)tensor_f32(found)[i] / 15;
        product[i] = given ? (double)0.3f * value : 0;
        out[i] = given ? 15 * tanh(value / 15) : 0;
        dx[i] = given ? (double)tensor_f32(dout)[i] * (1 - t * t) : 0;
    }
    // The exponential has 2 ulp, and 1 - e and 1 - t² cancel: errors of few ulp of 1, times the
    // cap.
    expect_near("product", c.product, product, F32_EPS + storage_eps(to), NULL, 0);
    expect_near("out", c.out, out, storage_eps(from), NULL, 15 * 8 * F32_EPS);
    expect_near("dx", c.dx, dx, storage_eps(from), NULL, 8 * F32_EPS);
    if (dev->place == ON_HOST)
        expect_same_for_any_threads(run_ops, &c, (Tensor[]){c.product, c.out, c.dx}, 3);
    Case again = c;
    again.out = copy_of(c.out), again.dx = copy_of(c.dx);
    run_on(dev, run_in_place, &again, TENSORS(&again.x, &again.dout, &again.out, &again.dx));
    expect_same_bytes("out in place", inner(&again, again.out), inner(&c, c.out).data);
    expect_same_bytes("dx in place", inner(&again, again.dx), inner(&c, c.dx).data);
    release_all();
}

int main(void) {
    static const int64_t sizes[] = {0, 1, 7, 4096, 5003};
    static const DType storages[] = {F32, BF16};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int64_t shift = 0; shift < 2; shift++)
            for (int i = 0; i < 4; i++)
                for (int d = 0; d < device_count(); d++)
                    check_on(device_at(d), sizes[s], shift, storages[i / 2], storages[i % 2]);
    return failures();
}
