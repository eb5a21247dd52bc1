#include "worker/plan_data.h"

#include <stdio.h>

#include "worker/data/data_mix.h"
#include "worker/data/data_names.h"

static void print_sources(const DataMix *mix, const TrainConfig *config) {
    const DataCursor begin = {0, 0};
    double windows = 0;
    for (int s = 0; s < mix->count; s++) windows += data_mix_count(mix, s, config, begin, 0);
    for (int s = 0; s < mix->count; s++)
        printf("%s %-14s %14lld tokens, %5.1f%% of the windows, %.2f epochs\n",
               s == 0 ? "data        " : "            ",
               data_source_name(&config->data.train.maps[s]),
               (long long)data_file_tokens(mix->files[s]),
               100.0 * data_mix_count(mix, s, config, begin, 0) / windows,
               data_mix_epochs(mix, s, config, begin, 0));
    for (int s = 0; s < mix->count; s++) {
        const Packing *packing = data_file_packing(mix->files[s]);
        if (packing)
            printf("             %-14s %14lld documents in %lld windows, %.2f%% padding\n",
                   data_source_name(&config->data.train.maps[s]),
                   (long long)data_file_content(mix->files[s])->documents.count,
                   (long long)packing->windows, 100 * packing_padding(packing));
    }
    for (int r = 0; r < mix->curriculum.count && mix->curriculum.count > 1; r++) {
        char shares[SHARES_TEXT_BYTES];
        curriculum_describe(mix->curriculum.ranges[r].share, mix->sources, shares);
        printf("             after %-8lld steps: %s%s\n", (long long)mix->curriculum.ranges[r].from,
               shares,
               mix->curriculum.ranges[r].from < config->steps ? "" : ", which the run never does");
    }
}

bool plan_print_data(const TrainConfig *config, const Vocabulary *vocabulary, Error *err) {
    DataMix mix;
    Error why = {0};
    bool read = data_mix_measure(&mix, config, vocabulary, &why);
    if (!read && why.exit_code == EXIT_CONFIG) {
        *err = why;
        data_mix_close(&mix);
        return false;
    }
    if (!read) printf("data         not known: %s\n", why.message);
    if (read) print_sources(&mix, config);
    bool ok = !read || data_mix_check_epochs(&mix, config, (DataCursor){0, 0}, 0, err);
    data_mix_close(&mix);
    return ok;
}
