"""Attention with fewer heads: the teacher's weights without the heads that matter least.

Attention is written in many ways; one is taken for plain where ours, with its weights, gives the same outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lana.networks.layers import Layer
from lana.networks.structure import quiet_evaluation
from lana.networks.surgery import replace
from lana.operations.base import FOR_SINGLE_LAYERS, Features, example_for, once_a_structure, unless
from lana.operations.closed_form import solve, watch

EQUAL = 1e-4  # relative: two ways to compute one attention


class HeadAttention(nn.Module):
    """Plain self-attention over tokens, (batch, tokens, channels), with heads of any number and width."""

    batch_first, in_proj_bias = True, None  # what `nn.TransformerEncoderLayer` asks before it takes its fused form

    def __init__(self, qkv: nn.Linear, proj: nn.Linear, heads: int, *, pair: bool) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads, self.pair = qkv, proj, heads, pair

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Any:
        y = self.proj(self.attended(x))
        return (y, None) if self.pair else y

    def attended(self, x: Tensor) -> Tensor:
        """The outputs of the heads, side by side."""
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        return y.transpose(1, 2).reshape(batch, tokens, -1)


def _plain(part: nn.Module) -> HeadAttention | None:
    """Our attention with the weights of a module that may be one."""
    if isinstance(part, nn.MultiheadAttention):
        if part.in_proj_weight is None or not part.batch_first:
            return None
        qkv = nn.Linear(part.embed_dim, 3 * part.embed_dim)
        qkv.weight, bias = copy.deepcopy(part.in_proj_weight), part.in_proj_bias
        qkv.bias = copy.deepcopy(bias) if bias is not None else nn.Parameter(torch.zeros(3 * part.embed_dim))
        proj = nn.Linear(part.embed_dim, part.embed_dim)
        proj.load_state_dict({"bias": torch.zeros(part.embed_dim), **part.out_proj.state_dict()})
        return HeadAttention(qkv, proj, part.num_heads, pair=True)
    qkv, proj, heads = (getattr(part, name, None) for name in ("qkv", "proj", "num_heads"))  # type: ignore[assignment]
    if not isinstance(qkv, nn.Linear) or not isinstance(proj, nn.Linear) or not isinstance(heads, int):
        return None
    return HeadAttention(copy.deepcopy(qkv), copy.deepcopy(proj), heads, pair=False)


@once_a_structure
def attentions(layer: Layer, module: nn.Module) -> tuple[str, ...]:
    """The submodules that are plain attention with several heads."""
    names = []
    for name, part in module.named_modules():
        plain = _plain(part) if name else None
        if plain is None or plain.heads < 2:
            continue
        trial, example = copy.deepcopy(module).eval(), example_for(layer, module)
        replace(trial, name, plain.to(example.device))
        try:
            with quiet_evaluation(trial, module):
                expected, outputs = module(example.clone()), trial(example.clone())
        except Exception:  # the block's own code may raise anything; then the part is no plain attention
            continue
        if float((expected - outputs).abs().max()) <= EQUAL * float(expected.abs().max()):
            names.append(name)
    return tuple(names)


def why_not_fewer_heads(layer: Layer, module: nn.Module) -> str:
    if len(layer.members) > 1:
        return FOR_SINGLE_LAYERS
    return unless(bool(attentions(layer, module)), "it has no plain self-attention with several heads")


def fewer_heads(layer: Layer, module: nn.Module, p: Mapping[str, float], features: Features | None = None) -> nn.Module:
    """The teacher's block with a share `h` of its attention heads.

    On features, the heads that contribute most to the outputs are kept. The projection behind them is solved again for
    the outputs that it had with all heads.
    """
    block = copy.deepcopy(module).eval()
    for name in attentions(layer, module):
        plain = _plain(block.get_submodule(name))
        if plain is None:
            continue
        replace(block, name, plain.to(example_for(layer, module).device))
        inputs = watch(block, [plain.qkv], features[0])[plain.qkv][0] if features is not None else None
        _keep_heads(plain, max(1, round(plain.heads * p["h"])), inputs)
    return block.requires_grad_(True)


@torch.no_grad()
def _keep_heads(attention: HeadAttention, count: int, inputs: Tensor | None) -> None:
    heads, qkv, proj = attention.heads, attention.qkv, attention.proj
    width = proj.in_features // heads
    power = torch.ones(proj.in_features, device=proj.weight.device)
    target = None
    if inputs is not None:
        attended = attention.attended(inputs)
        power, target = attended.square().flatten(0, -2).mean(0), proj(attended)
    importance = (proj.weight.square().sum(0) * power).view(heads, width).sum(1)
    kept = importance.argsort(descending=True)[:count].sort().values
    columns = (kept[:, None] * width + torch.arange(width, device=kept.device)).flatten()
    every = torch.cat([part * heads * width + columns for part in range(3)])
    qkv.weight = nn.Parameter(qkv.weight[every])
    if qkv.bias is not None:
        qkv.bias = nn.Parameter(qkv.bias[every])
    proj.weight = nn.Parameter(proj.weight[:, columns])
    qkv.out_features, proj.in_features, attention.heads = len(every), len(columns), count
    if inputs is not None and target is not None and count < heads:
        solve(proj, attention.attended(inputs), target)
