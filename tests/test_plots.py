import dataclasses
import itertools

import matplotlib
import numpy as np
import pytest
from conftest import random_images

matplotlib.use("agg")
from helpers import plots
from helpers.data import Data, Split, channel_statistics
from helpers.lr_finder import RangeTest
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES, Plateau, with_epochs
from helpers.runs import HISTORY_COLUMNS, Run, configuration

pytestmark = pytest.mark.usefixtures("closed_figures")


def make_run(tmp_path, classes, recipe="custom_resnet"):
    recipe = with_epochs(RECIPES[recipe], 4)
    description = {"name": "pets", "classes": classes, "fingerprint": "", "notes": ["limited to 40 images"]}
    rng = np.random.default_rng(0)
    history = {column: rng.random(4) for column in HISTORY_COLUMNS} | {"epoch": np.arange(1, 5)}
    history["lr"] = np.array([1.0, 1.0, 0.1, 0.1])
    steps = {"step": np.arange(12), "lr": np.linspace(0.1, 1, 12), "momentum": np.full(12, 0.5)}
    confusion = np.diag(np.arange(10, 10 + len(classes)))
    confusion[0, 1] = 30
    summary = {"confusion_matrix": confusion.tolist(), "device": "CPU", "precision": "float32", "torch": "2"}
    return Run(tmp_path, configuration(recipe, description, 3), history, steps, "", summary)


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


RUN_PLOTS = [plots.plot_curves, plots.plot_schedule, plots.plot_class_accuracy, plots.plot_confusion_matrix]


@pytest.mark.parametrize("plot", RUN_PLOTS)
def test_figures_of_a_run_carry_recipe_data_seed_notes_and_device(plot, tmp_path):
    written = texts(plot(make_run(tmp_path, ["cat", "dog", "rat"])))
    for part in ("custom_resnet · pets · seed 3", "limited to 40 images", "changed: ", "CPU, float32, torch 2"):
        assert part in written


@pytest.mark.parametrize("plot", RUN_PLOTS)
@pytest.mark.parametrize("classes", [["$^$", "a_b"], [f"class {k}" for k in range(120)]], ids=["odd names", "many"])
def test_figures_can_be_drawn_for_odd_and_for_many_classes(plot, classes, tmp_path):
    path = plots.save(plot(make_run(tmp_path, classes)), tmp_path / "figure.png")
    assert max(matplotlib.image.imread(path).shape) < 4000  # pixels


def test_class_accuracies_are_shares_of_the_rows(tmp_path):
    written = texts(plots.plot_class_accuracy(make_run(tmp_path, ["cat", "dog"])))
    assert "cat  25.0" in written and "dog  100.0" in written  # 10 of 40 cats, 11 of 11 dogs
    assert f"all {100 * 21 / 51:.2f}" in written


def test_learning_rate_drops_are_marked_between_their_epochs(tmp_path):
    for recipe, drops in (("resnet18_layernorm", [2.5]), ("custom_resnet", [])):
        for ax in plots.plot_curves(make_run(tmp_path, ["cat", "dog"], recipe)).axes:
            assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == drops


def test_schedule_is_drawn_from_the_recorded_steps(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    (lr,) = plots.plot_schedule(run).axes
    np.testing.assert_allclose(lr.lines[0].get_ydata(), run.steps["lr"])
    np.testing.assert_allclose(lr.lines[0].get_xdata(), np.arange(1, 13))
    assert lr.get_xlabel() == "iteration, 3 an epoch"
    assert "momentum 0.5" in texts(lr)
    run.steps["momentum"][3] = 0.7
    _, momentum = plots.plot_schedule(run).axes
    np.testing.assert_allclose(momentum.lines[0].get_ydata(), run.steps["momentum"])


def test_range_test_marks_bounds_and_suggestion():
    lrs = np.geomspace(1e-4, 10, 20)
    result = RangeTest("a title", ["a note"], list(lrs), list(2 - lrs / 10), 0.003, 0.2, 2.0, "swept", {}, "CPU")
    figure = plots.plot_range_test(result)
    verticals = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert verticals == [0.003, 0.2]
    for part in ("LRMIN\n0.003", "LRMAX\n0.2", "steepest slope 2", "a title", "a note", "swept"):
        assert part in texts(figure)


def test_augmentation_figure_starts_with_the_original():
    train = Split(random_images(6), np.arange(6) % 2)
    data = Data("pets", ("cat", "dog"), train, train, *channel_statistics(train.images), "")
    figure = plots.plot_augmentation(RECIPES["custom_resnet"], data, images=2, draws=3)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert len(shown) == 2 * 4
    assert any(np.array_equal(shown[0], image) for image in train.images)
    assert not np.array_equal(shown[0], shown[1])
    assert "PadIfNeeded → RandomCrop → HorizontalFlip → CoarseDropout" in texts(figure)


def test_save_closes_the_figure(tmp_path):
    before = matplotlib.pyplot.get_fignums()
    plots.save(plots.plot_triangular(0.1, 1.0, 100), tmp_path / "triangle.png")
    assert matplotlib.pyplot.get_fignums() == before and (tmp_path / "triangle.png").stat().st_size > 0


def test_triangular_bounds_are_dashed_lines_without_arrows():
    ax = plots.plot_triangular(0.1, 1.0, 100).axes[0]
    dashed = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed == [0.1, 1.0]
    assert all(getattr(text, "arrow_patch", None) is None for text in ax.texts)


def test_unfinished_run_has_curves_too(tmp_path):
    run = dataclasses.replace(make_run(tmp_path, ["cat", "dog"]), summary=None)
    assert "custom_resnet" in texts(plots.plot_curves(run))


def test_comparison_shows_every_run_by_its_recorded_figures(tmp_path):
    runs = [make_run(tmp_path, ["cat", "dog"], f"resnet18_{norm}norm") for norm in ("batch", "layer")]
    figure = plots.plot_comparison(runs)
    for ax, split in zip(figure.axes, ("train", "val"), strict=True):
        curves, dots = ax.lines[::2], ax.lines[1::2]
        assert [list(line.get_ydata()) for line in curves] == [list(run.history[f"{split}_acc"]) for run in runs]
        assert [list(line.get_xdata()) for line in dots] == [[3], [3]]  # the first epoch at the lower rate
    for part in (
        "resnet18_batchnorm · pets · seed 3",
        "resnet18_layernorm: changed: ",
        "limited to 40",
        "CPU, float32",
    ):
        assert part in texts(figure)


def test_compared_runs_of_one_recipe_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / name / "run", ["cat", "dog"], "resnet18_layernorm") for name in ("plain", "no-clip")]
    written = texts(plots.plot_comparison(runs))
    assert "plain/run" in written and "no-clip/run" in written
    assert written.count("limited to 40 images") == 1


def test_comparison_without_validation_images_says_test(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"], "published_s11_plateau_layernorm")
    run.history["val_acc"][:] = np.nan
    figure = plots.plot_comparison([run])
    assert list(figure.axes[1].lines[0].get_ydata()) == list(run.history["test_acc"])
    assert "test " in texts(figure) and "validation" not in texts(figure)


def test_plateau_figure_fills_improvements_and_shades_the_patience():
    figure = plots.plot_plateau(Plateau(lr=1.0, monitor="val_loss", factor=0.1, patience=1), [3, 2, 2.5, 2.2, 1.5])
    top, bottom = figure.axes
    improved, others = top.lines[1:]
    assert (list(improved.get_xdata()), list(others.get_xdata())) == ([1, 2, 5], [3, 4])
    assert list(bottom.lines[0].get_ydata()) == pytest.approx([1, 1, 1, 1, 0.1])
    shaded = top.patches[0]
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == (2.5, 4.5)  # epochs 3 and 4


def test_normalisation_figure_groups_columns_and_rows():
    for ax, axis in zip(plots.plot_normalised_together(4, 6).axes, (0, 1), strict=True):
        groups = np.asarray(ax.collections[0].get_array()).reshape(4, 6)
        assert (groups == groups.take([0], axis=axis)).all()  # alike along the axis ...
        assert len(np.unique(groups)) == groups.shape[1 - axis]  # ... and only along it


def test_plateau_figure_fills_only_what_counts_as_an_improvement():
    top = plots.plot_plateau(Plateau(1.0, "val_acc", 0.1, 2), [90, 90.005, 90.006, 90.007, 90.008]).axes[0]
    assert list(top.lines[1].get_xdata()) == [1] and len(top.patches) == 1
    top = plots.plot_plateau(Plateau(1.0, "val_acc", 0.1, 2, threshold=0.1), [50, 54, 56, 61, 61.5]).axes[0]
    assert list(top.lines[1].get_xdata()) == [1, 3] and not len(top.patches)  # 56 beats 55, but 61 and 61.5 not 61.6


def test_unfinished_runs_and_too_many_are_told(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"])
    empty = dataclasses.replace(run, history={key: values[:0] for key, values in run.history.items()})
    for plot in (plots.plot_curves, plots.plot_schedule, lambda run: plots.plot_comparison([run])):
        with pytest.raises(CourseError, match="no finished epoch"):
            plot(empty)
    for plot in (plots.plot_class_accuracy, plots.plot_confusion_matrix):
        with pytest.raises(CourseError, match="not finished"):
            plot(dataclasses.replace(run, summary=None))
    with pytest.raises(CourseError, match="From 1 to 6 runs"):
        plots.plot_comparison([run] * 7)


def test_curves_name_the_last_figures_beside_their_lines(tmp_path):
    run = make_run(tmp_path, ["cat", "dog"], "resnet18_layernorm")
    names = {"train": "training", "val": "validation", "test": "test"}
    for split in names:  # as close together as at the end of a good training
        run.history[f"{split}_acc"][-1] = run.history["train_acc"][-1]
        run.history[f"{split}_loss"][-1] = run.history["train_loss"][-1]
    figure = plots.plot_curves(run)
    figure.canvas.draw()
    last = {name: values[-1] for name, values in run.history.items()}
    for ax, quantity, form in zip(figure.axes, ("loss", "acc"), ("{:.3f}", "{:.2f} %"), strict=True):
        labels = {text.get_text(): text for text in ax.texts}
        expected = {f"{name} {form.format(last[f'{split}_{quantity}'])}": split for split, name in names.items()}
        assert labels.keys() == expected.keys()
        assert all(labels[text].get_color() == plots.COLOURS[split] for text, split in expected.items())
        extents = sorted((text.get_window_extent() for text in ax.texts), key=lambda extent: extent.y0)
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(extents))  # none covers another
        assert all(extent.x0 >= ax.get_window_extent().x1 and extent.x1 <= figure.bbox.x1 for extent in extents)
