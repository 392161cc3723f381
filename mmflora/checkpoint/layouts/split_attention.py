"""Queries, keys and values apart in a file, joined as Meta and timm do."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PART = re.compile(r'(.+\.attn)\.([qkv])\.(weight|bias)')


def join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join ``attn.q``, ``attn.k`` and ``attn.v`` to ``attn.qkv``.

    A bias that only the keys lack becomes zero, as in DINOv3.

    Returns:
        The weights; what has no counterpart stays as it is.
    """
    joined = {k: v for k, v in state.items() if not _PART.fullmatch(k)}
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, value in state.items():
        match = _PART.fullmatch(key)
        if match:
            name, part, kind = match.groups()
            parts.setdefault((name, kind), {})[part] = value
    for (name, kind), found in parts.items():
        if kind == 'bias' and found.keys() == {'q', 'v'}:
            found['k'] = torch.zeros_like(found['v'])
        if found.keys() == {'q', 'k', 'v'}:
            joined[f'{name}.qkv.{kind}'] = torch.cat([found[p] for p in 'qkv'])
        else:
            joined |= {f'{name}.{p}.{kind}': v for p, v in found.items()}
    return joined
