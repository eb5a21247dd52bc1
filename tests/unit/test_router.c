// What routers of one model do not share.
#include "model/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void no_two_routers_of_a_model_have_the_same_random_numbers(void **state) {
    (void)state;
    const ModelConfig config = {.layers = 3, .mtp = {.layers = 2}};
    const RouterPlace places[] = {ROUTER_OF_FEED_FORWARD, ROUTER_OF_MIXER};
    bool taken[64] = {false};
    for (int place = 0; place < 2; place++)
        for (int64_t block = 0; block < model_blocks(&config); block++) {
            const Router router = {.place = places[place], .layer = block};
            int64_t stream = router_stream(&router, &config);
            assert_in_range(stream, 0, 63);
            if (taken[stream]) fail_msg("stream %lld belongs to two", (long long)stream);
            taken[stream] = true;
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_two_routers_of_a_model_have_the_same_random_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
