// The flight recorder keeps what its writer said last, whole, whoever reads meanwhile.
#include "comm/flight_recorder.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "comm/group.h"
#include "comm/kind_seconds.h"
#include "kernels/heartbeat.h"

static const Group pair = {.name = "pair", .size = 2}, alone = {.name = "alone", .size = 1};
static const char *const names[2] = {"even", "odd"};

// Every field follows from the number, so that a mixture of two records shows.
static int64_t record_one(void) {
    int64_t number = flight_recorder_last() + 1;
    const char *name = names[number % 2];
    return flight_recorder_begin(&pair, name, name, 3 * number, number % 2 ? ON_DEVICE : ON_HOST);
}

static int is_whole(const FlightRecord *record) {
    const char *name = names[record->number % 2];
    return record->name == name && record->kind == name && record->group == pair.name &&
           record->bytes == 3 * record->number && record->on_device == record->number % 2;
}

static void the_last_ones_are_kept_in_order(void **state) {
    (void)state;
    FlightRecord records[FLIGHT_RECORDS];
    assert_int_equal(flight_recorder_read(records), 0);
    watchdog_beat("a phase");
    for (int i = 0; i < 3; i++) flight_recorder_end(record_one());
    assert_int_equal(flight_recorder_read(records), 3);
    for (int i = 0; i < FLIGHT_RECORDS + 7; i++) flight_recorder_end(record_one());
    int64_t last = flight_recorder_last();
    assert_int_equal(last, FLIGHT_RECORDS + 10);
    assert_int_equal(flight_recorder_read(records), FLIGHT_RECORDS);
    for (int i = 0; i < FLIGHT_RECORDS; i++) {
        assert_int_equal(records[i].number, last - FLIGHT_RECORDS + 1 + i);
        assert_true(is_whole(&records[i]));
        assert_string_equal(records[i].phase, "a phase");
        assert_true(records[i].ended >= records[i].begun && records[i].begun > 0);
    }
    assert_false(flight_recorder_find(last - FLIGHT_RECORDS, &records[0]));
    assert_false(flight_recorder_find(last + 1, &records[0]));
    assert_false(flight_recorder_find(0, &records[0]));
}

static void what_has_not_ended_shows(void **state) {
    (void)state;
    FlightRecord record;
    int64_t first = record_one(), second = record_one();
    flight_recorder_leave(first);
    flight_recorder_return(first);
    flight_recorder_end(first);
    assert_true(flight_recorder_find(first, &record) && record.ended > 0);
    assert_true(flight_recorder_find(second, &record) && record.ended == 0);
    for (int i = 0; i < FLIGHT_RECORDS; i++) record_one();
    flight_recorder_end(second); // whose place another one has taken
    assert_true(flight_recorder_find(second + FLIGHT_RECORDS, &record) && record.ended == 0);
}

static void a_group_of_one_exchanges_nothing(void **state) {
    (void)state;
    int64_t last = flight_recorder_last();
    assert_int_equal(flight_recorder_begin(&alone, "barrier", NULL, 0, ON_HOST), 0);
    flight_recorder_leave(0);
    flight_recorder_return(0);
    flight_recorder_end(0);
    assert_int_equal(flight_recorder_last(), last);
}

static void time_on_the_host_counts(void **state) {
    (void)state;
    const char *kinds[] = {NULL, "gradients", "dispatch"};
    for (int i = 0; i < 3; i++) {
        double before = flight_recorder_seconds(kinds[i]);
        double other = flight_recorder_seconds(kinds[(i + 1) % 3]);
        int64_t device = flight_recorder_begin(&pair, "sum", kinds[i], 0, ON_DEVICE);
        flight_recorder_end(device);
        assert_true(flight_recorder_seconds(kinds[i]) == before);
        FlightRecord record;
        int64_t host = flight_recorder_begin(&pair, "sum", kinds[i], 0, ON_HOST);
        flight_recorder_end(host);
        assert_true(flight_recorder_find(host, &record));
        double counted = flight_recorder_seconds(kinds[i]) - before;
        assert_true(counted > 0 && counted <= record.ended - record.begun + 1e-9);
        assert_true(flight_recorder_seconds(kinds[(i + 1) % 3]) == other);
    }
}

static void kinds_beyond_the_table_are_counted_together(void **state) {
    (void)state;
    KindSeconds table = {0};
    static char kinds[MOST_KIND_SECONDS + 2][4];
    for (int i = 0; i < MOST_KIND_SECONDS + 2; i++) kind_seconds_add(&table, kinds[i], i + 1);
    kind_seconds_add(&table, NULL, 0.5);
    for (int i = 0; i < MOST_KIND_SECONDS; i++)
        assert_true(kind_seconds_of(&table, kinds[i]) == i + 1);
    assert_true(kind_seconds_of(&table, kinds[MOST_KIND_SECONDS]) == 0);
    assert_true(kind_seconds_of(&table, NULL) == 2 * MOST_KIND_SECONDS + 3 + 0.5);
}

static atomic_bool writing = true;

static void *write_many(void *unused) {
    for (int i = 0; i < 2000000; i++) flight_recorder_end(record_one());
    atomic_store(&writing, false);
    return unused;
}

static void a_reader_never_gets_a_mixture(void **state) {
    (void)state;
    static FlightRecord records[FLIGHT_RECORDS];
    pthread_t writer;
    int64_t begin = flight_recorder_last();
    assert_int_equal(pthread_create(&writer, NULL, write_many, NULL), 0);
    while (atomic_load(&writing)) {
        int count = flight_recorder_read(records);
        for (int i = 0; i < count; i++)
            assert_true(records[i].number <= begin || is_whole(&records[i]));
    }
    pthread_join(writer, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_ones_are_kept_in_order),
        cmocka_unit_test(what_has_not_ended_shows),
        cmocka_unit_test(a_group_of_one_exchanges_nothing),
        cmocka_unit_test(time_on_the_host_counts),
        cmocka_unit_test(kinds_beyond_the_table_are_counted_together),
        cmocka_unit_test(a_reader_never_gets_a_mixture),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
