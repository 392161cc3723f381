"""Starts from the training data, through the runner."""

import copy

import pytest
import torch
from mmengine.registry import MODEL_WRAPPERS

from mmflora.adapters import LoRA, adapted_modules
from mmflora.adapters.calibrated import CalibratedAdapter
from mmflora.engine import CalibrationHook
from mmflora.engine.first_batches import first_batches, undisturbed
from mmflora.registry import ADAPTERS

from .test_method_training import check_test, losses
from .toy import AugmentedData, ToyModel, backbone_cfg, runner, write_base

METHODS = {
    'CorDA': dict(type='CorDA', rank=2),
    'LoRASB': dict(type='LoRASB', rank=4, step=1e-3),
    'FLoRA': dict(type='FLoRA', rank=4, start='gradient'),
    'SPT': dict(type='SPT', rank=1, density=0.2),
    'GPS': dict(type='GPS', per_neuron=1),
    'EVA': dict(type='EVA', rank=4),
    'LoRAGA': dict(type='LoRAGA', rank=2),
    'SCT': dict(type='SCT', salient=8, scale=1.0),
}
# LoRA-SB begins behind a step on the very batches that come first; few entries
# of weights as small as these, or a matrix on a few channels that starts at
# zero, move the loss less than the order of the batches.
UNSTEADY = ('LoRASB', 'SPT', 'GPS', 'SCT')
# They may leave a layer to its frozen weight.
SOME_LAYERS = ('SPT', 'EVA')
HOOKS = [
    dict(type='mmflora.AdapterGradientHook'),
    dict(type='mmflora.IterationSeedHook'),
    dict(type='mmflora.CalibrationHook'),
]


class AskingLoRA(CalibratedAdapter, LoRA):
    """LoRA that asks for a statistic, and makes nothing of it."""

    def __init__(self, weight, rank=4):
        super().__init__(weight, rank)
        self.ask_for('gradient', weight)

    def start_from(self, layer, statistic):
        assert statistic.any()


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / 'base.pth')


def config(base, adapter, batches=2):
    peft = dict(adapter=adapter)
    if batches:
        peft['calibration'] = dict(batches=batches)
    settings = backbone_cfg(base)
    settings.pop('adapter')
    return dict(settings, type='mmflora.PEFTConvNeXt', peft=peft)


def test_a_start_over_a_random_base_is_kept(tmp_path):
    """The base is drawn before the data is seen, and settled after it."""
    settings = config(None, METHODS['CorDA'])
    settings['peft']['allow_random_base'] = True
    built = runner(tmp_path, settings, epochs=1, custom_hooks=HOOKS)
    built.train()
    for layer in adapted_modules(built.model).values():
        assert layer.adapter.start_up.any()


@pytest.mark.parametrize('method', METHODS)
def test_trains_saves_resumes_and_tests(method, base, tmp_path, capsys):
    settings = config(base, METHODS[method])
    options = dict(param_scheduler=[], custom_hooks=HOOKS)
    whole = runner(tmp_path / 'whole', settings, epochs=4, **options)
    whole.train()
    assert '2/2' in capsys.readouterr().out, 'the bar of progress'
    seen = losses(tmp_path / 'whole')
    assert method in UNSTEADY or sum(seen[-3:]) < sum(seen[:3])
    for layer in adapted_modules(whole.model).values():
        assert bool(layer.adapter.calibrated)
        if method == 'SCT':
            assert layer.adapter.weight.any()
        else:
            assert layer.delta_weight().any() or method in SOME_LAYERS

    half = str(tmp_path / 'whole/epoch_2.pth')
    again = runner(
        tmp_path / 'again',
        settings,
        epochs=4,
        load_from=half,
        resume=True,
        **options,
    )
    again.train()
    assert '2/2' not in capsys.readouterr().out
    ends = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    check_test(tmp_path, settings, whole)


@pytest.mark.parametrize('augmented', [False, True])
def test_the_training_itself_is_undisturbed(
    base, tmp_path, augmented, monkeypatch
):
    """LoRA trains the same, whether or not it is calibrated before."""
    known = dict(ADAPTERS.module_dict, AskingLoRA=AskingLoRA)
    monkeypatch.setattr(ADAPTERS, '_module_dict', known)
    found = []
    for name in ('AskingLoRA', 'LoRA'):
        adapter = dict(type=name, rank=4)
        work = tmp_path / name
        run = runner(
            work,
            config(base, adapter, 3 if name == 'AskingLoRA' else 0),
            custom_hooks=HOOKS,
        )
        if augmented:
            run._train_dataloader['dataset'] = AugmentedData()
        run.train()
        found.append((losses(work), run.model.state_dict()))
    (ours, state), (theirs, expected) = found
    assert ours == theirs
    for key, value in expected.items():
        if 'base_record' not in key:
            assert torch.equal(state[key], value), key


@pytest.mark.parametrize('batches', [1, 3])
def test_the_batches_are_those_of_the_training(base, tmp_path, batches):
    seen, found = [], []

    class Watched(ToyModel):
        def forward(self, inputs, labels=None, mode='tensor'):
            seen.append((inputs.clone(), labels.clone()))
            outputs = super().forward(inputs, labels, mode)
            found.append(float(outputs['loss'].detach()))
            return outputs

    settings = config(base, METHODS['LoRASB'], batches)
    run = runner(tmp_path, None, model=Watched(settings), custom_hooks=HOOKS)
    run.train()
    assert len(seen) == batches + 6
    for number in range(batches):
        assert all(map(torch.equal, seen[number], seen[batches + number]))
    # The same batch, with the same dropout, behind the step it asked for.
    assert batches > 1 or found[1] < found[0]


def test_more_batches_than_there_are_is_an_error(base, tmp_path):
    run = runner(
        tmp_path, config(base, METHODS['CorDA'], 4), custom_hooks=HOOKS
    )
    with pytest.raises(ValueError, match='4 batches.*has 3 for each'):
        run.train()


def test_without_the_hook_the_training_stops(base, tmp_path):
    run = runner(
        tmp_path, config(base, METHODS['CorDA']), custom_hooks=HOOKS[:2]
    )
    with pytest.raises(RuntimeError, match='mmflora.CalibrationHook'):
        run.train()


def test_a_config_without_the_setting_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match='calibration=dict'):
        runner(tmp_path, config(base, METHODS['CorDA'], 0))
    with pytest.raises(ValueError, match='no adapter of'):
        runner(tmp_path, config(base, dict(type='LoRA'), 2))


def test_wrappers_that_spread_the_model_are_refused(
    base, tmp_path, monkeypatch
):
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    known = dict(MODEL_WRAPPERS.module_dict, Wrapper=Wrapper)
    monkeypatch.setattr(MODEL_WRAPPERS, '_module_dict', known)
    run = runner(tmp_path, config(base, METHODS['CorDA']), custom_hooks=HOOKS)
    run.model = Wrapper(run.model)
    with pytest.raises(ValueError, match='Wrapper spreads it'):
        CalibrationHook().before_train(run)


def test_a_built_loader_keeps_its_samplers(base, tmp_path):
    settings = config(base, METHODS['CorDA'])
    run = runner(tmp_path / 'one', settings, custom_hooks=HOOKS)
    loader = run.train_dataloader
    expected = first_batches(run, 2)
    run._train_dataloader = loader
    before = copy.deepcopy(vars(loader.batch_sampler))
    found = first_batches(run, 2)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours['inputs'], theirs['inputs'])
    assert before.keys() == vars(loader.batch_sampler).keys()


def test_undisturbed_restores_statistics_and_generators(base):
    model = ToyModel(config(base, METHODS['CorDA'])).train()
    start = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    with undisturbed(model):
        torch.randn(3)
        model.neck(torch.randn(2, 32, 4, 4))
        model.backbone.stem[0].adapter.calibrated.fill_(1)
    assert torch.equal(torch.get_rng_state(), state)
    changed = [
        key
        for key, value in model.state_dict().items()
        if not torch.equal(value, start[key])
    ]
    assert changed == ['backbone.stem.0.adapter.calibrated']
