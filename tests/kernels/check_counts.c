// Counting choices, which has to be exact: expected are the bytes of a plain loop.
#include <string.h>

#include "tests/kernels/harness.h"

typedef struct Case {
    Tensor counts, ids, kept; // kept.data NULL: all are
} Case;

static void run(Device *dev, void *context) {
    Case *c = context;
    count_ids(dev, c->counts, c->ids, c->kept);
}

// Ids from -2 to E + 1: those that are no expert count nothing. `hot` sends all to one expert.
static void check(int64_t n, int64_t K, int64_t E, bool hot, bool some) {
    Case c = {.counts = new_1d(I64, E), .ids = new_2d(I32, n, K)};
    if (some) c.kept = new_2d(U8, n, K);
    int64_t *before = new_1d(I64, E).data, *want = new_1d(I64, E).data;
    for (int64_t e = 0; e < E; e++) want[e] = before[e] = ((int64_t)1 << 33) + e;
    for (int64_t i = 0; i < n * K; i++) {
        int32_t id = (int32_t)(hot ? E - 1 : random_below(E + 4) - 2);
        tensor_i32(c.ids)[i] = id;
        if (some) tensor_u8(c.kept)[i] = random_below(3) > 0;
        if (id >= 0 && id < E && (!some || tensor_u8(c.kept)[i])) want[id]++;
    }
    for (int d = 0; d < device_count(); d++) {
        begin_case("count_ids on %s of %lld x %lld, %lld experts%s", device_at(d)->name,
                   (long long)n, (long long)K, (long long)E, some ? ", some kept" : "");
        memcpy(c.counts.data, before, (size_t)E * sizeof *before);
        run_on(device_at(d), run, &c, TENSORS(&c.counts, &c.ids, &c.kept));
        expect_same_bytes("counts", c.counts, want);
    }
    release_all();
}

int main(void) {
    for (int some = 0; some < 2; some++) {
        check(1, 1, 1, false, some);
        check(7, 2, 5, false, some);
        check(3000, 3, 64, false, some);
        check(5000, 2, 8, true, some);
        check(2100, 2, 300, false, some);
    }
    return failures();
}
