#include "kernels/option_rows.h"
#include "worker/train_config.h"

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option RUN_ROWS[] = {
    PATH("run.dir", FREE, run_dir, DERIVED("runs/NAME in the current folder, from NAME.yaml", NULL),
        "folder of everything the run writes: config.yaml, metrics.jsonl, checkpoints/"),
    NUMBER("run.hang_timeout", FREE, hang_timeout, DEFAULT("600"), RANGE(0, 1e6),
        "seconds without progress after which every rank says where it waits, and for whom, and the run ends with exit code 8 "
        "(a stopped rank, a cut network); loading and saving count as progress, also for the ranks that wait for it, but one "
        "flush of a file to the disk must fit; before this is known the start of MPI has 600; 0: wait for ever"),
    INTEGER("run.check_replicas_every", FREE, check_replicas_every, DEFAULT("100"), RANGE(0, MANY_STEPS),
        "steps between comparisons, over ranks, of what they hold alike (parameters, optimizer), and before each save; where "
        "copies differ the run ends with exit code 6 and saves nothing (check_weight_hash_across_dp_replicas_interval of "
        "Megatron-LM); 0: never"),
    CHOICE("run.check_exchanges", FREE, check_exchanges, DEFAULT("auto"), OF(EXCHANGE_CHECKS_CHOICES),
        "whether rows and checksums of all tokens that ranks send to each other are compared with what arrives, at the end of "
        "each step, before it is applied; a difference ends the run with exit code 7 and names the ranks"),
    CHOICE("run.recheck", FREE, recheck, DEFAULT("off"), OF(RECHECK_CHOICES),
        "which steps are computed a second time before they are applied, and compared bit by bit: a difference is wrong "
        "arithmetic and ends the run with exit code 6, naming the ranks (rerun state machine of Megatron-LM)"),
    INTEGER("run.recheck_every", FREE, recheck_every, DEFAULT("100"), RANGE(1, MANY_STEPS),
        "steps of which one is computed twice, with run.recheck: every"),
    NUMBER("run.max_minutes", FREE, max_minutes, DEFAULT("0"), RANGE(0, 1e7),
        "minutes after its start within which a run, or its supervisor, ends: it saves in time, by its own measured "
        "durations, and leaves with exit code 75, as GROMACS does with -maxh; a time limit of Slurm is known without it, "
        "and asked for again every five minutes; 0: none"),
    INTEGER("run.stop_at", FREE, stop_at, DEFAULT("0"), RANGE(0, MANY_STEPS),
        "step after which a run evaluates, saves and ends with exit code 75, while its learning rate goes on towards "
        "train.steps, to be continued with another value (--exit-interval of Megatron-LM); 0: none"),
    NUMBER("run.hang_floor", FREE, hang_floor, DEFAULT("180"), RANGE(0, 1e6),
        "a phase of each step may be quiet for five times the longest that it was before, for this many seconds at least "
        "and run.hang_timeout at most (timeouts learned as in NVIDIA's resiliency extension); starting, loading, saving and "
        "evaluating always have run.hang_timeout"),
    INTEGER("run.seed", STATE, seed, DEFAULT("1337"), RANGE(0, 9007199254740992),
        "key of all random numbers: initial weights, order of the data, random drops"),
    WORD("device", FREE, device, DEFAULT("auto"), OF(DEVICE_CHOICES),
        "where the arithmetic happens"),
};

static const Option LOG_ROWS[] = {
    INTEGER("log.every", FREE, log_every, DEFAULT("10"), RANGE(1, MANY_STEPS),
        "steps between lines of the log and rows of metrics.jsonl; the last step, that of run.stop_at and skipped ones always "
        "have a row"),
    FLAG("log.every_row", FREE, log_every_row, DEFAULT("false"),
        "a row of metrics.jsonl for every step; lines of the log stay as log.every says"),
    INTEGER("log.utilization_every", FREE, utilization_every, DEFAULT("0"), RANGE(0, MANY_STEPS),
        "steps between rows of the expert-utilization history; 0: as log.every"),
    INTEGER("log.dead_expert_steps", FREE, dead_expert_steps, DEFAULT("100"), RANGE(0, MANY_STEPS),
        "steps in a row without a choice after which a warning names an expert of a feed-forward or of attention that has "
        "died, but for PEER's, of whose very many some always go without; 0: none does"),
    INTEGER("log.digest_every", FREE, digest_every, DEFAULT("0"), RANGE(0, MANY_STEPS),
        "steps between rows of digests.jsonl: hashes of what a step has computed, which `moetrain diff-runs` holds against "
        "another run's; 0: none"),
    INTEGER("log.straggler_steps", FREE, straggler_steps, DEFAULT("20"), RANGE(0, MANY_STEPS),
        "steps in a row after which a warning names a rank that computes, outside collectives, for more than 1/0.7 of the "
        "fastest's time (the relative score of NVIDIA's resiliency extension); ranks are compared with each line of the "
        "log; 0: none is"),
};
// clang-format on

static bool check(const void *section, const OptionRules *rules) {
    const TrainConfig *config = section;
    if (config->recheck != RECHECK_OFF && config->reproducible == REPRODUCIBLE_OFF)
        return option_broken(rules, "run.recheck", "train.reproducible",
                             "run.recheck compares bits, which train.reproducible: off does not "
                             "promise; set train.reproducible=run, or run.recheck=off");
    if (config->recheck != RECHECK_EVERY && config->recheck_every != 100)
        return option_broken(rules, "run.recheck_every", "run.recheck",
                             "run.recheck_every is of run.recheck: every; set that, or leave it "
                             "out");
    return true;
}

const OptionSection RUN_OPTIONS = SECTION(RUN_ROWS, check);
const OptionSection LOG_OPTIONS = SECTION(LOG_ROWS, NULL);
