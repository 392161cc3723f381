"""Merged models in stock OpenMMLab, without mmflora."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmflora.export import load_trained

from . import stock_inference
from .conftest import CONFIGS

SCRIPT = Path(stock_inference.__file__)


SLOW = pytest.mark.slow


@pytest.fixture(
    params=[
        pytest.param(name, marks=SLOW if name == 'mmrotate' else ())
        for name in CONFIGS
    ]
)
def toolkit(request):
    return request.param


@pytest.fixture
def trained(toolkit, trained_by_toolkit):
    return trained_by_toolkit[toolkit]


def run_stock(toolkit, config, checkpoint, picture, folder):
    """Run the script far from the project and from the config."""
    elsewhere = folder / 'elsewhere'
    elsewhere.mkdir()
    out = folder / 'predictions.pth'
    environment = {
        key: value for key, value in os.environ.items() if key != 'PYTHONPATH'
    }
    words = (SCRIPT, toolkit, config, checkpoint, picture, out)
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return torch.load(out, weights_only=False)


def test_predictions_are_those_of_the_adapted_model(
    toolkit, trained, picture, tmp_path
):
    cfg = trained.cfg()
    adapted, meta = load_trained(cfg, str(trained.checkpoint))
    adapted.cfg = cfg
    expected = stock_inference.predict(toolkit, adapted, str(picture))
    written = tmp_path / 'written'
    report = trained.merge(written / 'merged.pth', written / 'plain.py')
    assert [path.name for path in report.files] == [
        'merged.pth',
        'merged_backbone.py',
        'plain.py',
    ]
    moved = tmp_path / 'moved'
    shutil.move(written, moved)  # nothing names the folder it was made in

    told = run_stock(
        toolkit, moved / 'plain.py', moved / 'merged.pth', picture, tmp_path
    )

    result, stock = told['result'], told['stock']
    assert result['mmflora'] == []
    compare(expected, result['predictions'])
    assert not any('mmflora' in name for name in result['classes'])
    assert result['classes'] == stock['classes']
    assert result['flops'] == stock['flops'] > 0
    assert result['hooks'] == 0
    # MMDetection takes the palette of the config's data instead.
    assert result['meta']['classes'] == meta['dataset_meta']['classes']
    assert not any('adapter' in key for key in result['keys'])


def compare(expected, found):
    """Check that two models predict the same, and something at all."""
    assert expected.keys() == found.keys()
    for name, wanted in expected.items():
        assert wanted.shape == found[name].shape, name
        assert wanted.numel() > 0, name
        if wanted.dtype == torch.bool:
            # Where a mask's score is 0.5, rounding decides.
            assert (found[name] != wanted).float().mean() < 1e-3
            assert 0.01 < wanted.float().mean() < 0.99
            continue
        # Positions in pixels, logits and scores: some 1e-6 of their size.
        torch.testing.assert_close(
            found[name], wanted, rtol=1e-3, atol=1e-3, msg=name
        )
    if 'scores' in expected:
        assert len(expected['scores']) > 5
        assert expected['scores'].std() > 0.01
