"""The stock models that the benchmark adapts, and the layers they have."""

import timm
import torch
from torch import Tensor, nn


def build_backbone(model: str, size: int, seed: int = 0) -> nn.Module:
    """Build a model of timm with random weights and dense features.

    Parameters that timm starts at a constant (norms, GRN, layer scale,
    biases) are moved off it a little: at zero they would switch parts of the
    network off, and with them their rounding errors.

    Args:
        model: timm's name.
        size: Height and width of the images, for models that fix it.
        seed: Same seed, same weights.
    """
    torch.manual_seed(seed)
    options = dict(pretrained=False, num_classes=0, global_pool='')
    try:
        backbone = timm.create_model(model, img_size=size, **options)
    except TypeError:  # a convolutional network takes any size
        torch.manual_seed(seed)
        backbone = timm.create_model(model, **options)
    leave_constants(backbone)
    return backbone.train()


@torch.no_grad()
def leave_constants(module: nn.Module, std: float = 0.02) -> None:
    """Add noise to the trainable parameters whose entries are all the same."""
    for parameter in module.parameters():
        if parameter.requires_grad and bool(
            (parameter == parameter.flatten()[0]).all()
        ):
            parameter.add_(torch.randn_like(parameter) * std)


def weighted_layers(
    backbone: nn.Module, depthwise: bool = True
) -> dict[str, nn.Linear | nn.Conv2d]:
    """Return the linear layers and convolutions of a stock model by name.

    Args:
        backbone: The model, not yet adapted.
        depthwise: Include convolutions in groups.
    """
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear)
        or (isinstance(layer, nn.Conv2d) and (depthwise or layer.groups == 1))
    }


def parent_of(backbone: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a layer, and the layer's name in it."""
    prefix, _, child = name.rpartition('.')
    return backbone.get_submodule(prefix), child


class Candidate(nn.Module):
    """A model as one method trains it.

    Args:
        backbone: The adapted model; what requires a gradient trains.
        layers: How many layers the method adapts.
        extra: Parameters that the method keeps outside the model.
        ranks: The ranks it uses, for the record.

    Attributes:
        images_need_gradient: Nothing trains, so that a backward pass takes
            place for the input's gradient alone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: int = 0,
        extra: nn.Module | None = None,
        ranks: dict[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.extra = extra
        self.layers = layers
        self.ranks = ranks or {}
        self.images_need_gradient = not self.trainable()

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's features."""
        return self.backbone(images)

    def trainable(self) -> list[nn.Parameter]:
        """Return the parameters that train."""
        return [p for p in self.parameters() if p.requires_grad]
