"""Merges the adapters of a trained checkpoint and compares the features.

Usage: python merging.py CONFIG CHECKPOINT.  Says whether the merged backbone
has the keys and classes of the stock one, and how far its features are from
those before; or why it cannot be merged.
"""

import sys

import torch
from inference import build_as_runner

from mmflora.adapters import adapted_layers, merge
from mmflora.checkpoint.record import RECORD_NAME
from mmflora.models import ConvNeXt


@torch.no_grad()
def main():
    config, checkpoint = sys.argv[1:]
    backbone = build_as_runner(config, checkpoint).backbone
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, 128, 128, generator=generator)
    before = backbone(image)
    try:
        merge(backbone)
    except ValueError as error:
        print(f'not merged: {error}')
        return
    after = backbone(image)
    off = max(
        float((a - b).abs().max() / a.abs().max())
        for a, b in zip(before, after, strict=True)
    )
    stock = set(ConvNeXt('convnextv2_atto').state_dict())
    keys = {key for key in backbone.state_dict() if RECORD_NAME not in key}
    plain = keys == stock and not adapted_layers(backbone)
    print(f'merged: plain {plain}, features off by {off:.1e}')


if __name__ == '__main__':
    main()
