"""Linear layers, norms and feed-forwards once more, with PyTorch in double."""
import torch
import torch.nn.functional as F


def linear(p, name, x):
    return F.linear(x, p[name], p.get(name + ".bias"))


def norm(p, name, x, c):
    shape, eps = x.shape[-1:], c["model.norm_eps"]
    if c["model.norm"] == "layernorm":
        return F.layer_norm(x, shape, p[name], p[name + ".bias"], eps)
    return F.rms_norm(x, shape, p[name], eps)


def swiglu_oai(gate, up):
    """gpt-oss: clamped, and up has an offset."""
    gate, up = gate.clamp(max=7), up.clamp(-7, 7)
    return gate * torch.sigmoid(1.702 * gate) * (up + 1)


GATED = {"swiglu": lambda gate, up: F.silu(gate) * up,
         "geglu": lambda gate, up: F.gelu(gate) * up,
         "swiglu_oai": swiglu_oai,
         "swiglu_limit": lambda gate, up: F.silu(gate.clamp(max=10)) * up.clamp(-10, 10)}
PLAIN = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
         "relu2": lambda x: F.relu(x) ** 2}


def feed_forward(p, name, x, c, expert=None, drop=None):
    """`name` of one feed-forward, or of the parameters that experts share; `drop` is given what it
    may drop, by the word of moe.dropout_at."""
    def layer(part, y):
        weight, bias = p[f"{name}.{part}"], p.get(f"{name}.{part}.bias")
        if expert is not None:
            weight, bias = weight[expert], bias if bias is None else bias[expert]
        return F.linear(y, weight, bias)
    hidden, kind = layer("gate_up", x), c["model.activation"]
    hidden = GATED[kind](*hidden.chunk(2, dim=-1)) if kind in GATED else PLAIN[kind](hidden)
    if drop is None:
        return layer("down", hidden)
    return drop("output", layer("down", drop("hidden", hidden)))
