#include "worker/resume.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/checkpoint_list.h"
#include "checkpoint/going_back.h"
#include "comm/collectives.h"
#include "comm/comm.h"
#include "kernels/log.h"
#include "worker/data/data_names.h"
#include "worker/measured_placement.h"
#include "worker/run/program_hash.h"
#include "worker/run/run_changes.h"
#include "worker/save.h"
#include "worker/watch/watchdog.h"

// Where the run goes on from.
typedef struct Chosen {
    char path[CHECKPOINT_PATH_BYTES]; // empty: from nothing
    bool branch;                      // a branch begins there: a run of its own, with a parent
    int64_t before;                   // of the folder's only those of a step before this one
} Chosen;

// ---- which checkpoint ---------------------------------------------------------------------------

// Whether a run that says how it began did so from the checkpoint that `path` names. What lies
// there decides; when it is gone or from before runs had identities, the path does, or its file's
// name where a folder was moved.
static bool began_from(const RunIdentity *run, const char *path) {
    TrainState there;
    Error ignored = {0};
    if (run->parent_step < 0) return false;
    bool known = checkpoint_read_state(path, &there, &ignored) && there.run.run[0];
    if (known && run->parent_run[0])
        return strcmp(run->parent_run, there.run.run) == 0 && run->parent_step == there.step;
    if (strcmp(run->began_from, path) == 0) return true;
    const char *name = strrchr(path, '/'), *stored = strrchr(run->began_from, '/');
    return access(path, F_OK) != 0 && name && stored && strcmp(name, stored) == 0;
}

// `never`: only where nothing would be overwritten. Rank 0.
static bool check_empty(const char *run_dir, Error *err) {
    char folder[CHECKPOINT_PATH_BYTES + 16];
    CheckpointList list;
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    if (!checkpoint_list_read(&list, folder, err)) return false;
    bool empty = list.count == 0;
    checkpoint_list_free(&list);
    return empty || error_set(err, EXIT_CONFIG,
                              "resume: never, but %s holds checkpoints, which would be "
                              "overwritten; choose another run.dir or resume: auto",
                              folder);
}

// resume: PATH. Once the folder's newest checkpoint belongs to the branch that began at PATH, it
// goes on from that one. Collective over all ranks.
static bool choose_branch(Trainer *trainer, Chosen *choice, Error *err) {
    const TrainConfig *config = &trainer->config;
    Error own = {0};
    bool goes_on = false;
    bool ok =
        checkpoint_find_latest(config->run_dir, choice->before, VERIFY_INDEX, choice->path, &own);
    if (!ok && own.exit_code != EXIT_CHECKPOINT) { // damaged ones alone are no hindrance
        *err = own;
        return false;
    }
    TrainState newest;
    if (ok && choice->path[0] && comm_rank() == 0) {
        ok = checkpoint_read_state(choice->path, &newest, err);
        goes_on = ok && began_from(&newest.run, config->resume);
    } else {
        ok = true;
    }
    if (!comm_follow(ok, err)) return false;
    broadcast(trainer->session.groups.world, &goes_on, sizeof goes_on, 0);
    if (goes_on) {
        log_info("going on with the branch that began from %s", config->resume);
        return true;
    }
    snprintf(choice->path, sizeof choice->path, "%s", config->resume);
    choice->branch = true;
    return true;
}

// The checkpoint that `resume` asks for. Collective over all ranks.
static bool choose_checkpoint(Trainer *trainer, Chosen *choice, Error *err) {
    const TrainConfig *config = &trainer->config;
    bool ok = comm_rank() != 0 || going_back_finish(config->run_dir, err);
    if (!comm_follow(ok, err)) return false;
    if (strcmp(config->resume, "never") == 0)
        return comm_follow(comm_rank() != 0 || check_empty(config->run_dir, err), err);
    bool automatic = strcmp(config->resume, "auto") == 0,
         must = strcmp(config->resume, "must") == 0;
    if (!automatic && !must) return choose_branch(trainer, choice, err);
    if (!checkpoint_find_latest(config->run_dir, choice->before, VERIFY_INDEX, choice->path, err))
        return false;
    if (must && choice->path[0] == 0)
        return error_set(err, EXIT_CHECKPOINT,
                         "resume: must, but %s/checkpoints holds no checkpoint; check run.dir or "
                         "use resume: auto to begin at step 0",
                         config->run_dir);
    return true;
}

// ---- whether it fits ----------------------------------------------------------------------------

// A run that is to begin from the weights of `init` and finds its folder in use: is it that run?
// Rank 0.
static bool check_init(const TrainConfig *config, const char *path, const char *saved_yaml,
                       const RunIdentity *run, Error *err) {
    char line[CHECKPOINT_PATH_BYTES + 16];
    if (!config->init[0] || began_from(run, config->init)) return true;
    snprintf(line, sizeof line, "init: \"%s\"\n", config->init);
    if (strstr(saved_yaml, line)) return true; // a branch of such a run
    return error_set(err, EXIT_CONFIG,
                     "%s belongs to a run that did not begin from init: %s; choose another "
                     "run.dir, or leave init out to go on with that run",
                     path, config->init);
}

// The tokenizer of the checkpoint is this run's, byte for byte. Rank 0.
static bool check_tokenizer(const Trainer *trainer, const char *path, Error *err) {
    const Tokenizer *tokenizer = trainer->data.vocabulary.tokenizer;
    const char *named = trainer->config.data.tokenizer;
    Error missing = {0};
    char *saved = NULL;
    if (!tokenizer) return true;
    if (!checkpoint_read_text(path, SAVED_TOKENIZER, &saved, &missing))
        return error_set(err, (ExitCode)missing.exit_code,
                         "%s: %s has no tokenizer (%s); leave data.tokenizer out, with the data "
                         "that it was trained on",
                         named, path, missing.message);
    bool same = strlen(saved) == tokenizer->json_bytes && strcmp(saved, tokenizer->json) == 0;
    char here[HASH_TEXT_BYTES], there[HASH_TEXT_BYTES];
    hash_to_text(tokenizer->hash, here);
    hash_to_text(hash_bytes(saved, strlen(saved)), there);
    free(saved);
    return same || error_set(err, EXIT_CHECKPOINT,
                             "%s: not the tokenizer whose tokens %s has weights for (hash %s, "
                             "there %s); name that one as data.tokenizer: the checkpoint has it "
                             "as " SAVED_TOKENIZER,
                             named, path, here, there);
}

// The data's identity and the configuration's kinds of keys, before anything is loaded. Rank 0.
static bool check_fits(Trainer *trainer, const Chosen *choice, Error *err) {
    const TrainConfig *config = &trainer->config;
    TrainState saved;
    char *yaml = NULL;
    if (!checkpoint_read_state(choice->path, &saved, err) ||
        !checkpoint_read_config(choice->path, &yaml, err))
        return false;
    RunChanges changes = {
        .checkpoint = choice->path,
        .saved_yaml = yaml,
        .current_yaml = trainer->config_yaml,
        .rules = trainer->key_rules,
        .allow = config->resume_allow,
        .fits = restore_fits(choice->path, &trainer->model.params, &trainer->optimizer),
        .finished = saved.step >= config->steps,
        .way_out = choice->branch ? "leave resume out" : "choose another run.dir for another run"};
    bool ok = run_changes_check(&changes, err) &&
              (choice->branch || check_init(config, choice->path, yaml, &saved.run, err)) &&
              check_tokenizer(trainer, choice->path, err);
    free(yaml);
    if (!ok || strcmp(saved.data_id, trainer->state.data_id) == 0) return ok;
    return error_set(err, EXIT_DATA,
                     "%s: not the data that %s was trained on (identity %s, then %s); restore the "
                     "file, or give init=%s%s to begin a new run from its weights on this data",
                     data_sources_path(&config->data.train), choice->path, trainer->state.data_id,
                     saved.data_id, choice->path,
                     choice->branch ? " instead of resume" : " and another run.dir");
}

// ---- loading ------------------------------------------------------------------------------------

// A new identity for the run at hand, the same on every rank. Collective over all ranks.
static bool name_run(Trainer *trainer, RunIdentity identity, Error *err) {
    uint8_t bits[(RUN_ID_BYTES - 1) / 2];
    bool ok = comm_rank() != 0 || getrandom(bits, sizeof bits, 0) == (ssize_t)sizeof bits ||
              error_set(err, EXIT_IO, "cannot draw a run's identity: %s", strerror(errno));
    if (!comm_follow(ok, err)) return false;
    broadcast(trainer->session.groups.world, bits, sizeof bits, 0);
    for (size_t i = 0; i < sizeof bits; i++) snprintf(identity.run + 2 * i, 3, "%02x", bits[i]);
    trainer->state.run = identity;
    return true;
}

static RunIdentity child_of(const TrainState *parent, const char *path) {
    RunIdentity child = {.parent_step = parent->step};
    memcpy(child.parent_run, parent->run.run, sizeof child.parent_run);
    snprintf(child.began_from, sizeof child.began_from, "%s", path);
    return child;
}

// What the weights of `init` compute is what the configuration says, and their tokens are as many
// as the data's. Rank 0.
static bool check_init_fits(const Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    char *yaml = NULL;
    int64_t shape[3];
    if (!checkpoint_read_config(config->init, &yaml, err)) return false;
    RunChanges changes = {.checkpoint = config->init,
                          .saved_yaml = yaml,
                          .current_yaml = trainer->config_yaml,
                          .rules = trainer->key_rules,
                          .allow = config->resume_allow,
                          .fits = restore_fits(config->init, &trainer->model.params, NULL),
                          .way_out = "leave init out",
                          .weights_only = true};
    bool ok = run_changes_check(&changes, err) && check_tokenizer(trainer, config->init, err) &&
              checkpoint_read_shape(config->init, "parameters/embedding", shape, err);
    free(yaml);
    int64_t tokens = config->model.vocab_size;
    if (!ok || shape[0] == tokens) return ok;
    return error_set(
        err, EXIT_DATA,
        "%s: a vocabulary of %lld tokens%s, while the weights of %s have %lld; they need data of "
        "exactly the same tokens, and the same train.objective",
        data_sources_path(&config->data.train), (long long)tokens,
        config->model.objective == OBJECTIVE_MASKED ? " with that of the mask" : "", config->init,
        (long long)shape[0]);
}

// The characters of the checkpoint are those of this run's data. `saved` holds what was loaded,
// NULL without characters.
static bool same_characters(const Trainer *trainer, const int32_t *saved, Error *err) {
    const Vocabulary *vocabulary = &trainer->data.vocabulary;
    for (int64_t i = 0; saved && i < vocabulary->size; i++)
        if (saved[i] != vocabulary->code_points[i])
            return error_set(err, EXIT_DATA,
                             "%s: token %lld is the character U+%04X here and U+%04X in the "
                             "checkpoint %s; its weights need text of exactly the same characters",
                             data_sources_path(&trainer->config.data.train), (long long)i,
                             (unsigned)vocabulary->code_points[i], (unsigned)saved[i],
                             trainer->config.init);
    return true;
}

// init: parameters alone; step, optimizer, cursor and history begin anew. Collective over all
// ranks.
static bool load_weights(Trainer *trainer, Error *err) {
    const TrainConfig *config = &trainer->config;
    const char *path = config->init;
    bool ok = comm_rank() != 0 || check_init_fits(trainer, err);
    if (!comm_follow(ok, err)) return false;

    HostState host;
    host_state_open(&host, &trainer->model, NULL);
    Vocabulary saved = trainer->data.vocabulary; // with code points of its own, to be compared
    if (saved.code_points) {
        saved.code_points = calloc((size_t)saved.size, sizeof *saved.code_points);
        CHECK_MEMORY(saved.code_points, "no memory for %lld code points", (long long)saved.size);
    }
    Checkpoint checkpoint = {.config_yaml = trainer->config_yaml};
    checkpoint.tensors = saved_tensors(&host, &saved, &checkpoint.tensor_count);
    ok =
        checkpoint_load(path, &checkpoint, err) && same_characters(trainer, saved.code_points, err);
    if (ok) host_state_upload(&host);
    free(checkpoint.tensors);
    free(saved.code_points);
    host_state_close(&host);
    if (!ok || !name_run(trainer, child_of(&checkpoint.state, path), err)) return false;
    log_info("run %s begins with the weights of %s (run %s, step %lld)", trainer->state.run.run,
             path, checkpoint.state.run.run[0] ? checkpoint.state.run.run : "unknown",
             (long long)checkpoint.state.step);
    return true;
}

static bool is_average(const SavedTensor *tensor) {
    return strncmp(tensor->name, "ema/", 4) == 0;
}

static DataCursor cursor_of(const Trainer *trainer) {
    return (DataCursor){trainer->state.data_epoch, trainer->state.data_index};
}

bool resume_load(Trainer *trainer, const char *path, Error *err) {
    HostState host;
    host_state_open(&host, &trainer->model, &trainer->optimizer);
    Checkpoint checkpoint = save_describe(trainer, &host);
    checkpoint.verify_rest = true;
    bool ok = checkpoint_load(path, &checkpoint, err);
    if (ok) host_state_upload(&host);
    bool averages = true; // a file of a run without them has none
    for (int i = 0; i < checkpoint.tensor_count; i++)
        averages = averages && (checkpoint.tensors[i].found || !is_average(&checkpoint.tensors[i]));
    if (ok && !averages) optimizer_begin_average(&trainer->optimizer, &trainer->model);
    free(checkpoint.tensors);
    host_state_close(&host);
    if (!ok) return false;
    trainer->state = checkpoint.state;
    trainer->saved_step = trainer->state.step;
    return data_mix_resume(&trainer->data.training, cursor_of(trainer), err);
}

// ---- beginning a branch -------------------------------------------------------------------------

// Whether the file lies in the folder, by whatever name either is called.
static bool lies_in(const char *path, const char *folder) {
    char name[CHECKPOINT_PATH_BYTES];
    struct stat parent, checkpoints;
    snprintf(name, sizeof name, "%s", path);
    return stat(dirname(name), &parent) == 0 && stat(folder, &checkpoints) == 0 &&
           parent.st_dev == checkpoints.st_dev && parent.st_ino == checkpoints.st_ino;
}

// The identity of the run that the folder's checkpoint of this step belongs to; empty when there is
// no such one, or a damaged one. False with exit 5 when it cannot be read, and is perhaps sound.
static bool run_at(const char *folder, int64_t step, RunIdentity *run, Error *err) {
    char path[CHECKPOINT_PATH_BYTES + 64], name[CHECKPOINT_NAME_BYTES];
    TrainState state = {0};
    Error cause = {0};
    checkpoint_name(step, name);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    bool ok = checkpoint_read_state(path, &state, &cause);
    *run = ok ? state.run : (RunIdentity){0};
    if (ok || cause.exit_code == EXIT_CHECKPOINT) return true;
    *err = cause;
    return false;
}

// Moves what the branch gives up aside: what comes after its beginning in its own folder (also when
// it was begun from a copy or a link elsewhere), or all of a folder that the branch does not come
// from. Rank 0.
static bool give_up_rest(const Trainer *trainer, const char *path, Error *err) {
    const char *run_dir = trainer->config.run_dir;
    const TrainState *state = &trainer->state;
    char folder[CHECKPOINT_PATH_BYTES + 16];
    CheckpointList list;
    RunIdentity newest = {0}, same_step = {0};
    snprintf(folder, sizeof folder, "%s/checkpoints", run_dir);
    if (!checkpoint_list_read(&list, folder, err)) return false;
    bool ok = true;
    for (int64_t i = 0; ok && i < list.count && !newest.run[0]; i++)
        ok = run_at(folder, list.steps[i], &newest, err);
    checkpoint_list_free(&list);
    if (!ok || !run_at(folder, state->step, &same_step, err)) return false;
    bool inside =
        lies_in(path, folder) || (state->run.run[0] && strcmp(same_step.run, state->run.run) == 0);
    return going_back_to(run_dir, newest.run, inside ? state->step : GOING_BACK_WHOLE, err);
}

// Collective over all ranks.
static bool begin_branch(Trainer *trainer, const char *path, Error *err) {
    bool ok = comm_rank() != 0 || give_up_rest(trainer, path, err);
    TrainState parent = trainer->state;
    if (!comm_follow(ok, err) || !name_run(trainer, child_of(&parent, path), err)) return false;
    log_info("run %s, a branch of run %s", trainer->state.run.run,
             parent.run.run[0] ? parent.run.run : "unknown");
    return true;
}

// Loading has failed. Whether the file is damaged, and not what is wanted of it; one of the run's
// own folder is then passed over. Collective over all ranks.
static bool pass_over(Trainer *trainer, Chosen *choice, const Error *cause) {
    Error damage = {0};
    if (choice->branch || cause->exit_code != EXIT_CHECKPOINT ||
        checkpoint_verify(choice->path, &damage) || damage.exit_code != EXIT_CHECKPOINT)
        return false;
    log_warn("checkpoint not usable: %s", damage.message);
    choice->before = checkpoint_step(choice->path);
    // A part of it may have been read.
    dead_experts_close(&trainer->dead_experts);
    dead_experts_open(&trainer->dead_experts, &trainer->model.stats,
                      trainer->config.dead_expert_steps);
    step_outliers_close(&trainer->outliers);
    step_outliers_open(&trainer->outliers, &trainer->config.optimizer);
    return true;
}

static bool place_experts(Trainer *trainer, const char *path, Error *err) {
    bool measured = trainer->config.placement == PLACEMENT_MEASURED;
    return !measured || measured_placement_take(trainer, path, err);
}

// Chooses, and loads what was chosen. Collective over all ranks.
static bool choose_and_load(Trainer *trainer, Chosen *choice, Error *err) {
    for (;;) {
        choice->path[0] = 0;
        choice->branch = false;
        if (!choose_checkpoint(trainer, choice, err)) return false;
        if (choice->path[0] == 0) return true;
        Error cause = {0};
        bool ok = comm_rank() != 0 || check_fits(trainer, choice, &cause);
        if (comm_follow(ok, &cause) && place_experts(trainer, choice->path, &cause) &&
            resume_load(trainer, choice->path, &cause))
            return true;
        if (pass_over(trainer, choice, &cause)) continue;
        *err = cause;
        return false;
    }
}

bool resume_run(Trainer *trainer, Error *err) {
    const RunIdentity root = {.parent_step = -1};
    Chosen choice = {.before = INT64_MAX};
    if (!choose_and_load(trainer, &choice, err) ||
        !data_mix_check_epochs(&trainer->data.training, &trainer->config, cursor_of(trainer),
                               trainer->state.step, err))
        return false;
    if (choice.path[0] == 0) {
        if (trainer->config.placement == PLACEMENT_MEASURED)
            log_info("parallel.placement: measured: nothing is measured yet, experts are placed "
                     "in their order until the run goes on from a checkpoint");
        bool weights = trainer->config.init[0];
        if (!weights) {
            watchdog_beat("making the first parameters");
            model_init_parameters(&trainer->model);
        }
        bool begun = weights ? load_weights(trainer, err) : name_run(trainer, root, err);
        if (begun) optimizer_begin_average(&trainer->optimizer, &trainer->model);
        return begun;
    }
    log_info("resumed from %s at step %lld", choice.path, (long long)trainer->state.step);
    if (choice.branch) return begin_branch(trainer, choice.path, err);
    return trainer->state.run.run[0] || name_run(trainer, root, err);
}
