"""Adapters of the bridge over another base, and in another process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_peft_cases import (
    TYPES,
    adapt,
    adapter_keys,
    adapters,
    images,
    net,
    trained,
)

from mmflora.adapters import adapted_layers


@pytest.mark.parametrize(
    ('peft_type', 'follows'),
    [
        ('LORA', False),
        ('VERA', False),
        ('DELORA', True),
        ('LN_TUNING', True),
        ('OSF', True),
        ('PSOFT', True),
        ('TINYLORA', True),
    ],
)
def test_start_follows_another_base(peft_type, follows):
    model = net(peft_type)
    adapt(model, peft_type)
    assert {a.follows for a in adapters(model).values()} == {follows}
    other = net(peft_type, seed=11).eval()
    model.eval().load_state_dict(other.state_dict(), strict=False)
    for layer in adapted_layers(model).values():
        layer.adapter.follow(layer)
    inputs = images(model)
    bound = 1e-5 if peft_type == 'PSOFT' else 1e-10
    torch.testing.assert_close(
        model(inputs), other(inputs), rtol=bound, atol=bound
    )
    if peft_type == 'OSF':
        fresh = net(peft_type, seed=11)
        adapt(fresh, peft_type)
        for key, value in fresh.state_dict().items():
            assert torch.equal(model.state_dict()[key], value), key


def test_dora_follows_and_frod_cannot():
    model = net()
    adapt(model, 'LORA', use_dora=True)
    assert {a.follows for a in adapters(model).values()} == {True}
    model = net()
    adapt(model, 'FROD')
    with pytest.raises(ValueError, match='FROD takes all frozen weights'):
        model.head.adapter.follow(model.head)


SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
import torch
from hf_peft_cases import adapt, images, net
stored = torch.load(sys.argv[2])
for peft_type, (state, expected) in stored.items():
    model = net(peft_type)
    torch.manual_seed(1234)
    adapt(model, peft_type)
    result = model.load_state_dict(state, strict=False)
    assert not result.unexpected_keys, result
    assert not any('.adapter.' in key for key in result.missing_keys), result
    assert torch.equal(model.eval()(images(model)), expected), peft_type
"""


@pytest.mark.slow
def test_adapter_files_are_read_by_another_process(tmp_path):
    """Adapters alone, over the same base, with other random numbers."""
    stored = {}
    for peft_type in TYPES:
        model, inputs = trained(peft_type)
        state = {key: model.state_dict()[key] for key in adapter_keys(model)}
        stored[peft_type] = (state, model(inputs).detach())
    torch.save(stored, tmp_path / 'adapters.pth')
    subprocess.run(
        [
            sys.executable,
            '-c',
            SCRIPT,
            str(Path(__file__).parent),
            str(tmp_path / 'adapters.pth'),
        ],
        check=True,
    )
