// Experts dealt to ranks by their load, against every deal that there is.
#include "model/balanced_deal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/integers.h"
#include "kernels/rng.h"

enum { EXPERTS_MAX = 64, RANKS_MAX = 8 };

// Of all ways to give the experts from e on to ranks with room: the fewest rows of the busiest.
static int64_t fewest(const int64_t *rows, int64_t E, int64_t ranks, int64_t e, int64_t *load,
                      int64_t *room) {
    int64_t best = INT64_MAX, most = 0;
    for (int64_t rank = 0; rank < ranks; rank++) most = larger(most, load[rank]);
    if (e == E) return most;
    for (int64_t rank = 0; rank < ranks; rank++) {
        if (room[rank] == 0) continue;
        room[rank]--;
        load[rank] += rows[e];
        best = smaller(best, fewest(rows, E, ranks, e + 1, load, room));
        load[rank] -= rows[e];
        room[rank]++;
    }
    return best;
}

// Every expert has one place, and a rank's are in order.
static void assert_deal(const int32_t *expert_at, Deal deal, int64_t ranks) {
    bool seen[EXPERTS_MAX] = {false};
    int64_t place = 0;
    for (int64_t rank = 0; rank < ranks; rank++)
        for (int64_t i = 0; i < deal_count(deal, rank); i++, place++) {
            assert_in_range(expert_at[place], 0, deal_first(deal, ranks) - 1);
            assert_false(seen[expert_at[place]]);
            seen[expert_at[place]] = true;
            if (i > 0) assert_true(expert_at[place] > expert_at[place - 1]);
        }
}

static void draw(int64_t *rows, int64_t E, uint64_t number) {
    RngStream stream = {.seed = number, .purpose = RNG_INIT};
    for (int64_t e = 0; e < E; e++) {
        double u = rng_uniform(stream, (uint64_t)e);
        rows[e] = (int64_t)(1000 * u * u * u * u); // few have most
    }
}

static void no_deal_of_equal_counts_is_much_better(void **state) {
    (void)state;
    const int64_t cases[][2] = {{4, 2}, {6, 2}, {8, 2}, {6, 3}, {8, 3}, {7, 3}, {8, 4}, {5, 5}};
    double worst = 0, sum = 0;
    int count = 0;
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (uint64_t number = 0; number < 20; number++) {
            int64_t E = cases[c][0], ranks = cases[c][1], rows[EXPERTS_MAX];
            int64_t load[RANKS_MAX] = {0}, room[RANKS_MAX];
            int32_t expert_at[EXPERTS_MAX], in_order[EXPERTS_MAX];
            Deal deal = deal_evenly(E, ranks);
            for (int64_t rank = 0; rank < ranks; rank++) room[rank] = deal_count(deal, rank);
            for (int32_t e = 0; e < E; e++) in_order[e] = e;
            draw(rows, E, number);
            balanced_deal(expert_at, rows, deal, ranks);
            assert_deal(expert_at, deal, ranks);
            int64_t most = busiest_rank_rows(expert_at, rows, deal, ranks);
            int64_t best = fewest(rows, E, ranks, 0, load, room);
            assert_true(most >= best);
            assert_true(most <= busiest_rank_rows(in_order, rows, deal, ranks));
            double ratio = best > 0 ? (double)most / (double)best : 1;
            worst = ratio > worst ? ratio : worst;
            sum += ratio;
            count++;
        }
    print_message("busiest rank over the least possible: mean %.4f, worst %.4f\n", sum / count,
                  worst);
    // Measured 1.108 and 1.003; longest first alone is bounded by 4/3 where counts are free.
    assert_true(worst < 1.15);
    assert_true(sum / count < 1.01);
}

static void even_loads_stay_in_order(void **state) {
    (void)state;
    int64_t rows[8] = {5, 5, 5, 5, 5, 5, 5, 5};
    int32_t expert_at[8];
    balanced_deal(expert_at, rows, deal_evenly(8, 4), 4);
    for (int32_t e = 0; e < 8; e++) assert_int_equal(expert_at[e], e);
    memset(rows, 0, sizeof rows);
    balanced_deal(expert_at, rows, deal_evenly(8, 3), 3);
    for (int32_t e = 0; e < 8; e++) assert_int_equal(expert_at[e], e);
}

// Two busy experts that are neighbours live on two ranks, and nothing else is moved than must be.
static void busy_experts_are_parted(void **state) {
    (void)state;
    const int64_t rows[4] = {90, 80, 10, 20};
    int32_t expert_at[4];
    balanced_deal(expert_at, rows, deal_evenly(4, 2), 2);
    assert_int_equal(busiest_rank_rows(expert_at, rows, deal_evenly(4, 2), 2), 100);
    const int32_t wanted[4] = {0, 2, 1, 3};
    assert_memory_equal(expert_at, wanted, sizeof wanted);
}

// Shortest first would leave 59 rows with a rank, and no exchange that helps.
static void the_longest_is_dealt_first(void **state) {
    (void)state;
    const int64_t rows[8] = {18, 29, 12, 1, 22, 22, 7, 3};
    int32_t expert_at[8];
    balanced_deal(expert_at, rows, deal_evenly(8, 2), 2);
    assert_int_equal(busiest_rank_rows(expert_at, rows, deal_evenly(8, 2), 2), 57);
}

// Longest first gives 49 and 37 rows, and one exchange 43 to each.
static void an_exchange_mends_what_longest_first_leaves(void **state) {
    (void)state;
    const int64_t rows[6] = {8, 8, 15, 14, 14, 27};
    int32_t expert_at[6];
    balanced_deal(expert_at, rows, deal_evenly(6, 2), 2);
    assert_int_equal(busiest_rank_rows(expert_at, rows, deal_evenly(6, 2), 2), 43);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_deal_of_equal_counts_is_much_better),
        cmocka_unit_test(even_loads_stay_in_order),
        cmocka_unit_test(busy_experts_are_parted),
        cmocka_unit_test(the_longest_is_dealt_first),
        cmocka_unit_test(an_exchange_mends_what_longest_first_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
