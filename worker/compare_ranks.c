#include "worker/compare_ranks.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "comm/comm.h"
#include "comm/rank_facts.h"
#include "kernels/fingerprint.h"
#include "worker/run/program_hash.h"

enum { WORD_FACTS = 32 }; // words of a command line that are compared one by one

// ---- programs -----------------------------------------------------------------------------------

static void describe_program(RankFact *fact) {
    char hash[HASH_TEXT_BYTES];
    if (program_hash(hash))
        snprintf(fact->value, sizeof fact->value, "moetrain %s, build %s", MOETRAIN_VERSION, hash);
    else
        snprintf(fact->value, sizeof fact->value, "moetrain %s", MOETRAIN_VERSION);
    ssize_t length = readlink("/proc/self/exe", fact->note, sizeof fact->note - 1);
    fact->note[length > 0 ? length : 0] = 0;
}

// One word in quotes; the end of a long one stands as a hash.
static void describe_word(RankFact *fact, int number, const char *word) {
    enum { SHOWN = FACT_BYTES - 64 };
    size_t length = strlen(word);
    snprintf(fact->value, sizeof fact->value, "'%.*s'", SHOWN, word);
    size_t used = strlen(fact->value);
    for (char *c = fact->value; *c; c++) // a message is one line
        if (*c > 0 && *c < ' ') *c = '?';
    if (length > SHOWN)
        snprintf(fact->value + used, sizeof fact->value - used, "... (%016llx) as word %d",
                 (unsigned long long)XXH3_64bits(word, length), number);
    else
        snprintf(fact->value + used, sizeof fact->value - used, " as word %d", number);
}

// WORD_FACTS facts on every rank, however many words it has: of many, the last stands for all the
// rest.
static void describe_words(RankFact *facts, int count, char *const *words) {
    for (int i = 0; i < WORD_FACTS; i++) {
        facts[i].what = "the command line";
        facts[i].exit_code = EXIT_CONFIG;
        facts[i].fix = "start all ranks with the same words; rank 0 would decide for all";
        if (i < count)
            describe_word(&facts[i], i + 1, words[i]);
        else
            snprintf(facts[i].value, sizeof facts[i].value, "no word %d", i + 1);
    }
    XXH64_hash_t rest = 0;
    for (int i = WORD_FACTS - 1; i < count; i++)
        rest = XXH3_64bits_withSeed(words[i], strlen(words[i]), rest);
    if (count > WORD_FACTS)
        snprintf(facts[WORD_FACTS - 1].value, sizeof facts->value, "%d words, the last %d %016llx",
                 count, count - WORD_FACTS + 1, (unsigned long long)rest);
}

bool compare_programs(int word_count, char *const *words, Error *err) {
    if (comm_size() == 1) return true; // the program file need not be read
    RankFact facts[2 + WORD_FACTS] = {
        {.what = "the program",
         .exit_code = EXIT_COMMUNICATION,
         .fix = "install the same build on all hosts, or start it from a folder that they share"},
        {.what = "the MPI library",
         .exit_code = EXIT_DONE,
         .fix = "where ranks hang or messages are lost, install the same on all hosts"},
    };
    describe_program(&facts[0]);
    snprintf(facts[1].value, sizeof facts[1].value, "%.180s", comm_library());
    describe_words(facts + 2, word_count, words);
    return rank_facts_compare(facts, sizeof facts / sizeof *facts, err);
}

// ---- devices ------------------------------------------------------------------------------------

bool compare_devices(Device *dev, Reproducible reproducible, Error *err) {
    if (comm_size() == 1) return true; // nobody to compare with, and the arithmetic takes time
    bool fatal = reproducible == REPRODUCIBLE_RANKS;
    ExitCode exit_code = fatal ? EXIT_COMMUNICATION : EXIT_DONE;
    const char *fix = fatal ? "results would depend on which rank computes what: use hosts of one "
                              "kind with one environment (ONEDNN_MAX_CPU_ISA can make several "
                              "kinds of CPU one), or train.reproducible: run"
                            : "results depend on which rank computes what, and the slowest kind "
                              "sets the pace";
    RankFact facts[] = {
        {.what = "the device",
         .exit_code = EXIT_COMMUNICATION,
         .fix = "use device: cpu, or look for the missing GPU with nvidia-smi and device: cuda"},
        {.what = dev->place == ON_HOST ? "the processor" : "the GPU",
         .exit_code = exit_code,
         .fix = fix},
        {.what = "the arithmetic of the processor", .exit_code = exit_code, .fix = fix},
    };
    RankFact *place = &facts[0], *kind = &facts[1], *arithmetic = &facts[2];
    snprintf(place->value, sizeof place->value, dev->place == ON_HOST ? "a CPU" : "a GPU");
    snprintf(place->note, sizeof place->note, "%s", dev->description);

    snprintf(kind->value, sizeof kind->value, "%s", dev->kind);
    const char *rest = strstr(dev->description, dev->kind); // after the model's name, if at all
    if (rest && rest > dev->description + 2)
        snprintf(kind->note, sizeof kind->note, "%.*s", (int)(rest - dev->description - 2),
                 dev->description);

    char fingerprint[FINGERPRINT_BYTES];
    device_fingerprint(dev, fingerprint);
    snprintf(arithmetic->value, sizeof arithmetic->value, "fingerprint %s", fingerprint);
    snprintf(arithmetic->note, sizeof arithmetic->note, "%s", dev->description);
    return rank_facts_compare(facts, sizeof facts / sizeof *facts, err);
}

// ---- data ---------------------------------------------------------------------------------------

bool compare_vocabularies(const Vocabulary *vocabulary, Error *err) {
    RankFact fact = {.what = "the vocabulary",
                     .exit_code = EXIT_DATA,
                     .fix = "give all hosts the same training text, and the same data.tokenizer"};
    const void *data;
    int64_t count;
    const SavedVocabulary *kept = vocabulary_saved(vocabulary, &data, &count);
    size_t bytes = kept ? (size_t)count * dtype_bytes(kept->dtype) : 0;
    snprintf(fact.value, sizeof fact.value, "%lld tokens, %s %016llx", (long long)vocabulary->size,
             kept ? kept->name : "characters", (unsigned long long)XXH3_64bits(data, bytes));
    return rank_facts_compare(&fact, 1, err);
}

bool compare_data_files(const char *key, const char *path, const DataFile *file,
                        const char *content, Error *err) {
    RankFact fact = {.what = key,
                     .exit_code = EXIT_DATA,
                     .fix = "copy the right file to all hosts, or put it on a file system that "
                            "they share"};
    snprintf(fact.value, sizeof fact.value, "%lld tokens, %s", (long long)data_file_tokens(file),
             content);
    snprintf(fact.note, sizeof fact.note, "%s", path);
    return rank_facts_compare(&fact, 1, err);
}
