"""Evolution of architectures: within the budget, repeated, near the best."""

import itertools

import pytest

from mmflora.search.evolution import Evolution, evolve
from mmflora.search.space import SearchedLayer, Space


def layer(name, ranks=(0, 1, 2, 4), cost=10, part='backbone'):
    counts = tuple(rank * cost for rank in ranks)
    return SearchedLayer(f'{part}.{name}', 'DyLoRA', part, ranks, counts)


def space(layers=5, **options):
    return Space(
        [layer(str(i), cost=10 + i, **options) for i in range(layers)]
    )


def gain(architecture):
    """A score that later layers add more to, with a falling return."""
    pairs = enumerate(architecture, 1)
    return sum(place * rank**0.5 for place, rank in pairs)


def search(one, budget, score=gain, **options):
    seen = []

    def evaluate(architecture, generation):
        assert one.parameters(architecture) <= budget
        seen.append((generation, architecture))
        return score(architecture)

    best, scores = evolve(one, budget, Evolution(**options), evaluate)
    assert [x for _, x in seen] == list(scores)  # none twice
    assert best == max(scores, key=lambda x: (scores[x], -one.parameters(x)))
    return best, seen


def test_it_comes_near_the_best_of_all():
    one, budget = space(), 120
    best, seen = search(one, budget, population=20, generations=8)
    every = [
        x
        for x in itertools.product(*(own.ranks for own in one.layers))
        if one.parameters(x) <= budget
    ]
    assert len(seen) == 160 < len(every)
    ahead = sum(gain(x) > gain(best) for x in every)
    # Of as many random draws the best is among the first per cent.
    assert ahead <= len(every) / 100
    first = max(gain(x) for number, x in seen if number == 0)
    assert gain(best) > first


def test_a_seed_repeats_the_search():
    runs = [
        search(space(), 100, population=6, generations=4, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1]
    assert runs[0][1] != runs[2][1]


def test_a_small_space_is_searched_as_a_whole():
    one = space(2, ranks=(0, 1))
    best, seen = search(one, 1000, population=10, generations=5)
    # Without the one that has no adapter at all.
    assert {x for _, x in seen} == {(0, 1), (1, 0), (1, 1)}
    assert best == (1, 1)


def test_equal_scores_go_to_fewer_parameters():
    one = space(2, ranks=(0, 1, 2))
    best, _ = search(one, 1000, score=lambda _: 0.5, population=30)
    assert best == one.smallest() == (1, 0)


def test_each_part_keeps_an_adapter():
    layers = [layer('0'), layer('1', cost=11)]
    layers.append(layer('0', part='neck', cost=3))
    one = Space([*layers, layer('1', part='neck', cost=4)])
    assert one.smallest() == (1, 0, 1, 0)
    assert one.parameters(one.smallest()) == 13
    _, seen = search(one, 13, population=4)
    assert [x for _, x in seen] == [one.smallest()]
    _, seen = search(one, 60, population=20, generations=3)
    assert all(any(x[:2]) and any(x[2:]) for _, x in seen)


def test_ranks_that_begin_above_zero():
    one = space(2, ranks=(2, 4))
    assert one.smallest() == (2, 2)
    with pytest.raises(ValueError, match='smallest architecture takes 42 par'):
        search(one, 41)
    assert search(one, 42)[0] == (2, 2)


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (dict(population=0), '`population` is an integer of at least 1'),
        (dict(generations=0), '`generations`'),
        (dict(parents=0), '`parents`'),
        (dict(mutation=1.5), 'mutation is a probability'),
        (dict(seed=-1), '`seed` is at least 0'),
    ],
)
def test_refusals(options, part):
    with pytest.raises(ValueError, match=part):
        Evolution(**options)
