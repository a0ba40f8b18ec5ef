"""Galleries: the right images in the right order, the same ones everywhere, and pictures that show them."""

import dataclasses
import itertools
import json

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("agg")
from helpers import cli, gradcam
from helpers.assignment.checklist import gallery_checklist
from helpers.augmentation import normalise
from helpers.data import load_data
from helpers.figures import galleries
from helpers.plumbing.errors import CourseError
from helpers.predictions import KINDS, Selection, confused_pairs, predict_test, select
from helpers.recipes import RECIPES, as_dict, changed, get_recipe, with_epochs
from helpers.runs import load_model
from helpers.training import train

pytestmark = pytest.mark.usefixtures("closed_figures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run on synthetic pictures, its network, its data."""
    data = load_data("synthetic", limit=60)
    recipe = with_epochs(get_recipe("custom_resnet", fast=True), 1)
    recipe = changed(recipe, {"width": 8, "batch_size": 16, "peak_epoch": 0.5})
    run = train(recipe, data, tmp_path_factory.mktemp("runs"), report=lambda line: None)
    return run, load_model(run), data


@pytest.fixture(scope="module")
def predictions(trained):
    run, model, data = trained
    return predict_test(run, model, data)


def made_up():
    """Eight predictions: images 1, 3, 4, 6 and 7 are wrong."""
    return Selection(
        indices=np.arange(8),
        actual=np.array([0, 0, 1, 1, 1, 2, 2, 0]),
        predicted=np.array([0, 1, 1, 0, 2, 2, 0, 1]),
        confidence=np.array([0.9, 0.5, 0.8, 0.5, 0.9, 0.7, 0.6, 0.95]),
        kind="",
        available=8,
    )


def test_misclassified_are_those_a_direct_prediction_gets_wrong(trained, predictions):
    run, model, data = trained
    with torch.no_grad():
        logits = model(normalise(data.test.images, data.mean, data.std))
    wrong = np.flatnonzero(logits.argmax(dim=1).numpy() != data.test.labels)
    chosen = select(predictions, correct=False, count=100, order="first")
    # In bfloat16 two nearly equal logits may change places.
    assert len(np.setxor1d(chosen.indices, wrong)) <= 1
    assert abs(100 * np.mean(predictions.actual == predictions.predicted) - run.summary["reported"]["test_acc"]) < 1e-9
    np.testing.assert_array_equal(predictions.actual, data.test.labels)


@pytest.mark.parametrize(
    ("order", "correct", "expected"),
    [
        ("first", False, [1, 3, 4, 6, 7]),
        ("first", True, [0, 2, 5]),
        ("confident", False, [7, 4, 6, 1, 3]),  # 1 and 3 are equally confident: the test set's order
        ("confident", True, [0, 2, 5]),
        ("per-class", False, [7, 4, 6, 1, 3]),  # the best of classes 0, 1, 2, then the seconds of 0 and 1
    ],
)
def test_orders_by_hand(order, correct, expected):
    chosen = select(made_up(), correct=correct, count=5, order=order)
    assert chosen.indices.tolist() == expected
    assert select(made_up(), correct=correct, count=2, order=order).indices.tolist() == expected[:2]
    np.testing.assert_array_equal(chosen.confidence, made_up().confidence[expected])


def test_orders_by_default_and_bad_counts():
    assert select(made_up(), correct=True, count=1).order == "per-class"
    assert select(made_up(), correct=False, count=1).order == "confident"
    for count in (0, 2.5):
        with pytest.raises(CourseError, match="from 1 to 100"):
            select(made_up(), correct=False, count=count)


def test_title_says_how_many_of_how_many():
    wrong = select(made_up(), correct=False, count=3)
    assert wrong.title == "3 of 5 misclassified test images, the most confident first"
    assert wrong[:1].title.startswith("1 of 5 misclassified")
    assert select(made_up(), correct=False, count=20).title.startswith("All 5 misclassified")


def test_confused_pairs_are_counted():
    assert confused_pairs(made_up(), 2) == [(0, 1, 2), (1, 0, 1)]


def panels(figure):
    return [ax for ax in figure.axes if ax.images]


def test_gallery_and_heatmaps_show_the_same_images(trained, predictions):
    run, model, data = trained
    wrong = select(predictions, correct=False, count=7)
    shown = panels(galleries.plot_gallery(run, data, wrong))
    explained = panels(galleries.plot_gradcam(run, data, model, wrong))
    assert len(shown) == 7 and len(explained) == 3 * 7
    names = data.classes
    for k, index in enumerate(wrong.indices):
        for ax in (shown[k], explained[3 * k]):
            np.testing.assert_array_equal(ax.images[0].get_array(), data.test.images[index])
            assert ax.images[0].get_interpolation() == "nearest"
        actual, predicted = names[data.test.labels[index]], names[wrong.predicted[k]]
        confidence = f"{100 * wrong.confidence[k]:.1f} %"
        assert " ".join(shown[k].get_title().split()) == f"{actual} / {predicted} {confidence}"
        titles = [explained[3 * k + panel].get_title() for panel in range(3)]
        labelled = ["confidence\n", "for predicted\n", "for actual\n"] if k < 2 else ["", "", ""]  # the first row
        assert titles == [above + text for above, text in zip(labelled, (confidence, predicted, actual), strict=True)]
    heat = gradcam.heatmaps(model, normalise(data.test.images[wrong.indices], data.mean, data.std), wrong.actual)
    np.testing.assert_allclose(explained[-1].images[1].get_array(), heat[-1], atol=1e-6)


def test_confused_pairs_show_the_most_confident_of_their_images(trained):
    run, _, data = trained
    shown = panels(galleries.plot_confused_pairs(run, data, made_up(), pairs=1))
    assert len(shown) == 2  # actual 0, predicted 1: images 7 and 1
    for ax, index in zip(shown, (7, 1), strict=True):
        np.testing.assert_array_equal(ax.images[0].get_array(), data.test.images[index])


def test_every_file_shows_what_its_name_says(trained, predictions):
    run, model, data = trained
    figures, made = galleries.make_gallery(run, data, model, count=5)
    selections = {file: [part for part in draw.args if isinstance(part, Selection)] for file, draw in figures.items()}
    shown = {file: selection.indices.tolist() for file, [selection] in selections.items()}
    for kind, explained in (("correct", "gradcam_correct"), ("misclassified", "gradcam")):
        plot, heat = figures[f"{kind}.png"], figures[f"{explained}.png"]
        assert (plot.func, heat.func) == (galleries.plot_gallery, galleries.plot_gradcam)
        assert made[kind] == made[explained] == shown[f"{kind}.png"] == shown[f"{explained}.png"]
        assert heat.args[-1] == made["layer"]
    assert shown["gradcam_layers.png"] == made["misclassified"][:4]
    right = predictions.actual == predictions.predicted
    assert right[made["correct"]].all() and not right[made["misclassified"]].any()


def test_pictures_of_nothing_are_removed(trained, tmp_path, monkeypatch):
    run, model, data = trained
    for name in galleries.PICTURES:
        (tmp_path / name).write_bytes(b"old")
    right = made_up()[np.array([0, 2, 5])]
    monkeypatch.setattr(galleries, "predict_test", lambda *arguments: right)
    made = galleries.save_gallery(dataclasses.replace(run, folder=tmp_path), data, model)
    names = ["correct.png", "gradcam_correct.png"]
    record = json.loads((tmp_path / "gallery.json").read_text())
    assert record["misclassified"] == record["gradcam"] == [] and record["correct"] == [0, 2, 5]
    assert [path.name for path in made] == names == sorted(path.name for path in tmp_path.glob("*.png"))


def test_long_class_names_do_not_run_into_each_other(trained, predictions):
    run, _, data = trained
    data = dataclasses.replace(data, classes=tuple(f"a class of a very long name {k}" for k in range(10)))
    wrong = select(predictions, correct=False, count=10)
    figure = galleries.plot_gallery(run, data, wrong)
    figure.canvas.draw()
    boxes = [ax.title.get_window_extent() for ax in panels(figure)[:5]]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))


def test_without_a_mistake_a_sentence_says_so_and_the_correct_ones_are_shown(trained):
    run, model, data = trained
    right = made_up()[np.array([0, 2, 5])]
    none = select(right, correct=False, count=5)
    assert none.indices.tolist() == [0, 2, 5]
    assert none.title == f"No test image is misclassified. All 3 {KINDS[True]} test images, the most confident first"
    for plot in (galleries.plot_gradcam, galleries.plot_gradcam_layers):
        assert "No test image is misclassified" in " ".join(plot(run, data, model, none).get_suptitle().split())
    figure = galleries.plot_confused_pairs(run, data, right)
    assert figure.get_suptitle() == "Every test image is classified correctly" and not panels(figure)


def test_other_data_and_unfinished_runs_are_refused(trained):
    run, model, _ = trained
    with pytest.raises(CourseError, match=r"trained on synthetic \(60 .* and these images are synthetic \(80 "):
        predict_test(run, model, load_data("synthetic", limit=80))
    with pytest.raises(CourseError, match="is not finished"):
        predict_test(dataclasses.replace(run, summary=None), model, load_data("synthetic", limit=60))


def test_command_writes_the_pictures_and_says_what_they_show(trained, capsys):
    run, _, _ = trained
    code = cli.main(["gallery", str(run.folder), "--count", "6"])
    out = capsys.readouterr().out
    assert code == 0
    for name in ("correct", "misclassified", "gradcam", "gradcam_correct", "gradcam_layers", "confused_pairs"):
        assert f"{name}.png" in out
        assert min(matplotlib.image.imread(run.folder / f"{name}.png").shape[:2]) > 100  # pixels
    made = json.loads((run.folder / "gallery.json").read_text())
    assert (made["layer"], made["map_size"]) == ("layer2", [8, 8])
    assert len(made["misclassified"]) == 6 and not set(made["misclassified"]) & set(made["correct"])
    demands = {demand.text: demand.met for demand in gallery_checklist(run)}
    assert list(demands.values()) == [False, True, True, True]  # 6 are fewer than 20


def test_checklist_needs_the_gallery_and_fine_maps(trained, tmp_path):
    run, _, _ = trained
    with pytest.raises(CourseError, match="helpers gallery"):
        gallery_checklist(dataclasses.replace(run, folder=tmp_path))
    made = {kind: list(range(25)) for kind in ("correct", "misclassified", "gradcam", "gradcam_correct")}
    made |= {"layer": "layer3", "map_size": [4, 4], "method": "gradcam", "accuracy": 101.0}
    here = dataclasses.replace(run, folder=tmp_path)
    for change, met in (({}, [True, True, False, False]), ({"gradcam": [30]}, [True, False, False, False])):
        (tmp_path / "gallery.json").write_text(json.dumps(made | change))
        assert [demand.met for demand in gallery_checklist(here)] == met
    batchnorm = {"recipe": as_dict(RECIPES["resnet18_batchnorm"])}
    here = dataclasses.replace(here, config=run.config | batchnorm)
    for change, met in (({}, True), ({"gradcam_correct": [30]}, False), ({"gradcam": [30]}, False)):
        (tmp_path / "gallery.json").write_text(json.dumps(made | change))
        (same,) = [demand for demand in gallery_checklist(here) if demand.text == "GradCAM of the same images"]
        assert same.met == met


def test_what_is_shown_is_seen_as_the_recipe_normalises_it(trained, predictions):
    run, model, data = trained
    values = {"normalisation": [[0.1] * 3, [2.0] * 3]}
    own = dataclasses.replace(run, config=run.config | {"recipe": run.config["recipe"] | values})
    other = dataclasses.replace(data, mean=np.full(3, 0.1), std=np.full(3, 2.0))
    seen, expected = predict_test(own, model, data), predict_test(run, model, other)
    np.testing.assert_array_equal(seen.confidence, expected.confidence)
    assert (seen.confidence != predictions.confidence).any()
    figures = galleries.plot_gradcam(own, data, model, seen[:1]), galleries.plot_gradcam(run, other, model, seen[:1])
    heat, same = (panels(figure)[1].images[1].get_array() for figure in figures)
    np.testing.assert_array_equal(heat, same)
