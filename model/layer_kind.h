// A kind of layer: everything that the program asks of what fills a half of a block, the mixer or
// the feed-forward. Nothing outside a kind's own files asks which kind a layer is of.
//
// A new kind is one file that exports one LayerKind, a word in model_config.h and a row in
// layer_kinds.c.
#ifndef MOETRAIN_MODEL_LAYER_KIND_H
#define MOETRAIN_MODEL_LAYER_KIND_H

#include "kernels/choice.h"
#include "kernels/cpu/scratch_plan.h"
#include "model/statistics.h"

// What layers need beside the rows that they add to the parameter table. Every layer of a model
// adds to it.
typedef struct LayerCost {
    // Of a forward pass for one token in a sequence of T: matrix products and attention, a
    // multiply-add counted as two. Training costs three times that.
    double flops_per_token;
    double expert_flops; // of these, what experts do, wherever they are
    // How far a token's may be below and above that, where it is a mean over tokens.
    double flops_below, flops_above;
    // By one rank in a step, while tokens spread evenly and nothing is dropped.
    double sent_bytes[TRAFFIC_KINDS];
    ScratchShape scratch; // largest sizes that ops are called with
} LayerCost;

// What layers are at most, known before anything is laid out: products of these sizes must fit into
// 64 bits.
typedef struct LayerBound {
    double parameters;
    double kept;    // numbers that stay of a token for the backward pass
    double choices; // experts that work on a token, in the layer where they are most; 1 for none
} LayerBound;

// `self` is the layer's own state. Where a row says NULL, a kind may leave the function out.
typedef struct LayerKind {
    size_t state_bytes; // zeroed before the first function sees it

    // Raises the bound by the layer's share; of `choices` the most. Not collective.
    void (*bound)(const ModelConfig *config, int64_t layer, LayerBound *bound);
    // Experts that the ranks of an expert-parallel group share out: rows on the first axis of its
    // expert parameters, or runs of them. NULL: none. Not collective.
    int64_t (*experts)(const ModelConfig *config, int64_t layer);
    const char *experts_name; // of that number, for messages
    bool experts_evenly;      // ranks must divide it; otherwise each has one at least
    // Whether the device's kernels take this layer. False with exit 2 and the fix, the same on
    // every rank with such a device. NULL: any device does. Not collective.
    bool (*check_device)(const ModelConfig *config, int64_t layer, const Device *dev, Error *err);
    // Adds the layer's rows to the parameter table.
    void (*declare)(void *self, Work *work, int64_t layer);
    // Places all that the layer will ever touch (work.h).
    void (*layout)(void *self, Work *work, Statistics *stats, Arena *activations, Arena *scratch);
    // Whether what has been laid out can be computed. False with exit 2 and the fix. NULL: always.
    // Not collective.
    bool (*check)(const void *self, const Work *work, Error *err);
    // Adds the layer's share, once it is laid out. Not collective.
    void (*cost)(const void *self, const Work *work, LayerCost *cost);

    // out, x (N, D) stored; x must stay until the backward pass. Collective as the kind's file
    // says.
    void (*forward)(void *self, Work *work, Statistics *stats, Tensor out, Tensor x);
    // dx, dout (N, D) stored; dx overwritten. Collective likewise.
    void (*backward)(void *self, Work *work, Tensor dx, Tensor dout);
    // After a step's update, with its statistics summed over all ranks: rules that are no gradient.
    // NULL: none. Collective over world, as the kind's file says.
    void (*after_step)(void *self, Work *work, const Statistics *stats);

    // Generation: N new tokens of one sequence from `position` on; what later tokens need of them
    // goes into the cache's rows from `position` on, (positions, width) stored. NULL: forward does
    // it, no token needs another.   out, x (N, D)
    void (*decode)(void *self, Work *work, Tensor out, Tensor x, Tensor cache, int64_t position);
    // Width of a row of the cache. NULL: there is none.
    int64_t (*cache_width)(const void *self, const Work *work);
    // Changes the configuration to one in which a token depends on no later one, nor on other
    // sequences. False with exit 2 when there is none. NULL: every configuration is such.
    bool (*for_generation)(ModelConfig *config, Error *err);
} LayerKind;

// A row of the lists, by MixerKind and FeedForwardKind.
typedef struct LayerChoice {
    Choice choice;
    const LayerKind *kind;
    // Keys that not every model reads: names, and "moe.*" for all that begin so; "!" before one of
    // these that it does not read. Keys that no row names are read by every model. NULL: none.
    const char *const *keys;
} LayerChoice;

extern const LayerChoice MIXERS[], FEED_FORWARDS[];
extern const ChoiceTable MIXER_CHOICES, FEED_FORWARD_CHOICES;

// A layer of a model.
typedef struct Layer {
    const LayerKind *kind;
    void *state;
} Layer;

#endif
