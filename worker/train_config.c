#include "worker/train_config.h"

static const Choice REPRODUCIBLES[] = {
    [REPRODUCIBLE_RANKS] = {"ranks", "the same bits on any number of ranks"},
    [REPRODUCIBLE_RUN] = {"run", "the same bits when repeated on as many ranks"},
    [REPRODUCIBLE_OFF] = {"off", "no promise"},
};
const ChoiceTable REPRODUCIBLE_CHOICES = CHOICE_TABLE(REPRODUCIBLES);

static const Choice PLACEMENTS[] = {
    [PLACEMENT_EVEN] = {"even", "in their order, each rank as many as the others"},
    [PLACEMENT_MEASURED] = {"measured", "as many each, but such that ranks had equally many tokens "
                                        "in the last 100 steps of the checkpoint that a run goes "
                                        "on from; a run that begins is even"},
};
const ChoiceTable PLACEMENT_CHOICES = CHOICE_TABLE(PLACEMENTS);

static const Choice PRECISIONS[] = {
    [PRECISION_F32] = {"f32", "32-bit floats"},
    [PRECISION_BF16] = {"bf16", "bfloat16: 16-bit floats with the range of f32"},
};
const ChoiceTable PRECISION_CHOICES = CHOICE_TABLE(PRECISIONS);

static const Choice RESUMES[] = {
    {"auto", "from the newest checkpoint of run.dir, if there is one"},
    {"never", "begin anew; run.dir must hold no checkpoint"},
    {"must", "from the newest checkpoint of run.dir; without one it is an error"},
};
const ChoiceTable RESUME_CHOICES = CHOICE_TABLE(RESUMES);
