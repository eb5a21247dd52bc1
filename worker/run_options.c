#include "kernels/option_rows.h"
#include "worker/train_config.h"

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option RUN_ROWS[] = {
    PATH("run.dir", FREE, run_dir, DERIVED("runs/NAME in the current folder, from NAME.yaml", NULL),
        "folder of everything the run writes: config.yaml, metrics.jsonl, checkpoints/"),
    NUMBER("run.hang_timeout", FREE, hang_timeout, DEFAULT("600"), RANGE(0, 1e6),
        "seconds without progress after which every rank says where it waits and the run ends with exit code 8 "
        "(a stopped rank, a cut network); loading and saving count as progress, but one flush of a file to the disk must "
        "fit; 0: wait for ever"),
    INTEGER("run.seed", STATE, seed, DEFAULT("1337"), RANGE(0, 9007199254740992),
        "key of all random numbers: initial weights, order of the data, random drops"),
    WORD("device", FREE, device, DEFAULT("auto"), OF(DEVICE_CHOICES),
        "where the arithmetic happens"),
};

static const Option LOG_ROWS[] = {
    INTEGER("log.every", FREE, log_every, DEFAULT("10"), RANGE(1, MANY_STEPS),
        "steps between lines of the log and rows of metrics.jsonl; the last step and skipped ones always have a row"),
    FLAG("log.every_row", FREE, log_every_row, DEFAULT("false"),
        "a row of metrics.jsonl for every step; lines of the log stay as log.every says"),
    INTEGER("log.utilization_every", FREE, utilization_every, DEFAULT("0"), RANGE(0, MANY_STEPS),
        "steps between rows of the expert-utilization history; 0: as log.every"),
    INTEGER("log.dead_expert_steps", FREE, dead_expert_steps, DEFAULT("100"), RANGE(0, MANY_STEPS),
        "steps in a row without a choice after which a warning names an expert that has died; 0: none does"),
};
// clang-format on

const OptionSection RUN_OPTIONS = SECTION(RUN_ROWS, NULL);
const OptionSection LOG_OPTIONS = SECTION(LOG_ROWS, NULL);
