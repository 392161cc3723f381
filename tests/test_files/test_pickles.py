"""Stock MMEngine's checkpoints are read; nothing else is."""

import io
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmflora.files.training_checkpoints import load_checkpoint


def test_stock_files_of_mmengine_are_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    checkpoint = dict(
        meta=dict(value=np.float64(0.5), palette=np.ones((2, 3), np.int64)),
        message_hub=dict(log_scalars=dict(loss=buffer)),
        state_dict=dict(a=torch.ones(2)),
    )
    path = tmp_path / 'epoch_1.pth'
    torch.save(checkpoint, path)
    assert torch.serialization.get_unsafe_globals_in_checkpoint(path)
    read = load_checkpoint(path)
    assert read['meta']['value'] == 0.5
    assert read['meta']['palette'].tolist() == [[1] * 3] * 2
    loss = read['message_hub']['log_scalars']['loss']
    assert loss.current() == 2.0
    assert torch.equal(read['state_dict']['a'], torch.ones(2))


class GetAttribute:
    """Reaches for something through getattr, as gadgets do."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return getattr, self.arguments


@pytest.mark.parametrize(
    'arguments',
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, '__subclasses__'),
        (torch.Tensor, 'min'),
        (np.ndarray, 'tofile'),
    ],
    ids=str,
)
def test_getattr_reaches_nothing_else(tmp_path, arguments):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict={}, x=GetAttribute(*arguments)), path)
    with pytest.raises(ValueError, match='could run code'):
        load_checkpoint(path)


def test_a_pickle_is_no_checkpoint(tmp_path):
    content = io.BytesIO()
    pickle.dump(dict(state_dict={}), content)
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match='epoch_1'):
        load_checkpoint(path)
