"""docs/any-config.md runs word for word."""

import sys
from pathlib import Path

import pytest
import torch
from walk_through import command_lines, read_page

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / 'docs/any-config.md'
RESNET = 'resnet18-f37072fd.pth'  # what torchvision calls its weights


@pytest.mark.slow
def test_the_page_runs(tmp_path, run_there):
    from torchvision.models import resnet18

    weights = tmp_path / 'cache/hub/checkpoints'
    weights.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), weights / RESNET)
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    printed = ''
    for block in read_page(PAGE):
        if block.marks:
            (tmp_path / block.marks[0]).write_text(block.text)
        elif block.language == 'python':
            printed += run_there(sys.executable, '-c', block.text)
        else:
            for line in command_lines(block.text):
                printed += run_there(*line.split())
    assert "'type': 'FLoRA'" in printed
    assert 'model.backbone.frozen_stages' in printed
    assert 'Evaluating bbox' in printed  # one epoch may find nothing
    assert 'largest difference of' in printed  # of the merged model
    for name in ('merged.pth', 'merged.py', 'my_run.py'):
        assert (tmp_path / name).is_file()


def test_the_page_covers_the_tools():
    text = ' '.join(block.text for block in read_page(PAGE))
    for tool in ('train', 'test', 'merge', 'count_params'):
        assert f'tools/{tool}.py ' in text


@pytest.fixture
def run_there(tmp_path):
    import os
    import subprocess

    def run(*words):
        words = [sys.executable if w == 'python' else w for w in words]
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env={
                **os.environ,
                'TORCH_HOME': str(tmp_path / 'cache'),
                'PYTHONPATH': str(ROOT),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    return run
