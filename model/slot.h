// The slot that fills a block's feed-forward. A new kind of layer is one new file and one line in
// slot.c.
#ifndef MOETRAIN_MODEL_SLOT_H
#define MOETRAIN_MODEL_SLOT_H

#include "model/feed_forward.h"
#include "model/moe_layer.h"

typedef struct SlotKind SlotKind;

typedef struct Slot {
    const SlotKind *kind;
    union {
        FeedForward feed_forward;
        MoeLayer moe;
    } as;
} Slot;

// The functions of one kind; what they mean stands in work.h. `report` asks for the layer's columns
// of the statistics, during layout.
struct SlotKind {
    const char *name;
    void (*declare)(Slot *slot, Work *work, int64_t layer);
    void (*layout)(Slot *slot, Work *work, Arena *activations, Arena *scratch);
    void (*report)(Slot *slot, Statistics *stats);
    void (*forward)(Slot *slot, Work *work, Statistics *stats, Tensor out, Tensor x);
    void (*backward)(Slot *slot, Work *work, Tensor dx, Tensor dout);
};

// The kind that the configuration asks for in this layer.
const SlotKind *slot_kind(const ModelConfig *config, int64_t layer);

#endif
