#include "kernels/integers.h"
#include "kernels/option_rows.h"
#include "model/model_config.h"

static void derive_d_key(void *section) {
    ModelConfig *model = section;
    model->peer.d_key = larger(model->d_model / 2, 1);
}

static void derive_activation(void *section) {
    ModelConfig *model = section;
    model->peer.activation = model->activation;
}

static const Choice QUERY_NORMS[] = {
    [PEER_QUERIES_PLAIN] = {"none", "queries as the projection makes them"},
    [PEER_QUERIES_BATCH] = {"batch", "batch normalization of each of their columns, by shard while "
                                     "training and by averages over steps otherwise"},
};
const ChoiceTable PEER_QUERY_NORM_CHOICES = CHOICE_TABLE(QUERY_NORMS);

// clang-format off
#define SECTION_STRUCT ModelConfig
static const Option ROWS[] = {
    INTEGER("peer.keys", FUNCTION, peer.keys, DEFAULT("32"), RANGE(1, 32768),
        "n: keys of each half, so that a peer layer has n^2 experts of one neuron (PEER, arXiv:2407.04153: 1024); up to 8 "
        "ranks share them, as many as the largest power of two that divides n^2"),
    INTEGER("peer.heads", FUNCTION, peer.heads, DEFAULT("8"), RANGE(1, 1024),
        "queries of a token, each of which finds experts (PEER, arXiv:2407.04153: 8)"),
    INTEGER("peer.top_k", FUNCTION, peer.top_k, DEFAULT("16"), RANGE(1, PRODUCT_KEYS_TOP_K),
        "experts that a query finds, each of which works on the token (PEER, arXiv:2407.04153: 16)"),
    INTEGER("peer.d_key", FUNCTION, peer.d_key, DERIVED("model.d_model / 2", derive_d_key), RANGE(1, 65536),
        "width of a half of a query, and of its keys (PEER, arXiv:2407.04153: 128)"),
    CHOICE("peer.query_norm", FUNCTION, peer.query_norm, DEFAULT("none"), OF(PEER_QUERY_NORM_CHOICES),
        "of queries before they meet keys, so that experts are found evenly (PEER, arXiv:2407.04153: batch)"),
    CHOICE("peer.activation", FUNCTION, peer.activation, DERIVED("model.activation", derive_activation),
        OF(ACTIVATION_CHOICES),
        "of an expert's neuron; a gated one has a row more (gelu and, with glu, geglu in arXiv:2407.04153)"),
};
// clang-format on

// Of a model without such layers; a derived value is as good as none.
static bool check_unused(const PeerConfig *peer, const OptionRules *rules) {
    const char *key = peer->keys != 32    ? "peer.keys"
                      : peer->heads != 8  ? "peer.heads"
                      : peer->top_k != 16 ? "peer.top_k"
                      : peer->query_norm  ? "peer.query_norm"
                                          : NULL;
    return !key || option_broken(rules, key, "model.feed_forward",
                                 "%s is of peer layers, and there are none; set "
                                 "model.feed_forward=peer, or leave it out",
                                 key);
}

static bool check(const void *section, const OptionRules *rules) {
    const ModelConfig *model = section;
    const PeerConfig *peer = &model->peer;
    if (!model_has_feed_forward(model, FEED_FORWARD_PEER)) return check_unused(peer, rules);
    if (peer->top_k <= peer->keys) return true;
    return option_broken(rules, "peer.top_k", "peer.keys",
                         "peer.top_k (%lld) is more than peer.keys (%lld), of which a query finds "
                         "so many in each half; set it to at most that",
                         (long long)peer->top_k, (long long)peer->keys);
}

const OptionSection PEER_OPTIONS = SECTION(ROWS, check);
