// Private to kernels/cuda/: attention in bf16 on Hopper, by the products of its warpgroups.
#ifndef MOETRAIN_KERNELS_CUDA_ATTENTION_WARPGROUP_CUH
#define MOETRAIN_KERNELS_CUDA_ATTENTION_WARPGROUP_CUH

#include "kernels/cuda/attention_tile.cuh"

// Whether these serve: decided by the GPU and by what does not depend on the number of rows.
// `padded` is padded_head's, `shaped` what is_shaped says.
bool attention_by_warpgroups(const Device *dev, int padded, bool shaped);

// out, lse and dqkv of `sequences` as attention_forward and attention_backward have them; delta is
// Σ dout · out of each query and head.
void attention_forward_warpgroup(Device *dev, int padded, bf16 *out, float *lse, const bf16 *qkv,
                                 int64_t sequences, Heads g);
void attention_backward_warpgroup(Device *dev, int padded, bf16 *dqkv, const bf16 *dout,
                                  const bf16 *qkv, const float *lse, const float *delta,
                                  int64_t sequences, Heads g);

#endif
