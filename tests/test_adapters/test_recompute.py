"""Recipes: when they hold, what they keep alive, and when they do not hold."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from mmflora.adapters import inject, make_lean
from mmflora.adapters.memory import recompute
from mmflora.adapters.memory.recompute import leave_recipe, recipe_of


@pytest.fixture
def built(monkeypatch):
    """Note every activation that is rebuilt, without holding it."""
    values = []
    call = recompute.Rebuild.__call__

    def spy(self, leaves):
        known = self._value is not None
        value = call(self, leaves)
        if not known:
            values.append(weakref.ref(value))
        return value

    monkeypatch.setattr(recompute.Rebuild, '__call__', spy)
    return values


def alive(references):
    gc.collect()
    return sum(reference() is not None for reference in references)


class Net(nn.Module):
    """One norm with three users, and a chain of two recipes."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.act = nn.GELU()
        self.norm2 = nn.LayerNorm(6)
        self.out = nn.Linear(6, 6)

    def forward(self, x):
        y = self.norm(x)
        z = self.q(y) * self.k(y) + self.v(y)
        return self.out(self.norm2(self.act(z)))


@pytest.fixture
def net(randomise):
    model = Net().double()
    inject(model, dict(type='FLoRA', rank=2, scale=0.1), lean=True)
    randomise(model)
    return model


def draw():
    return torch.randn(4, 6, dtype=torch.float64)


def trained(model):
    return [value for value in model.parameters() if value.requires_grad]


def test_shared_activations_are_rebuilt_once_and_dropped(net, built):
    for inputs in (draw(), draw().requires_grad_()):
        built.clear()
        output = net(inputs)
        loss = output.square().sum()
        assert built == []
        loss.backward(retain_graph=True)
        # The first norm, the GELU and the norm upon it.
        assert len(built) == 3
        assert alive(built) == 0
        loss.backward()
        assert len(built) == 6
        assert alive(built) == 0


def test_what_only_a_part_of_the_users_asked_for_ends_with_the_graph(
    net, built
):
    y = net.norm(draw().requires_grad_())
    used, unused = net.q(y).sum(), net.k(y).sum()
    used.backward()
    assert len(built) == 1
    del used, unused, y
    assert alive(built) == 0


def test_graph_is_gone_with_its_output(net):
    inputs = draw().requires_grad_()
    y = net.norm(inputs * 1)
    references = [weakref.ref(leaf) for leaf in recipe_of(y).leaves]
    references.append(weakref.ref(y))
    output = net.q(y)
    del y
    assert output.requires_grad
    del output
    assert alive(references) == 0


def gradients(model, run, inputs):
    output = run(model, inputs)
    torch.manual_seed(1)
    upstream = torch.randn_like(output)
    return torch.autograd.grad(output, trained(model)[:3], upstream)


def changed_output(model, x):
    y = model.norm(x)
    y.add_(1)
    return model.q(y)


def changed_input(model, x):
    x = x.clone()
    y = model.norm(x)
    x.add_(1)
    return model.q(y)


def changed_view(model, x):
    y = model.norm(x)
    y[0].add_(1)
    return model.q(y)


def changed_before_the_view(model, x):
    y = model.norm(x)
    view = y.flip(0).T.T
    y.mul_(2)
    return model.q(y.view(2, 2, 6)).flatten(0, 1) + 0 * view


CHANGES = (
    changed_output,
    changed_input,
    changed_view,
    changed_before_the_view,
)


@pytest.mark.parametrize('change', CHANGES)
def test_a_stale_recipe_is_not_used(net, change):
    plain = copy.deepcopy(net)
    plain.norm = nn.LayerNorm(6).double().requires_grad_(False)
    plain.norm.load_state_dict(net.norm.state_dict())
    inputs = draw()
    for found, wanted in zip(
        gradients(net, change, inputs),
        gradients(plain, change, inputs),
        strict=True,
    ):
        assert wanted.any()
        assert torch.equal(found, wanted)


def test_a_leaf_that_changes_before_the_backward_pass_is_an_error(net):
    x = draw()
    output = net.q(net.norm(x))
    x.add_(1)
    with pytest.raises(RuntimeError, match='inplace operation'):
        output.sum().backward()


VIEWS = {
    'transpose': lambda y: y.T.T,
    'reshape': lambda y: y.view(2, 2, 6),
    'slice': lambda y: y[1:3],
    'view of a view': lambda y: y.view(2, 2, 6).transpose(0, 1)[1],
    'expand': lambda y: y.expand(3, 4, 6),
    'columns': lambda y: y.T[:, :3].T,
}


@pytest.mark.parametrize('view', VIEWS.values(), ids=VIEWS)
def test_views_follow_their_base(net, view, built):
    plain = copy.deepcopy(net)
    plain.norm = nn.LayerNorm(6).double().requires_grad_(False)
    plain.norm.load_state_dict(net.norm.state_dict())
    inputs = draw().requires_grad_()

    def run(model, x):
        return model.q(view(model.norm(x)))

    found = gradients(net, run, inputs)
    assert built
    for ours, theirs in zip(found, gradients(plain, run, inputs), strict=True):
        assert torch.equal(ours, theirs)


def test_no_recipe_without_gradients():
    norm = nn.LayerNorm(6)
    make_lean(norm)
    for scope in (torch.no_grad, torch.inference_mode):
        with scope():
            assert recipe_of(norm(torch.randn(4, 6))) is None
    with torch.inference_mode():
        inputs = torch.randn(4, 6)
    assert recipe_of(norm.requires_grad_(False)(inputs)) is None


def test_inplace_activations_leave_no_recipe():
    model = nn.Sequential(nn.SiLU(inplace=True), nn.Linear(4, 4))
    inject(model, dict(type='FLoRA', rank=2), lean=True)
    inputs = torch.randn(2, 4, requires_grad=True)
    assert recipe_of(model[0](inputs * 1)) is None


def test_leaves_are_those_of_the_whole_chain():
    x = torch.randn(3)
    y = x.exp()
    leave_recipe(y, torch.exp, [x])
    z = x * y
    leave_recipe(z, torch.mul, [x, y])
    recipe = recipe_of(z)
    assert [id(leaf) for leaf in recipe.leaves] == [id(x)] * 2
    recipe.rebuild.retain()
    assert torch.equal(recipe.rebuild(recipe.leaves), z)


def test_rebuilding_happens_under_the_autocast_of_the_first_time(
    net, monkeypatch
):
    seen = []
    forward = nn.GELU.forward

    def spy(self, inputs):
        enabled = torch.is_autocast_enabled('cpu')
        seen.append((enabled, torch.get_autocast_dtype('cpu')))
        return forward(self, inputs)

    monkeypatch.setattr(nn.GELU, 'forward', spy)
    with torch.autocast('cpu', torch.float16):
        output = net.float()(draw().float())
    output.float().sum().backward()
    assert seen == [(True, torch.float16)] * 2
