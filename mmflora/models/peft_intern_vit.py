"""InternViT with a frozen base and adapters."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmflora.adapters.inject import Targets
from mmflora.registry import MODELS

from .intern_vit import InternViT
from .peft_backbone import adapt_backbone


@MODELS.register_module()
class PEFTInternViT(InternViT):
    """A frozen InternViT that learns through its adapters and pyramid.

    Args:
        *args: As for :class:`InternViT`, also ``**kwargs``; ``init_cfg``
            names the frozen base, which is loaded here.
        adapter: The adapters' configuration; ``None`` for none at all.
        targets: Which layers to adapt; by default the linear layers of all
            blocks (qkv, proj, fc1, fc2), as in the paper.
        exclude: Which layers to leave alone.
        lean: Rebuild in the backward pass what is cheap to rebuild, see
            :mod:`mmflora.adapters.lean`; else outputs of norms alone.
        allow_random_base: See
            :func:`mmflora.models.peft_backbone.adapt_backbone`.

    Raises:
        FileNotFoundError: If the base's file is missing.
        ValueError: If the base does not fit in full, or a pattern matches
            nothing.

    Example:
        >>> frozen = dict(
        ...     type='mmflora.PEFTInternViT',
        ...     adapter=None,
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None,
        targets: Targets | None = None,
        exclude: str | Iterable[str] = (),
        lean: bool = False,
        allow_random_base: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        adapt_backbone(
            self,
            adapter,
            targets=targets,
            exclude=exclude,
            lean=lean,
            allow_random_base=allow_random_base,
        )


@MODELS.register_module()
class FLoRAInternViT(PEFTInternViT):
    """A frozen InternViT that learns through FLoRA's updates, ΔW = s A G Bᵀ.

    Args:
        *args: As for :class:`PEFTInternViT`, also ``**kwargs``.
        adapter: FLoRA's configuration; the default is the paper's for
            InternViT-6B, of rank 16 and scale 0.04.

    Example:
        >>> backbone = dict(
        ...     type='mmflora.FLoRAInternViT',
        ...     img_size=504,
        ...     adapter=dict(type='FLoRA', rank=16, scale=0.04),
        ...     dtype='bfloat16',
        ...     autocast='bfloat16',
        ...     with_cp=True,
        ...     init_cfg=dict(
        ...         type='Pretrained', checkpoint='intern_vit_6b_224px.pth'
        ...     ),
        ... )
    """

    def __init__(
        self,
        *args: Any,
        adapter: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if adapter is None:
            adapter = dict(type='FLoRA', rank=16, scale=0.04)
        super().__init__(*args, adapter=adapter, **kwargs)
