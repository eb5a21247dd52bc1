#include "model/slot.h"

static void dense_declare(Slot *slot, Work *work, int64_t layer) {
    feed_forward_declare(&slot->as.feed_forward, work, layer);
}
static void dense_layout(Slot *slot, Work *work, Arena *activations, Arena *scratch) {
    feed_forward_layout(&slot->as.feed_forward, work, activations, scratch);
}
static void dense_report(Slot *slot, Statistics *stats) {
    (void)slot, (void)stats;
}
static void dense_forward(Slot *slot, Work *work, Statistics *stats, Tensor out, Tensor x) {
    (void)stats;
    feed_forward_forward(&slot->as.feed_forward, work, out, x);
}
static void dense_backward(Slot *slot, Work *work, Tensor dx, Tensor dout) {
    feed_forward_backward(&slot->as.feed_forward, work, dx, dout);
}

static void moe_declare(Slot *slot, Work *work, int64_t layer) {
    moe_layer_declare(&slot->as.moe, work, layer);
}
static void moe_layout(Slot *slot, Work *work, Arena *activations, Arena *scratch) {
    moe_layer_layout(&slot->as.moe, work, activations, scratch);
}
static void moe_report(Slot *slot, Statistics *stats) {
    moe_layer_report(&slot->as.moe, stats);
}
static void moe_forward(Slot *slot, Work *work, Statistics *stats, Tensor out, Tensor x) {
    moe_layer_forward(&slot->as.moe, work, stats, out, x);
}
static void moe_backward(Slot *slot, Work *work, Tensor dx, Tensor dout) {
    moe_layer_backward(&slot->as.moe, work, dx, dout);
}

static const SlotKind dense = {"dense",      dense_declare, dense_layout,
                               dense_report, dense_forward, dense_backward};
static const SlotKind moe = {"moe", moe_declare, moe_layout, moe_report, moe_forward, moe_backward};

const SlotKind *slot_kind(const ModelConfig *config, int64_t layer) {
    return model_feed_forward(config, layer) == FEED_FORWARD_MOE ? &moe : &dense;
}
