#include "model/attention.h"
#include "model/feed_forward.h"
#include "model/latent_attention.h"
#include "model/moa.h"
#include "model/moe_layer.h"
#include "model/peer.h"
#include "model/soft_moe.h"
#include "model/switchhead.h"

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
                   &MOA},
    [MIXER_SWITCHHEAD] = {{"switchhead", "heads with attention.experts value and output "
                                         "projections each, of which attention.top_k work on a "
                                         "token (SwitchHead, arXiv:2312.07987)"},
                          &SWITCHHEAD},
};
const LayerChoice FEED_FORWARDS[] = {
    [FEED_FORWARD_DENSE] = {{"dense", "one feed-forward for all tokens"}, &DENSE_FEED_FORWARD},
    [FEED_FORWARD_MOE] = {{"moe", "a router and experts (Shazeer et al. 2017, arXiv:1701.06538)"},
                          &MOE_FEED_FORWARD},
    [FEED_FORWARD_PEER] = {{"peer", "very many experts of one neuron, found by product keys (PEER, "
                                    "arXiv:2407.04153)"},
                           &PEER_FEED_FORWARD},
    [FEED_FORWARD_PR_MOE] = {{"pr_moe", "a router and experts, mixed with a dense feed-forward of "
                                        "moe.shared_experts, or one, times moe.d_ff by a learned "
                                        "softmax; deep layers want more experts: moe.experts has a "
                                        "list (PR-MoE, DeepSpeed-MoE, arXiv:2201.05596)"},
                             &MOE_FEED_FORWARD},
    [FEED_FORWARD_LATENT_MOE] = {{"latent_moe",
                                  "a router and experts in a space of moe.latent_width, so that "
                                  "less travels to them (LatentMoE, arXiv:2601.18089)"},
                                 &MOE_FEED_FORWARD},
    [FEED_FORWARD_SOFT_MOE] = {{"soft_moe", "experts of slots, each a mixture of all tokens of a "
                                            "sequence (Soft MoE, arXiv:2308.00951)"},
                               &SOFT_MOE_FEED_FORWARD},
};

const ChoiceTable MIXER_CHOICES = CHOICE_TABLE(MIXERS);
const ChoiceTable FEED_FORWARD_CHOICES = CHOICE_TABLE(FEED_FORWARDS);
