"""What each path of an adapted layer loses under bfloat16 autocast.

    python benchmarks/precision.py

Prints a Markdown table of relative errors, ‖a - b‖ / ‖b‖ against float64,
of each path: of the update's part of the output, y(ΔW) - y(0), and of every
gradient of a random linear loss.  *Rounded* is what remains of the update's
part if nothing but the two outputs is rounded.  *Slope*, <a, b> / <b, b>, is
the share of the update that arrives: noise leaves it at 1.

*First*, *early* and *late* are cores of standard deviation 1e-5, 1e-4 and 1:
after one step, after a few, after training.  *Base* is the type of the frozen
weight.
"""

import copy
from itertools import product

import torch
from torch import Tensor, nn

from mmflora.adapters import FLoRA, adapt_layer, disabled
from mmflora.adapters.cost import PATHS

LAYERS = {
    'linear 512 to 2048': (lambda: nn.Linear(512, 2048), (2, 128, 512)),
    'conv 3x3, one group': (
        lambda: nn.Conv2d(64, 64, 3, padding=1),
        (4, 64, 16, 16),
    ),
    'depthwise 7x7': (
        lambda: nn.Conv2d(128, 128, 7, padding=3, groups=128),
        (4, 128, 16, 16),
    ),
}
STAGES = {'first': 1e-5, 'early': 1e-4, 'late': 1.0}
BASES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
QUANTITIES = ('update', 'slope', 'dL/dx', 'dL/dcore', 'dL/dfactors')


def random_layer(kind: str, spread: float, base: torch.dtype) -> nn.Module:
    """Return an adapted layer, its weight's values exact in ``base``.

    Args:
        kind: A key of :data:`LAYERS`.
        spread: The standard deviation of the core.
        base: The type of the frozen weight and bias.
    """
    torch.manual_seed(0)
    layer = LAYERS[kind][0]().to(base).requires_grad_(False)
    adapt_layer(layer, FLoRA(layer.weight, rank=16, kernel_rank=2))
    nn.init.normal_(layer.adapter.core, std=spread)
    return layer


def measure(
    layer: nn.Module, inputs: Tensor, upstream: Tensor
) -> list[Tensor]:
    """Return the frozen layer's output, the adapted one's, and its gradients.

    Args:
        layer: An adapted layer.
        inputs: Its input.
        upstream: The gradient of its output.

    Returns:
        Both outputs, the gradients of input, core and each factor.
    """
    inputs = inputs.clone().requires_grad_()
    adapter = layer.adapter
    with disabled(layer), torch.no_grad():
        frozen = layer(inputs)
    output = layer(inputs)
    gradients = torch.autograd.grad(
        output, [inputs, adapter.core, *adapter.factors], upstream.to(output)
    )
    return [value.detach().double() for value in (frozen, output, *gradients)]


def compare(found: list[Tensor], wanted: list[Tensor]) -> dict[str, float]:
    """Return each of :data:`QUANTITIES` from two results of ``measure``."""
    update, exact = found[1] - found[0], wanted[1] - wanted[0]
    distances = [
        float((a - b).norm() / b.norm())
        for a, b in zip(
            [update, *found[2:]], [exact, *wanted[2:]], strict=True
        )
    ]
    slope = float((update * exact).sum() / (exact * exact).sum())
    values = [distances[0], slope, *distances[1:3], max(distances[3:])]
    return dict(zip(QUANTITIES, values, strict=True))


def errors(kind: str, stage: str, base: str) -> dict[str, dict[str, float]]:
    """Measure a layer on every path, and with its outputs alone rounded.

    Args:
        kind: A key of :data:`LAYERS`.
        stage: A key of :data:`STAGES`.
        base: A key of :data:`BASES`.

    Returns:
        By path, or ``'rounded'``: what :func:`compare` gives.
    """
    layer = random_layer(kind, STAGES[stage], BASES[base])
    # Values that bfloat16 holds: the input's own rounding is not the layer's.
    inputs = torch.randn(LAYERS[kind][1]).bfloat16().float()
    exact = copy.deepcopy(layer).double()
    upstream = torch.randn_like(exact(inputs.double())).bfloat16()
    wanted = measure(exact, inputs.double(), upstream)
    found = {}
    for path in PATHS:
        layer.adapter.path = path
        with torch.autocast('cpu', dtype=torch.bfloat16):
            found[path] = measure(layer, inputs, upstream)
    found['rounded'] = [value.bfloat16().double() for value in wanted]
    return {path: compare(values, wanted) for path, values in found.items()}


def main() -> None:
    """Print the table."""
    columns = [' / '.join((*PATHS, 'rounded'))] * len(QUANTITIES)
    header = [
        f'{quantity}: {paths}'
        for quantity, paths in zip(QUANTITIES, columns, strict=True)
    ]
    print(f'| layer | core | base | {" | ".join(header)} |')
    print(f'|{"---|" * (len(header) + 3)}')
    for kind, stage, base in product(LAYERS, STAGES, BASES):
        by_path = errors(kind, stage, base).values()
        cells = [
            ' / '.join(f'{found[quantity]:.2g}' for found in by_path)
            for quantity in QUANTITIES
        ]
        print(f'| {kind} | {stage} | {base} | {" | ".join(cells)} |')


if __name__ == '__main__':
    main()
