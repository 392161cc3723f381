"""Other libraries' methods, wired to a model as their documentation says."""

import logging
import re

import loralib
from lycoris import create_lycoris
from lycoris.logging import logger as lycoris_logger
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from benchmarks.backbones import Candidate, parent_of, weighted_layers
from benchmarks.ranks import (
    count_dora,
    count_locon,
    count_lora,
    count_loralib,
    kind_of,
    matched_ranks,
)

# It says, whenever it builds a network, what it is about to do.
lycoris_logger.setLevel(logging.ERROR)


def build_peft(backbone: nn.Module, rank: int, dora: bool) -> Candidate:
    """Adapt by huggingface/peft's LoRA or DoRA.

    peft refuses a convolution whose groups do not divide the rank, which
    leaves the depthwise ones out.
    """
    layers = weighted_layers(backbone, depthwise=False)
    ranks = matched_ranks(
        layers.values(), rank, count_dora if dora else count_lora
    )
    pattern = {
        re.escape(name): ranks[kind_of(layer)]
        for name, layer in layers.items()
    }
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=f'({"|".join(pattern)})',
        rank_pattern=pattern,
        use_dora=dora,
    )
    backbone.requires_grad_(False)
    inject_adapter_in_model(config, backbone)
    return Candidate(backbone, len(layers), ranks=ranks)


def build_locon(backbone: nn.Module, rank: int) -> Candidate:
    """Adapt by LyCORIS' LoCon with a Tucker core in its convolutions."""
    layers = weighted_layers(backbone)
    ranks = matched_ranks(layers.values(), rank, count_locon)
    backbone.requires_grad_(False)
    network = create_lycoris(
        backbone,
        1.0,
        linear_dim=ranks.get('linear', rank),
        linear_alpha=ranks.get('linear', rank),
        conv_dim=ranks.get('conv', rank),
        conv_alpha=ranks.get('conv', rank),
        algo='locon',
        use_tucker=True,
    )
    network.apply_to()
    return Candidate(backbone, len(network.loras), network, ranks)


def build_loralib(backbone: nn.Module, rank: int) -> Candidate:
    """Adapt by loralib's ``Linear`` and ``Conv2d``, the first ConvLoRA.

    Its layers replace the stock ones and share their frozen parameters.  An
    update of a convolution is a matrix of side ``rank · kernel``, so that
    even at rank 1 it may have more parameters than asked for.

    Raises:
        ValueError: If a kernel is not square, or padding or dilation differ
            between height and width: the library takes one number for each.
    """
    layers = weighted_layers(backbone)
    ranks = matched_ranks(layers.values(), rank, count_loralib)
    backbone.requires_grad_(False)
    for name, layer in layers.items():
        own = ranks[kind_of(layer)]
        bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            new = loralib.Linear(
                layer.in_features, layer.out_features, own, own, bias=bias
            )
            inner: nn.Module = new
        else:
            new = loralib.Conv2d(
                layer.in_channels,
                layer.out_channels,
                _side(name, layer),
                own,
                own,
                stride=layer.stride,
                padding=layer.padding,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=bias,
            )
            inner = new.conv
        inner.weight, inner.bias = layer.weight, layer.bias
        parent, child = parent_of(backbone, name)
        setattr(parent, child, new)
    return Candidate(backbone, len(layers), ranks=ranks)


def _side(name: str, layer: nn.Conv2d) -> int:
    height, width = layer.kernel_size
    if height != width:
        raise ValueError(
            f"loralib cannot adapt '{name}': its kernel is {height} x "
            f'{width}, and loralib knows square ones only.'
        )
    return height
