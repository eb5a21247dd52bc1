#include "worker/compare_ranks.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "comm/comm.h"
#include "comm/rank_facts.h"
#include "kernels/fingerprint.h"
#include "worker/program_hash.h"

// ---- programs --------------------------------------------------------------------------------------------

static void describe_program(RankFact *fact) {
    char hash[HASH_TEXT_BYTES];
    if (program_hash(hash))
        snprintf(fact->value, sizeof fact->value, "moetrain %s, build %s", MOETRAIN_VERSION, hash);
    else
        snprintf(fact->value, sizeof fact->value, "moetrain %s", MOETRAIN_VERSION);
    ssize_t length = readlink("/proc/self/exe", fact->note, sizeof fact->note - 1);
    fact->note[length > 0 ? length : 0] = 0;
}

// The words in quotes; the end of a long line stands as a hash.
static void describe_words(RankFact *fact, int count, char *const *words) {
    enum { SHOWN = FACT_BYTES - 32 };
    XXH3_state_t *state = XXH3_createState();
    CHECK_MEMORY(state, "no memory for a hash");
    XXH3_64bits_reset(state);
    size_t used = 0;
    for (int i = 0; i < count; i++) {
        XXH3_64bits_update(state, words[i], strlen(words[i]) + 1);
        if (used < SHOWN)
            used += (size_t)snprintf(fact->value + used, SHOWN - used, "%s%s", i > 0 ? " " : "'",
                                     words[i]);
    }
    if (used >= SHOWN)
        snprintf(fact->value + SHOWN - 1, sizeof fact->value - SHOWN + 1, "…' (%016llx)",
                 (unsigned long long)XXH3_64bits_digest(state));
    else
        snprintf(fact->value + used, sizeof fact->value - used, "'");
    XXH3_freeState(state);
}

bool compare_programs(int word_count, char *const *words, Error *err) {
    RankFact facts[] = {
        {.what = "the program",
         .exit_code = EXIT_COMMUNICATION,
         .fix = "install the same build on all hosts, or start it from a folder that they share"},
        {.what = "the MPI library",
         .exit_code = EXIT_DONE,
         .fix = "where ranks hang or messages are lost, install the same on all hosts"},
        {.what = "the command line",
         .exit_code = EXIT_CONFIG,
         .fix = "start all ranks with the same words; rank 0 would decide for all"},
    };
    describe_program(&facts[0]);
    snprintf(facts[1].value, sizeof facts[1].value, "%.180s", comm_library());
    describe_words(&facts[2], word_count, words);
    return rank_facts_compare(facts, sizeof facts / sizeof *facts, err);
}

// ---- devices ---------------------------------------------------------------------------------------------

bool compare_devices(Device *dev, Reproducible reproducible, Error *err) {
    if (comm_size() == 1) return true; // nobody to compare with, and the arithmetic takes time
    bool fatal = reproducible == REPRODUCIBLE_RANKS;
    ExitCode exit_code = fatal ? EXIT_COMMUNICATION : EXIT_DONE;
    const char *fix = fatal ? "results would depend on which rank computes what: use hosts of one "
                              "kind with one environment, or train.reproducible: run"
                            : "results depend on which rank computes what, and the slowest kind "
                              "sets the pace";
    RankFact facts[] = {
        {.what = dev->place == ON_HOST ? "the processor" : "the GPU",
         .exit_code = exit_code,
         .fix = fix},
        {.what = "the arithmetic of the processor", .exit_code = exit_code, .fix = fix},
    };
    snprintf(facts[0].value, sizeof facts[0].value, "%s", dev->kind);
    const char *kind = strstr(dev->description, dev->kind); // after the model's name, if at all
    if (kind && kind > dev->description + 2)
        snprintf(facts[0].note, sizeof facts[0].note, "%.*s", (int)(kind - dev->description - 2),
                 dev->description);
    char fingerprint[FINGERPRINT_BYTES];
    device_fingerprint(dev, fingerprint);
    snprintf(facts[1].value, sizeof facts[1].value, "fingerprint %s", fingerprint);
    snprintf(facts[1].note, sizeof facts[1].note, "%s", dev->description);
    return rank_facts_compare(facts, sizeof facts / sizeof *facts, err);
}

// ---- data ------------------------------------------------------------------------------------------------

bool compare_vocabularies(const Vocabulary *vocabulary, Error *err) {
    RankFact fact = {.what = "the vocabulary",
                     .exit_code = EXIT_DATA,
                     .fix = "give all hosts the same training text"};
    size_t bytes = vocabulary->code_points ? (size_t)vocabulary->size * sizeof(int32_t) : 0;
    snprintf(fact.value, sizeof fact.value, "%lld tokens, characters %016llx",
             (long long)vocabulary->size,
             (unsigned long long)XXH3_64bits(vocabulary->code_points, bytes));
    return rank_facts_compare(&fact, 1, err);
}

bool compare_data_files(const char *key, const char *path, const DataFile *file,
                        const char *identity, Error *err) {
    RankFact fact = {.what = key,
                     .exit_code = EXIT_DATA,
                     .fix = "copy the right file to all hosts, or put it on a file system that "
                            "they share"};
    snprintf(fact.value, sizeof fact.value, "%lld tokens, identity %s",
             (long long)data_file_tokens(file), identity);
    snprintf(fact.note, sizeof fact.note, "%s", path);
    return rank_facts_compare(&fact, 1, err);
}
