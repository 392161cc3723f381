"""Text encoders of the transformers library that stand in detectors.

MMDetection's ``BertModel`` holds a tokenizer and a model of transformers,
whose version 5 no longer takes the calls that MMDetection makes.
"""

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch


def support_text_detectors() -> None:
    """Let MMDetection's detectors with text encoders run on this stack."""
    _support_transformers_5()
    _encode_references_as_built()


def _support_transformers_5() -> None:
    """Let transformers 5 take the calls of MMDetection's text encoders.

    It removed ``batch_encode_plus`` of tokenizers, which calling them does
    as well, and masks of BERT by batch, query and key, which it still takes
    with a dimension for the heads.
    """
    transformers = _loaded()
    if transformers is None:
        return
    tokenizer = transformers.PreTrainedTokenizerBase
    if hasattr(tokenizer, 'batch_encode_plus'):
        return
    tokenizer.batch_encode_plus = tokenizer.__call__
    forward = transformers.BertModel.forward

    @functools.wraps(forward)
    def forward_with_any_mask(
        self: Any, *args: Any, attention_mask: Any = None, **kwargs: Any
    ) -> Any:
        if attention_mask is not None and attention_mask.dim() == 3:
            lowest = torch.finfo(self.dtype).min
            hidden = attention_mask[:, None].logical_not()
            attention_mask = hidden.to(self.dtype) * lowest
        return forward(self, *args, attention_mask=attention_mask, **kwargs)

    transformers.BertModel.forward = forward_with_any_mask


def _encode_references_as_built() -> None:
    """Let Grounding DINO's decoder encode references in its own width.

    In onedl-mmdetection 3.5.1 it inherits DINO's ``forward``, which encodes
    boxes in four times the width of a query; its ``ref_point_head``, as in all
    published weights, takes twice the width.
    """
    layers = 'mmdet.models.layers.transformer'
    own: Any = sys.modules.get(f'{layers}.grounding_dino_layers')
    dino: Any = sys.modules.get(f'{layers}.dino_layers')
    if own is None or 'forward' in vars(own.GroundingDinoTransformerDecoder):
        return
    forward = own.GroundingDinoTransformerDecoder.forward
    encode = dino.coordinate_to_encoding

    @functools.wraps(forward)
    def forward_as_built(self: Any, *args: Any, **kwargs: Any) -> Any:
        width = self.ref_point_head.layers[0].in_features // 4

        def encode_as_built(points: Any, **_: Any) -> Any:
            return encode(points, num_feats=width)

        with patch.object(dino, 'coordinate_to_encoding', encode_as_built):
            return forward(self, *args, **kwargs)

    own.GroundingDinoTransformerDecoder.forward = forward_as_built


@contextmanager
def text_models_without_weights() -> Iterator[None]:
    """Let ``from_pretrained`` of models build them without their weights.

    On the meta device there is nothing to load into, and transformers
    refuses to be called there.  Its configurations and tokenizers are read.
    """
    transformers = _loaded()
    if transformers is None:
        yield
        return

    def build(
        cls: Any, name: str, *, config: Any = None, **options: Any
    ) -> Any:
        config = config or cls.config_class.from_pretrained(name)
        return cls(config, **options)

    model = transformers.PreTrainedModel
    with patch.object(model, 'from_pretrained', classmethod(build)):
        yield


def _loaded() -> Any:
    """Return transformers if MMDetection has loaded its text models."""
    if 'mmdet.models.language_models' not in sys.modules:
        return None
    return sys.modules.get('transformers')
