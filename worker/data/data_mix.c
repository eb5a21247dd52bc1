#include "worker/data/data_mix.h"

#include <stdio.h>
#include <string.h>

#include <xxhash.h>

#include "comm/comm.h"
#include "kernels/integers.h"
#include "kernels/log.h"
#include "worker/data/open_data.h"

// ---- opening ------------------------------------------------------------------------------------

static bool count_windows(DataMix *mix, int s, const char *path, Error *err) {
    DataFile *file = mix->files[s];
    if (mix->packing == PACKING_BEST_FIT && !data_file_pack(file, mix->T, err)) return false;
    mix->windows[s] = data_file_windows(file, mix->T);
    return mix->windows[s] >= 1 ||
           error_set(err, EXIT_DATA,
                     "%s: %lld tokens are too few for train.context %lld; give more data or a "
                     "smaller train.context",
                     path, (long long)data_file_tokens(file), (long long)mix->T);
}

// Of one source its own.
static void join_identities(const DataMix *mix, char identities[][40], char identity[40]) {
    if (mix->count == 1) {
        memcpy(identity, identities[0], 40);
        return;
    }
    XXH3_state_t *state = XXH3_createState();
    CHECK_MEMORY(state, "no memory for a hash");
    XXH3_128bits_reset(state);
    for (int s = 0; s < mix->count; s++)
        XXH3_128bits_update(state, identities[s], strlen(identities[s]));
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    snprintf(identity, 40, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
    XXH3_freeState(state);
}

static bool begin(DataMix *mix, const TrainConfig *config, Error *err) {
    const DataSources *sources = &config->data.train;
    *mix = (DataMix){.sources = sources, .T = config->context, .seed = (uint64_t)config->seed};
    mix->packing = config->data.packing;
    if (!curriculum_make(&mix->curriculum, &config->data, err)) return false;
    memcpy(mix->place.share, mix->curriculum.ranges[0].share, sizeof mix->place.share);
    mix_schedule_make(&mix->schedule, mix->place.share, (int)sources->count, mix->seed);
    return true;
}

static void set_cursor(DataMix *mix) {
    mix->cursor_windows = mix->count == 1 ? mix->windows[0] : INT64_MAX / 2;
}

bool data_mix_open(DataMix *mix, const TrainConfig *config, const Vocabulary *vocabulary,
                   char identity[40], Error *err) {
    const DataSources *sources = &config->data.train;
    char identities[DATA_SOURCES_MAX][40] = {{0}}; // their ends too are saved
    if (!begin(mix, config, err)) return false;
    for (int s = 0; s < sources->count; s++, mix->count++)
        if (!open_data(&mix->files[s], "data.train", sources->maps[s].path, PART_TRAINING,
                       vocabulary, identities[s], err) ||
            !comm_agree(count_windows(mix, s, sources->maps[s].path, err), err))
            return false;
    set_cursor(mix);
    join_identities(mix, identities, identity);
    return true;
}

bool data_mix_measure(DataMix *mix, const TrainConfig *config, const Vocabulary *vocabulary,
                      Error *err) {
    enum { READERS = INT32_MAX }; // each of which has next to nothing to scan
    const DataSources *sources = &config->data.train;
    if (!begin(mix, config, err)) return false;
    for (int s = 0; s < sources->count; s++, mix->count++)
        if (!data_file_open(&mix->files[s], sources->maps[s].path, PART_TRAINING, vocabulary, 0,
                            READERS, err) ||
            !count_windows(mix, s, sources->maps[s].path, err))
            return false;
    set_cursor(mix);
    return true;
}

void data_mix_close(DataMix *mix) {
    for (int s = 0; s < DATA_SOURCES_MAX; s++) data_file_close(mix->files[s]);
    mix_schedule_free(&mix->schedule);
    *mix = (DataMix){0};
}

// ---- the place ----------------------------------------------------------------------------------

int data_mix_tensors(DataMix *mix, SavedTensor out[MIX_PLACE_TENSORS]) {
    if (mix->count < 2) return 0;
    out[0] = list_tensor("mix/begin", I64, 1, &mix->place.begin);
    out[1] = list_tensor("mix/shares", I64, mix->count, mix->place.share);
    out[2] = list_tensor("mix/before", I64, mix->count, mix->place.before);
    return MIX_PLACE_TENSORS;
}

bool data_mix_resume(DataMix *mix, DataCursor cursor, Error *err) {
    const MixPlace *place = &mix->place;
    if (mix->count < 2) return true;
    int64_t sum = 0;
    bool legal = cursor.epoch == 0 && place->begin >= 0 && place->begin <= cursor.index &&
                 cursor.index <= INT64_MAX / 4;
    for (int s = 0; s < mix->count && legal; s++) {
        legal = place->share[s] >= 0 && place->share[s] <= MIX_PERIOD_MAX &&
                place->before[s] >= 0 && place->before[s] <= place->begin;
        sum += place->share[s];
    }
    if (!legal || sum < 1 || sum > MIX_PERIOD_MAX)
        return error_set(err, EXIT_CHECKPOINT,
                         "data.train: the checkpoint's place in the mix is damaged (window %lld of "
                         "epoch %lld, shares since window %lld); resume from another one",
                         (long long)cursor.index, (long long)cursor.epoch, (long long)place->begin);
    mix_schedule_free(&mix->schedule);
    mix_schedule_make(&mix->schedule, place->share, mix->count, mix->seed);
    return true;
}

// Other shares from the window `at` on.
static void change_shares(MixPlace *place, MixSchedule *schedule, int64_t at,
                          const int64_t share[DATA_SOURCES_MAX], uint64_t seed) {
    int count = schedule->count;
    for (int s = 0; s < count; s++)
        place->before[s] += mix_schedule_count(schedule, s, at - place->begin);
    place->begin = at;
    memcpy(place->share, share, sizeof place->share);
    mix_schedule_free(schedule);
    mix_schedule_make(schedule, share, count, seed);
}

static bool same_shares(const MixPlace *place, const int64_t share[DATA_SOURCES_MAX]) {
    return memcmp(place->share, share, sizeof place->share) == 0;
}

void data_mix_begin_step(DataMix *mix, DataCursor cursor, int64_t step) {
    const int64_t *share = curriculum_at(&mix->curriculum, step)->share;
    if (mix->count < 2 || same_shares(&mix->place, share)) return;
    char before[SHARES_TEXT_BYTES], now[SHARES_TEXT_BYTES];
    curriculum_describe(mix->place.share, mix->sources, before);
    curriculum_describe(share, mix->sources, now);
    log_info("data after %lld steps: %s of the windows (before: %s)", (long long)step, now, before);
    change_shares(&mix->place, &mix->schedule, cursor.index, share, mix->seed);
}

// ---- accounts -----------------------------------------------------------------------------------

// Windows of so many steps after the cursor, at most INT64_MAX / 2.
static int64_t windows_after(const TrainConfig *config, DataCursor cursor, int64_t steps) {
    int64_t windows;
    bool many = __builtin_mul_overflow(steps, config->batch, &windows) || windows > INT64_MAX / 4;
    return cursor.index + (many ? INT64_MAX / 4 : windows);
}

double data_mix_count(const DataMix *mix, int source, const TrainConfig *config, DataCursor cursor,
                      int64_t step) {
    int64_t end = windows_after(config, cursor, larger(config->steps - step, 0));
    if (mix->count == 1) return (double)cursor.epoch * (double)mix->windows[0] + (double)end;
    MixPlace place = mix->place;
    MixSchedule schedule;
    mix_schedule_make(&schedule, place.share, mix->count, mix->seed);
    for (int r = 0; r < mix->curriculum.count; r++) {
        const CurriculumRange *range = &mix->curriculum.ranges[r];
        bool over = r + 1 < mix->curriculum.count && range[1].from <= step;
        int64_t from = larger(range->from, step);
        if (over || from >= config->steps || same_shares(&place, range->share)) continue;
        change_shares(&place, &schedule, windows_after(config, cursor, from - step), range->share,
                      mix->seed);
    }
    int64_t windows =
        place.before[source] + mix_schedule_count(&schedule, source, end - place.begin);
    mix_schedule_free(&schedule);
    return (double)windows;
}

double data_mix_epochs(const DataMix *mix, int source, const TrainConfig *config, DataCursor cursor,
                       int64_t step) {
    return data_mix_count(mix, source, config, cursor, step) / (double)mix->windows[source];
}

bool data_mix_check_epochs(const DataMix *mix, const TrainConfig *config, DataCursor cursor,
                           int64_t step, Error *err) {
    for (int s = 0; s < mix->count; s++) {
        const DataSource *source = &config->data.train.maps[s];
        if (source->epochs_max <= 0) continue;
        double epochs = data_mix_epochs(mix, s, config, cursor, step);
        if (epochs > source->epochs_max)
            return error_set(err, EXIT_CONFIG,
                             "%s: %lld steps of %lld sequences would read it %.2f times, and "
                             "epochs_max is %g; give it a smaller weight, train fewer steps or "
                             "raise epochs_max",
                             source->path, (long long)config->steps, (long long)config->batch,
                             epochs, source->epochs_max);
    }
    return true;
}

// ---- windows ------------------------------------------------------------------------------------

DataCursor data_mix_advance(const DataMix *mix, DataCursor cursor, int64_t n) {
    return data_cursor_advance(cursor, n, mix->cursor_windows);
}

int data_mix_source(const DataMix *mix, DataCursor cursor, int64_t n, int64_t *number) {
    int s = mix_schedule_source(&mix->schedule, cursor.index + n - mix->place.begin, number);
    *number += mix->place.before[s];
    return s;
}

bool data_mix_window(const DataMix *mix, DataCursor cursor, int64_t n, int32_t *inputs,
                     int32_t *targets, int32_t *positions, Error *err) {
    if (mix->count == 1)
        return data_file_training_window(mix->files[0], mix->seed, cursor, n, mix->T, inputs,
                                         targets, positions, err);
    int64_t number;
    int s = data_mix_source(mix, cursor, n, &number);
    // Sources of one length have orders of their own. The first has that of a file alone.
    uint64_t seed = mix->seed ^ (uint64_t)s << 56;
    DataCursor own = data_cursor_advance((DataCursor){0, 0}, number, mix->windows[s]);
    return data_file_training_window(mix->files[s], seed, own, 0, mix->T, inputs, targets,
                                     positions, err);
}
