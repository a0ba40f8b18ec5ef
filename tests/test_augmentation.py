import numpy as np
import pytest
import torch
from conftest import random_images

from helpers.augmentation import ThreePointAffine, augment, compose, denormalise, normalise
from helpers.data import Split
from helpers.loaders import BatchOrder, make_loader
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES

MEAN = np.array([0.4914, 0.4822, 0.4465])
STD = np.array([0.2470, 0.2435, 0.2616])
FILL = (125, 123, 114)  # 255 * MEAN = 125.3, 122.96, 113.9
AUGMENTATION = RECIPES["custom_resnet"].augmentation

# An image whose pixels tell where they were: 3 * row, 3 * column, and a blue that no fill has.
ROWS, COLUMNS = np.mgrid[:32, :32]
MAP = np.stack([3 * ROWS, 3 * COLUMNS, np.zeros_like(ROWS)], axis=-1).astype(np.uint8)


# --- what is drawn


def test_cutout_of_the_paper_is_cut_off_where_its_centre_lies_at_the_border():
    pipeline = compose((("CutOut", {"size": 8, "fill": "mean", "p": 1.0}),), MEAN)
    spans = {0: [], 1: []}
    for image in augment(np.stack([MAP] * 4000), pipeline, 0):
        filled = (image == FILL).all(axis=-1)
        (top, left), (bottom, right) = np.argwhere(filled).min(axis=0), np.argwhere(filled).max(axis=0) + 1
        assert filled.sum() == (bottom - top) * (right - left)
        spans[0].append((top, bottom))
        spans[1].append((left, right))
    expected = [(max(0, centre - 4), min(32, centre + 4)) for centre in range(32)]  # DeVries & Taylor's own code
    for found in spans.values():
        counts = np.array([found.count(span) for span in expected])
        assert counts.sum() == 4000  # and chi-square of 31 degrees of freedom, within five standard deviations:
        assert ((counts - 125) ** 2 / 125).sum() < 31 + 5 * np.sqrt(2 * 31)


def test_cutout_takes_several_holes_and_a_chance():
    images = augment(np.stack([MAP + 1] * 2000), compose((("CutOut", {"size": 2, "holes": 3, "p": 0.5}),), MEAN), 0)
    areas = (images == 0).all(axis=-1).sum(axis=(1, 2))
    assert abs((areas > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / 2000)
    assert areas.max() == 3 * 4


def test_three_point_affine_that_moves_all_points_alike_shifts_the_image():
    shifted = ThreePointAffine(most=50).apply(MAP, moves=np.array([(3, -2)] * 3))
    padded = np.pad(MAP, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(shifted, padded[6:38, 1:33])


def test_three_point_affine_moves_each_point_by_its_own_draw():
    points, moves = np.array([[26, 26], [26, 6], [6, 6]]), np.array([[-4, 1], [2, 5], [3, 4]])
    for (x, y), (dx, dy) in zip(points, moves, strict=True):
        image = np.zeros((32, 32, 3), np.uint8)
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        moved = ThreePointAffine(most=50).apply(image, moves=moves)[..., 0]
        assert moved[y + dy, x + dx] == 255 and moved[:, 10].max() < 255


# --- augment


def test_augment_draws_the_same_for_the_same_seed_and_other_for_another():
    pipeline, images = compose(AUGMENTATION, MEAN), random_images(16)
    first = augment(images, pipeline, (1, 2, 3))
    np.testing.assert_array_equal(augment(images, pipeline, (1, 2, 3)), first)
    np.testing.assert_array_equal(augment(images, compose(AUGMENTATION, MEAN), (1, 2, 3)), first)
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1)):
        assert (augment(images, pipeline, other) != first).any(axis=(1, 2, 3)).all()


def test_augment_ignores_and_leaves_the_global_seeds():
    pipeline, images = compose(AUGMENTATION, MEAN), random_images(4)
    np.random.seed(0)
    first = augment(images, pipeline, 0)
    after = np.random.random()
    np.random.seed(0)
    assert np.random.random() == after
    np.testing.assert_array_equal(augment(images, pipeline, 0), first)


# --- mistakes in a recipe's list


@pytest.mark.parametrize(
    ("transform", "sentence"),
    [
        (("HorizontalFlop", {}), "albumentations has no transform 'HorizontalFlop'"),
        (("HorizontalFlip", {"probability": 0.2}), "HorizontalFlip .*'probability'"),
        (("CoarseDropout", {"fill": "median"}), "CoarseDropout .*fill"),
        (("Compose", {}), "Compose .*transforms"),
    ],
)
def test_mistake_is_refused_in_one_line_that_names_it(transform, sentence):
    with pytest.raises(CourseError, match=sentence) as error:
        compose((("HorizontalFlip", {"p": 0.5}), transform), MEAN)
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_builds_without_a_warning_and_in_order(recipe):
    built = [type(transform).__name__ for transform in compose(recipe.augmentation, MEAN)]
    assert built == [name for name, _ in recipe.augmentation]


# --- normalisation


def test_normalise_equals_numpys_formula_in_channels_last_memory():
    images = random_images(5)
    tensor = normalise(images, MEAN, STD)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (5, 3, 32, 32))
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = ((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(tensor.numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("std", [STD, np.ones(3), np.full(3, 0.01), np.array([1.0, 0.5, 1 / 255])])
def test_denormalise_returns_every_level_exactly(std):
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3)).copy()
    restored = denormalise(normalise(levels, MEAN, std), MEAN, std)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, levels)


def test_denormalise_keeps_what_is_out_of_range_in_range():
    tensor = torch.tensor([-100.0, 0.0, 100.0]).view(1, 3, 1, 1)
    np.testing.assert_array_equal(denormalise(tensor, MEAN, STD), [[[[0, 123, 255]]]])


# --- order and loader


def epoch(loader, number: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader.sampler.epoch = number
    return list(loader)


def same(a, b) -> bool:
    return len(a) == len(b) and all(all(map(torch.equal, x, y)) for x, y in zip(a, b, strict=True))


def numbered(count: int, *, alike: bool = False) -> Split:
    """Images whose labels are their places; `alike`: all show the same picture."""
    return Split(np.stack([MAP] * count) if alike else random_images(count), np.arange(count))


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(100, 32, [32, 32, 32, 4]), (64, 32, [32, 32])])
@pytest.mark.parametrize("seed", [None, 0])
def test_every_image_comes_once_an_epoch_and_the_last_batch_is_the_rest(count, batch_size, sizes, seed):
    loader = make_loader(numbered(count), MEAN, STD, batch_size, seed=seed)
    batches = epoch(loader)
    assert len(loader) == len(batches) == len(sizes)
    assert [len(labels) for _, labels in batches] == sizes
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == list(range(count))


def test_labels_stay_with_their_images():
    split = numbered(50)
    for images, labels in epoch(make_loader(split, MEAN, STD, 16, seed=0)):
        assert labels.dtype == torch.int64
        np.testing.assert_array_equal(denormalise(images, MEAN, STD), split.images[labels.numpy()])


def order(seed: int | None, number: int = 0) -> list[int]:
    sampler = BatchOrder(100, 32, seed)
    sampler.epoch = number
    return np.concatenate([indices for indices, _ in sampler]).tolist()


def test_with_a_seed_order_is_shuffled_by_seed_and_epoch():
    orders = [order(0), order(0, 1), order(1), order(1, 1)]
    assert order(0) == orders[0]
    for i, one in enumerate(orders):
        for other in [list(range(100)), *orders[:i]]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 10  # 1 expected by chance


@pytest.fixture
def loader():
    return make_loader(numbered(64, alike=True), MEAN, STD, 16, augmentation=AUGMENTATION, seed=0)


def test_epoch_repeats_nothing_of_itself_or_of_another(loader):
    """The pictures are all alike: what differs is how they are augmented."""
    drawn = [images.reshape(len(images), -1) for number in range(3) for images, _ in epoch(loader, number)]
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one == other).all(dim=1).sum() == 0


def test_two_workers_draw_in_any_order_what_none_draw_and_differ_from_each_other(loader):
    parallel = make_loader(numbered(64, alike=True), MEAN, STD, 16, augmentation=AUGMENTATION, seed=0, workers=2)
    first = [epoch(loader, number) for number in (0, 1, 2)]
    for number in (2, 0):  # as after a resume
        batches = epoch(parallel, number)
        assert same(batches, first[number])
        assert not torch.equal(batches[0][0], batches[1][0])  # the first of each worker
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
