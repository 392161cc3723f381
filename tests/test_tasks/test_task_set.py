"""Several tasks over one base: names, memory, merging."""

import pytest
import torch
from test_engine.toy import write_base

from mmflora.adapters import adapted_layers, disabled
from mmflora.checkpoint.record import base_records
from mmflora.tasks import TaskSet

from .conftest import outputs, storage_bytes


@pytest.fixture
def three(toy):
    """Three tasks: other ranks, heads, methods of the base's own weights."""
    models = dict(
        a=toy(1),
        b=toy(2, num_classes=5, adapter=dict(type='FLoRA', rank=2)),
        c=toy(3, targets=r'stages\..*'),
    )
    expected = {name: outputs(model) for name, model in models.items()}
    tasks = TaskSet()
    for name, model in models.items():
        tasks.add(name, model)
    return tasks, expected


def base_pointers(model):
    ((backbone, record),) = base_records(model).values()
    return [backbone.get_parameter(k).data_ptr() for k in record.base_keys]


def test_every_task_predicts_as_alone(three):
    tasks, expected = three
    assert tasks.names() == ['a', 'b', 'c']
    assert tasks.active == 'a'
    for name in ('b', 'a', 'c', 'b'):
        assert torch.equal(outputs(tasks.activate(name)), expected[name])
        assert tasks.active == name
        assert outputs(tasks.model).shape == expected[name].shape
    with tasks.using('c') as model:
        assert model is tasks['c'].model
    assert tasks.active == 'b'


def test_base_is_one_memory_and_a_task_adds_its_own_alone(three, toy):
    tasks, _ = three
    models = [tasks[name].model for name in tasks.names()]
    pointers = [base_pointers(model) for model in models]
    assert pointers[0] == pointers[1] == pointers[2]
    before = storage_bytes(*models)
    own = sum(tasks.own_bytes(name) for name in tasks.names())
    assert before == tasks.base.bytes() + own
    added = toy(4)
    alone = storage_bytes(added)
    tasks.add('d', added)
    after = storage_bytes(*models, added)
    assert after - before == tasks.own_bytes('d')
    assert after - before == alone - tasks.base.bytes()
    assert tasks.own_bytes('d') < 0.7 * alone


def test_a_switch_copies_and_changes_nothing(three):
    tasks, _ = three
    before = {
        name: {
            key: (value.data_ptr(), value._version)
            for key, value in tasks[name].model.state_dict().items()
        }
        for name in tasks.names()
    }
    for name in ('b', 'c', 'a'):
        tasks.activate(name)
    for name, state in before.items():
        for key, value in tasks[name].model.state_dict().items():
            assert state[key] == (value.data_ptr(), value._version)


def test_disabled_the_base_computes(three, toy):
    tasks, expected = three
    reference = tasks['a'].model
    model = tasks.disable()
    assert model is reference
    off = outputs(model)
    assert not torch.allclose(off, expected['a'])
    for layer in adapted_layers(model).values():
        assert not layer.adapter_enabled
    assert torch.equal(outputs(tasks['b'].model), expected['b'])
    assert torch.equal(outputs(tasks.activate('a')), expected['a'])


def test_using_a_task_leaves_its_adapters_as_they_are(three):
    tasks, expected = three
    off = outputs(tasks.disable())
    for name in ('a', 'b'):
        with tasks.using(name) as model:
            assert tasks.active == name
            assert torch.equal(
                outputs(model), off if name == 'a' else (expected[name])
            )
    assert torch.equal(outputs(tasks.model), off)
    with disabled(tasks['b'].model), tasks.using('b') as model:
        assert not torch.equal(outputs(model), expected['b'])
    assert torch.equal(outputs(tasks.activate('a')), expected['a'])


def test_merged_and_back(three):
    tasks, expected = three
    before = base_pointers(tasks['a'].model)
    frozen = {k: v.clone() for k, v in tasks.base.tensors.items()}
    tasks.merge('a')
    assert not adapted_layers(tasks['a'].model)
    torch.testing.assert_close(
        outputs(tasks['a'].model), expected['a'], rtol=1e-4, atol=1e-5
    )
    assert torch.equal(outputs(tasks['b'].model), expected['b'])
    for key, value in tasks.base.tensors.items():
        assert torch.equal(value, frozen[key]), key
    with pytest.raises(ValueError, match='is merged'):
        tasks.merge('a')
    with pytest.raises(ValueError, match=r"unmerge\('a'\)"):
        tasks.disable()
    tasks.unmerge('a')
    assert torch.equal(outputs(tasks['a'].model), expected['a'])
    assert base_pointers(tasks['a'].model) == before
    with pytest.raises(ValueError, match='is not merged'):
        tasks.unmerge('a')


def test_a_merged_task_that_is_activated_is_enabled_once_unmerged(three):
    tasks, expected = three
    tasks.activate('a')
    tasks.disable()
    tasks.merge('a')
    tasks.activate('a')
    tasks.unmerge('a')
    assert torch.equal(outputs(tasks.model), expected['a'])


def test_unloading(three):
    tasks, expected = three
    tasks.unload('a')
    assert tasks.active == 'b'
    assert tasks.names() == ['b', 'c']
    assert torch.equal(outputs(tasks['c'].model), expected['c'])
    tasks.unload('b')
    tasks.unload('c')
    assert tasks.base.bytes() == len(tasks) == 0
    with pytest.raises(ValueError, match='No task is loaded'):
        tasks.activate(tasks.active)


def test_names_are_checked(three, toy):
    tasks, _ = three
    for call in (tasks.activate, tasks.unload, tasks.merge, tasks.own_bytes):
        with pytest.raises(ValueError, match="no task 'x'; loaded are a, b"):
            call('x')
    with pytest.raises(ValueError, match="a task 'a' already"):
        tasks.add('a', toy(5))
    with pytest.raises(ValueError, match='no backbone with a frozen base'):
        tasks.add('e', torch.nn.Linear(2, 2))


def test_another_base_is_refused(three, toy, tmp_path):
    tasks, expected = three
    other = toy(7, checkpoint=write_base(tmp_path / 'other.pth', seed=1))
    before = outputs(other)
    with pytest.raises(ValueError, match='differs from the resident one'):
        tasks.add('other', other)
    assert torch.equal(outputs(other), before)
    assert tasks.names() == ['a', 'b', 'c']
    assert torch.equal(outputs(tasks['a'].model), expected['a'])
    alone = TaskSet()
    alone.add('other', other)
    assert torch.equal(outputs(alone.model), before)
