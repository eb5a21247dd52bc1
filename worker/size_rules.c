#include "model/configured_layers.h"
#include "worker/train_config.h"

// Sizes are counted in 64 bits everywhere else; this bound leaves room for every product of them
// that is ever made. Rows of a micro-batch are numbered with 32 bits.
static bool check(const void *section, const OptionRules *rules) {
    const double most = 1e16; // numbers of one kind
    const TrainConfig *train = section;
    const ModelConfig *model = &train->model;
    LayerBound bound = model_bound(model);
    int64_t sequences = train->batch / train->micro_batches;
    double tokens = (double)sequences * (double)train->context;
    if (tokens * bound.choices >= 2147483647.0)
        return option_broken(
            rules, "train.batch", "train.context",
            "a micro-batch of %lld sequences x %lld tokens x top_k %.0f has 2^31 choices "
            "or more; raise train.micro_batches",
            (long long)sequences, (long long)train->context, bound.choices);
    bool text = train->data.vocab_size == 0; // then at most the code points of Unicode
    double vocabulary = text ? 0x110000 : (double)train->data.vocab_size;
    double parameters = 2 * vocabulary * (double)model->d_model + bound.parameters;
    if (parameters > most)
        return option_broken(
            rules, "model.layers", "model.d_model",
            "a model of %.2g parameters is beyond what can be planned, %.0e; reduce "
            "model.layers, model.d_model, model.d_ff, moe.experts or moe.d_ff",
            parameters, most);
    double activations = tokens * (vocabulary + bound.kept);
    if (activations > most)
        return option_broken(
            rules, "train.batch", "train.context",
            "a micro-batch of %.2g tokens with %.2g numbers to keep is beyond what can "
            "be planned, %.0e; raise train.micro_batches or reduce train.batch, "
            "train.context or the model",
            tokens, activations, most);
    return true;
}

const OptionSection SIZE_RULES = {.check = check};
