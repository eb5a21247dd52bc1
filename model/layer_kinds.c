#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/latent_attention.h"
#include "model/moa.h"
#include "model/moe_layer.h"
#include "model/peer.h"
#include "model/soft_moe.h"
#include "model/switchhead.h"

#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OF_ROUTED KEYS("moe.*", "!moe.slots", "!moe.latent_width")

const LayerChoice MIXERS[] = {
    [MIXER_ATTENTION] = {{"attention",
                          "grouped-query attention (arXiv:1706.03762, arXiv:2305.13245)"},
                         &ATTENTION},
    [MIXER_LATENT_ATTENTION] = {{"latent_attention",
                                 "attention to keys and values of a low rank, which alone are "
                                 "cached (MLA, DeepSeek-V2, arXiv:2405.04434)"},
                                &LATENT_ATTENTION},
    [MIXER_MOA] = {{"moa", "heads of attention.experts, of which a router chooses attention.heads "
                           "for each token (MoA, arXiv:2210.05144)"},
                   &MOA,
                   KEYS("moe.router", "moe.normalize_top_k", "moe.scaling_factor",
                        "moe.sinkhorn_iterations", "moe.noise_in_evaluation", "moe.jitter",
                        "moe.router_init_scale", "moe.gate_bias", "moe.balance*", "moe.bias_*",
                        "moe.z_loss", "moe.max_expert_replicas")},
    [MIXER_SWITCHHEAD] = {{"switchhead", "heads with attention.experts value and output "
                                         "projections each, of which attention.top_k work on a "
                                         "token (SwitchHead, arXiv:2312.07987)"},
                          &SWITCHHEAD,
                          KEYS("moe.balance", "moe.max_expert_replicas")},
};
const LayerChoice FEED_FORWARDS[] = {
    [FEED_FORWARD_DENSE] = {{"dense", "one feed-forward for all tokens"}, &DENSE_FEED_FORWARD},
    [FEED_FORWARD_MOE] = {{"moe", "a router and experts (Shazeer et al. 2017, arXiv:1701.06538)"},
                          &MOE_FEED_FORWARD,
                          OF_ROUTED},
    [FEED_FORWARD_PEER] = {{"peer", "very many experts of one neuron, found by product keys (PEER, "
                                    "arXiv:2407.04153)"},
                           &PEER_FEED_FORWARD,
                           KEYS("peer.*", "moe.max_expert_replicas")},
    [FEED_FORWARD_PR_MOE] = {{"pr_moe", "a router and experts, mixed with a dense feed-forward of "
                                        "moe.shared_experts, or one, times moe.d_ff by a learned "
                                        "softmax; deep layers want more experts: moe.experts has a "
                                        "list (PR-MoE, DeepSpeed-MoE, arXiv:2201.05596)"},
                             &MOE_FEED_FORWARD,
                             OF_ROUTED},
    [FEED_FORWARD_LATENT_MOE] = {{"latent_moe",
                                  "a router and experts in a space of moe.latent_width, so that "
                                  "less travels to them (LatentMoE, arXiv:2601.18089)"},
                                 &MOE_FEED_FORWARD,
                                 KEYS("moe.*", "!moe.slots")},
    [FEED_FORWARD_SOFT_MOE] = {{"soft_moe", "experts of slots, each a mixture of all tokens of a "
                                            "sequence (Soft MoE, arXiv:2308.00951)"},
                               &SOFT_MOE_FEED_FORWARD,
                               KEYS("moe.experts", "moe.d_ff", "moe.slots", "moe.dropout*",
                                    "moe.allow_noncausal", "moe.max_expert_replicas")},
};

const ChoiceTable MIXER_CHOICES = CHOICE_TABLE(MIXERS);
const ChoiceTable FEED_FORWARD_CHOICES = CHOICE_TABLE(FEED_FORWARDS);
