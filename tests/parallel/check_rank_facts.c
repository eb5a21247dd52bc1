// What ranks must have in common: who differs is named, with both values, and everybody gets the
// same answer.
#include "comm/rank_facts.h"

#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "rank_test.h"

enum { FACTS = 3 };

// Rank r finds "r0" in the facts of `odd`'s bits where `differs`; rank 0 and the others "same".
static void fill(RankFact facts[FACTS], unsigned odd, bool differs) {
    static const ExitCode codes[FACTS] = {EXIT_DONE, EXIT_DATA, EXIT_COMMUNICATION};
    static const char *const names[FACTS] = {"the weather", "the data", "the machine"};
    for (int i = 0; i < FACTS; i++) {
        facts[i] = (RankFact){.what = names[i], .exit_code = codes[i], .fix = "mend it"};
        snprintf(facts[i].value, FACT_BYTES, "same");
        snprintf(facts[i].note, FACT_BYTES, "of rank %d", comm_rank());
        if (differs && odd >> i & 1) snprintf(facts[i].value, FACT_BYTES, "other");
    }
}

static void equal_values_pass(void) {
    RankFact facts[FACTS];
    Error err = {0};
    fill(facts, 0, false);
    EXPECT(rank_facts_compare(facts, FACTS, &err), "'%s'", err.message);
    EXPECT(err.exit_code == 0 && err.message[0] == 0, "'%s'", err.message);
}

// For every set of facts and every first rank that differs from rank 0.
static void the_first_error_is_named(void) {
    for (unsigned odd = 1; odd < 1u << FACTS; odd++)
        for (int first = 1; first < comm_size(); first++) {
            RankFact facts[FACTS];
            Error err = {0};
            fill(facts, odd, comm_rank() >= first);
            bool equal = rank_facts_compare(facts, FACTS, &err);
            int found = odd & 2 ? 1 : odd & 4 ? 2 : -1; // warnings never count
            EXPECT(equal == (found < 0), "facts %u from rank %d: '%s'", odd, first, err.message);
            if (found < 0) continue;
            char wanted[1024], others[64] = "";
            if (comm_size() - first > 1)
                snprintf(others, sizeof others, ", the first of %d others,", comm_size() - first);
            snprintf(wanted, sizeof wanted,
                     "%s differs between ranks: rank 0 on %s has same (of rank 0), rank %d on %s%s "
                     "has other (of rank %d); mend it",
                     facts[found].what, comm_host(), first, comm_host(), others, first);
            EXPECT(strcmp(err.message, wanted) == 0, "'%s', not '%s'", err.message, wanted);
            EXPECT(err.exit_code == (int)facts[found].exit_code, "code %d", err.exit_code);
        }
}

int main(int argc, char **argv) {
    static const RankTest tests[] = {
        {"equal values pass, whatever the notes", equal_values_pass},
        {"the first error is named with both ranks and values", the_first_error_is_named},
    };
    return rank_tests_run(argc, argv, tests, (int)(sizeof tests / sizeof *tests));
}
