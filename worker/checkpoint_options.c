#include "kernels/option_rows.h"
#include "worker/train_config.h"

// clang-format off
#define SECTION_STRUCT TrainConfig
static const Option ROWS[] = {
    INTEGER("checkpoint.every", FREE, checkpoint_every, DEFAULT("500"), RANGE(0, MANY_STEPS),
        "steps between checkpoints; 0: only at the end and on a signal"),
    FLAG("checkpoint.async", FREE, checkpoint_async, DEFAULT("false"),
        "a thread writes a checkpoint while training goes on (async_save of PyTorch's distributed checkpoints), from a copy "
        "in the host's memory that it takes while the next step runs forward and backward (as CheckFreq, FAST 2021); one at "
        "a time: a save that is due waits for the one before"),
    INTEGER("checkpoint.keep_last", FREE, keep.last, DEFAULT("3"), RANGE(0, 1e6),
        "newest checkpoints that are kept; 0: all"),
    INTEGER("checkpoint.keep_every", FREE, keep.every, DEFAULT("0"), RANGE(0, MANY_STEPS),
        "checkpoints of steps that are multiples of this are kept for ever; 0: none (save_top_k and every_n of others)"),
    PATH_OR_WORD("resume", FREE, resume, DEFAULT("auto"), OF(RESUME_CHOICES),
        "where training goes on; with a checkpoint's path a branch of its run begins, or goes on once run.dir holds a "
        "checkpoint of that branch"),
    NAMES("resume.allow", FREE, resume_allow,
        "function keys that may differ from the checkpoint's all the same; `moetrain help KEY` tells the kind of a key"),
    PATH("init", FREE, init, DEFAULT(""),
        "checkpoint whose weights a new run begins with, at step 0 with a new optimizer, also on other data of the same "
        "vocabulary; once run.dir holds a checkpoint the run goes on from that; empty: random weights"),
};
// clang-format on

const OptionSection CHECKPOINT_OPTIONS = SECTION(ROWS, NULL);
