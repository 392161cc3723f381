"""Detectors with a text encoder are built and run, without a network."""

import pytest
import torch
from mmengine.config import Config
from transformers import BertConfig, BertModel, BertTokenizerFast

from mmflora.config.build import build_model

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', '.', 'cat', 'dog']


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
    """Write a small BERT in Hugging Face's layout; return its folder."""
    folder = tmp_path_factory.mktemp('bert')
    (folder / 'vocab.txt').write_text('\n'.join(WORDS))
    BertTokenizerFast(str(folder / 'vocab.txt')).save_pretrained(folder)
    settings = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
    )
    BertModel(settings).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def cfg(bert):
    text = dict(
        type='BertModel',
        name=bert,
        max_tokens=8,
        use_sub_sentence_represent=True,
        special_tokens_list=['[CLS]', '[SEP]', '.'],
    )
    return Config(dict(default_scope='mmdet', model=dict(language_model=text)))


def test_text_encoders_run(cfg):
    model = build_model(cfg, 'model.language_model').eval()
    features = model(['cat . dog .', 'dog . dog .'])['embedded']
    assert features.shape == (2, 8, 16)
    # A phrase sees itself alone: the second one of both is the same word.
    torch.testing.assert_close(features[0, 3], features[1, 3])
    assert not torch.allclose(features[0, 1], features[1, 1])
    # The padding sees nothing but itself.
    assert torch.isfinite(features).all()


def test_text_encoders_are_built_on_the_meta_device(cfg):
    model = build_model(cfg, 'model.language_model', device='meta')
    assert all(parameter.is_meta for parameter in model.parameters())
    real = build_model(cfg, 'model.language_model')
    assert model.state_dict().keys() == real.state_dict().keys()
