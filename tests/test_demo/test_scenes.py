import dataclasses

import numpy as np
import pytest

from demo.shapes import CLASSES, DOMAINS, SEG_CLASSES, draw_scene
from demo.shapes.scenes import BACKGROUND, UNLABELLED
from demo.shapes.textures import TEXTURES

SIDE = 96


def area(polygon):
    x, y = np.asarray(polygon).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def perimeter(polygon):
    steps = polygon - np.roll(polygon, 1, axis=0)
    return np.linalg.norm(steps, axis=1).sum()


def scenes(name, count=24):
    return [
        draw_scene(
            np.random.default_rng(k), DOMAINS[name], SIDE, k % len(CLASSES)
        )
        for k in range(count)
    ]


def things(name):
    return [(scene, one) for scene in scenes(name) for one in scene.objects]


@pytest.mark.parametrize('name', DOMAINS)
def test_oriented_box_encloses_the_outline_tightly(name):
    for _, thing in things(name):
        origin, along, down = thing.corners[[0, 1, 3]]
        axes = np.stack([along - origin, down - origin])
        lengths = np.linalg.norm(axes, axis=1)
        # Two decimals of each corner turn a side of 10 pixels by 0.001.
        slack = 1e-3 * lengths.max() + 0.02
        assert abs(axes[0] @ axes[1]) <= slack * lengths.sum()
        inside = (thing.polygon - origin) @ (axes / lengths[:, None]).T
        np.testing.assert_allclose(inside.min(axis=0), 0, atol=slack)
        np.testing.assert_allclose(inside.max(axis=0), lengths, atol=slack)
        excess = area(thing.corners) - area(thing.polygon)
        assert excess >= -slack * lengths.sum()


@pytest.mark.parametrize('name', DOMAINS)
def test_objects_and_boxes_are_inside_and_apart(name):
    for scene in scenes(name):
        assert scene.objects
        for thing in scene.objects:
            assert thing.corners.min() >= 0
            assert thing.corners.max() <= SIDE
        labels = scene.label_map
        inner = (labels != BACKGROUND) & (labels != UNLABELLED)
        # Neighbors of different classes would meet without an edge.
        for axis in (0, 1):
            ahead = np.roll(labels, 1, axis)
            both = inner & np.roll(inner, 1, axis)
            assert (labels == ahead)[both].all()


@pytest.mark.parametrize('name', DOMAINS)
def test_label_map_agrees_with_the_outlines(name):
    for scene in scenes(name):
        labels = scene.label_map
        assert set(np.unique(labels)) <= set(range(len(SEG_CLASSES) + 1))
        for k in range(len(CLASSES)):
            outlines = [t.polygon for t in scene.objects if t.label == k]
            exact = sum(map(area, outlines))
            edge = sum(map(perimeter, outlines))
            # The pixels of an edge are left out, at most 1.5 per length.
            assert exact - 1.5 * edge <= (labels == k + 1).sum() <= exact
        edges = sum(perimeter(t.polygon) for t in scene.objects)
        assert 0 < (labels == UNLABELLED).sum() <= 2 * edges
        assert (labels == BACKGROUND).any()


def test_middle_of_an_object_has_the_ink_of_its_class():
    seen = set()
    for scene, thing in things('source'):
        x, y = thing.corners.mean(axis=0).astype(int)
        assert scene.label_map[y, x] == thing.label + 1
        color = tuple(scene.image[y, x].tolist())
        assert color == DOMAINS['source'].inks[thing.label]
        seen.add(color)
    assert len(seen) == len(CLASSES)


@pytest.mark.parametrize('name', DOMAINS)
def test_every_class_has_an_ink_of_its_own(name):
    assert len(set(DOMAINS[name].inks)) == len(CLASSES)


def test_first_class_is_always_there():
    for k, scene in enumerate(scenes('target', 12)):
        assert scene.objects[0].label == k % len(CLASSES)


def test_source_is_plain_and_upright():
    for scene in scenes('source'):
        ground = scene.image[scene.label_map == BACKGROUND]
        assert len(np.unique(ground, axis=0)) == 1
        for thing in scene.objects:
            assert thing.corners[0, 1] == thing.corners[1, 1]


def test_target_is_textured_and_tilted():
    angles, sizes = [], []
    for scene, thing in things('target'):
        ground = scene.image[scene.label_map == BACKGROUND].astype(float)
        assert ground.std(axis=0).min() > 5
        along, down = thing.corners[[1, 3]] - thing.corners[0]
        if CLASSES[thing.label] == 'bar':
            angles.append(np.degrees(np.arctan2(along[1], along[0])))
        sizes.append(np.sqrt(area(thing.corners)) / SIDE)
    assert np.ptp(angles) > 180
    low, high = DOMAINS['target'].size
    assert low * 0.98 <= min(sizes) < DOMAINS['source'].size[0]
    assert DOMAINS['source'].size[1] < max(sizes) <= high * 1.02


def test_palettes_do_not_overlap():
    source, target = DOMAINS['source'], DOMAINS['target']
    assert not set(source.inks) & set(target.inks)
    assert not set(source.grounds) & set(target.grounds)


def test_lightness_gives_an_object_away_in_the_source_only():
    gaps = {}
    for name, domain in DOMAINS.items():
        inks, grounds = (
            np.mean(colors, axis=1) for colors in (domain.inks, domain.grounds)
        )
        gaps[name] = np.abs(inks[:, None] - grounds)
    assert gaps['source'].min() > 90
    assert gaps['target'].max() < 8


def test_light_and_grain_are_grey():
    domain = dataclasses.replace(DOMAINS['target'], textured=False)
    scene = draw_scene(np.random.default_rng(0), domain, SIDE, 0)
    ground = scene.image[scene.label_map == BACKGROUND].astype(float)
    within = ground[((ground > 0) & (ground < 255)).all(axis=1)]
    assert within.std(axis=0).min() > domain.noise
    hue = within - within.mean(axis=1, keepdims=True)
    # Rounding is all that is left.
    assert hue.std(axis=0).max() < 0.5


def test_impossible_size_is_refused():
    domain = dataclasses.replace(DOMAINS['source'], size=(1.2, 1.3))
    with pytest.raises(RuntimeError, match="no place for a 'square'"):
        draw_scene(np.random.default_rng(0), domain, SIDE, 2)


@pytest.mark.parametrize('texture', TEXTURES)
@pytest.mark.parametrize('shape', [(64, 64), (9, 33)])
def test_textures_are_shares_that_vary(texture, shape):
    field = texture(np.random.default_rng(0), shape, 6.0)
    assert field.shape == shape
    assert 0 <= field.min() < 0.3
    assert 0.7 < field.max() <= 1
