"""Figures: what they claim is what was recorded, and it can be read on a white and on a dark page."""

import dataclasses
import itertools

import matplotlib
import numpy as np
import pytest
from conftest import random_images

matplotlib.use("agg")
from matplotlib import font_manager

from helpers.data import Data, Split, channel_statistics
from helpers.figures import drawing, illustrations, plots
from helpers.models import make_model
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_files import HISTORY_COLUMNS, configuration
from helpers.recipes import RECIPES, OneCycle, Plateau
from helpers.runs import RangeTest, Run

pytestmark = pytest.mark.usefixtures("closed_figures")


def make_run(tmp_path, classes=("cat", "dog", "rat"), recipe="custom_resnet", name="pets", notes=()):
    recipe, n = RECIPES[recipe], len(classes)
    description = {"name": name, "classes": list(classes), "fingerprint": "", "notes": list(notes)}
    rng = np.random.default_rng(0)
    history = {column: rng.random(4) for column in HISTORY_COLUMNS} | {"epoch": np.arange(1, 5)}
    history["lr"] = np.array([1.0, 1.0, 0.1, 0.1])
    steps = {"step": np.arange(12), "lr": np.repeat(history["lr"], 3), "momentum": np.full(12, 0.5)}
    confusion = np.diag(np.arange(10, 10 + n))
    confusion[0, 1] = 30
    summary = {"confusion_matrix": confusion.tolist(), "device": "CPU", "precision": "float32", "torch": "2"}
    summary["reported"] = {"test_acc": 87.654, "epoch": 3}
    return Run(tmp_path, configuration(recipe, description, 3), history, steps, "", summary)


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


RUN_PLOTS = [plots.plot_curves, plots.plot_schedule, plots.plot_class_accuracy, plots.plot_confusion_matrix]


def test_titles_are_computed_from_the_run_which_stands_below(tmp_path):
    figures = [plot(make_run(tmp_path)) for plot in RUN_PLOTS]
    assert {figure.get_supxlabel() for figure in figures} == {"custom_resnet · pets · seed 3 · CPU, float32, torch 2"}
    assert [figure.get_suptitle() for figure in figures] == [
        "87.65 % of the test images are classified correctly after epoch 3 of 24 (ringed)",
        "The learning rate climbs to 1 at epoch 0.333 and ends at 0.1",
        "Cat is lowest, 25.0 % correct",  # 10 of 40 cats
        "Confused most: cat taken for dog 30 times, the other way 0",
    ]


@pytest.mark.parametrize(
    ("name", "notes", "mark"),
    [
        ("synthetic", ["limited to 40 training and 20 test images"], "DEMO · synthetic"),
        ("cifar10", ["limited to 40 training and 20 test images"], "DEMO · limited images"),
        ("cifar10", [], ""),
        ("pets", ["12 images of other sizes were cropped and resized to 32x32"], ""),
    ],
)
def test_what_is_no_result_bears_one_red_mark(name, notes, mark, tmp_path):
    figure = plots.plot_curves(make_run(tmp_path, name=name, notes=notes))
    marks = [text for text in figure.texts if text.get_text().startswith("DEMO")]
    assert [text.get_text() for text in marks] == [mark] * bool(mark)
    assert all(text.get_color() == drawing.ink(drawing.RED) for text in marks)
    short = make_run(tmp_path, name="cifar10")
    short.config["recipe"] |= {"epochs": 4, "peak_epoch": 1}
    assert "DEMO · short" in texts(plots.plot_curves(short))


@pytest.mark.parametrize("page", ["#FFFFFF", "#0D1117"])
def test_every_colour_reads_on_white_and_on_dark_pages(page):
    with matplotlib.style.context(["dark_background"] if page == "#0D1117" else []):
        matplotlib.rcParams["axes.facecolor"] = page
        for colour in (*drawing.COLOURS.values(), *drawing.RUN_COLOURS, drawing.GREY, drawing.RED):
            assert drawing.contrast(drawing.ink(colour), page) >= 4.5
    assert drawing.contrast("#000000", "#FFFFFF") == pytest.approx(21)  # WCAG's own figures
    assert drawing.contrast("#777777", "#FFFFFF") == pytest.approx(4.48, abs=0.01)


def test_class_accuracies_are_shares_of_the_rows(tmp_path):
    written = texts(plots.plot_class_accuracy(make_run(tmp_path, ["cat", "dog"])))
    assert "cat  25.0" in written and "dog  100.0" in written  # 10 of 40 cats, 11 of 11 dogs
    assert f"all {100 * 21 / 51:.2f}" in written


def test_a_network_without_a_mistake_is_said_to_have_none(tmp_path):
    run = make_run(tmp_path)
    run.summary["confusion_matrix"] = np.diag([5, 6, 7]).tolist()
    assert plots.plot_confusion_matrix(run).get_suptitle() == "Every test image is classified correctly"


def test_the_diagonal_of_the_matrix_is_grey_and_mistakes_are_coloured(tmp_path):
    mistakes, right = plots.plot_confusion_matrix(make_run(tmp_path)).axes[0].collections
    shape = (3, 3)
    assert np.array_equal(np.ma.getmaskarray(mistakes.get_array()).reshape(shape), np.eye(3, dtype=bool))
    assert np.array_equal(np.ma.getmaskarray(right.get_array()).reshape(shape), ~np.eye(3, dtype=bool))
    red, green, blue, _ = right.cmap(0.5)
    assert red == green == blue


def test_learning_rate_drops_are_marked_between_their_epochs(tmp_path):
    for recipe, drops in (("resnet18_layernorm", [2.5]), ("custom_resnet", [])):
        for ax in plots.plot_curves(make_run(tmp_path, recipe=recipe)).axes:
            assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == drops


def test_schedule_is_drawn_from_the_recorded_steps_over_epochs(tmp_path):
    run = make_run(tmp_path)
    (lr,) = plots.plot_schedule(run).axes
    np.testing.assert_allclose(lr.lines[0].get_ydata(), run.steps["lr"])
    np.testing.assert_allclose(lr.lines[0].get_xdata(), np.arange(1, 13) / 3)
    assert "momentum 0.5" in lr.get_xlabel()
    run.steps["momentum"][3] = 0.7
    _, momentum = plots.plot_schedule(run).axes
    np.testing.assert_allclose(momentum.lines[0].get_ydata(), run.steps["momentum"])


def test_only_a_plateau_that_was_reduced_is_drawn_on_a_logarithmic_scale(tmp_path):
    run = make_run(tmp_path, recipe="resnet18_layernorm")
    figure = plots.plot_schedule(run)
    assert figure.axes[0].get_yscale() == "log" and figure.get_suptitle().endswith("was reduced once")
    run.steps["lr"][:] = 0.1
    figure = plots.plot_schedule(run)
    assert figure.axes[0].get_yscale() == "linear" and figure.get_suptitle().endswith("0.1 was never reduced")


def test_range_test_marks_bounds_and_suggestion_and_the_batches_behind_the_curve():
    lrs, settings = np.geomspace(1e-4, 10, 20), {"data": {"name": "cifar10"}, "steps": 101}
    losses, raw = 2 - lrs / 10, 2 - lrs / 9
    result = RangeTest("a title", [], list(lrs), list(losses), 0.003, 0.2, 2.0, "swept", settings, "CPU", list(raw))
    figure = plots.plot_range_test(result)
    dots, curve, *_ = figure.axes[0].lines
    np.testing.assert_array_equal((dots.get_ydata(), curve.get_ydata()), (raw, losses))
    verticals = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert verticals == [0.003, 0.2]
    for part in ("LRMIN\n0.003", "LRMAX\n0.2", "steepest slope at 2", "a title · swept · CPU"):
        assert part in texts(figure)
    assert "DEMO" not in texts(figure)
    result = dataclasses.replace(result, raw=[], settings=settings | {"steps": 20})  # as older records have it
    assert "DEMO · short" in texts(plots.plot_range_test(result))


def test_augmentation_figure_starts_with_the_original():
    train = Split(random_images(6), np.arange(6) % 2)
    data = Data("pets", ("cat", "dog"), train, train, *channel_statistics(train.images), "")
    figure = plots.plot_augmentation(RECIPES["custom_resnet"], data, images=2, draws=3)
    shown = [ax.images[0].get_array() for ax in figure.axes]
    assert len(shown) == 2 * 4
    assert any(np.array_equal(shown[0], image) for image in train.images)
    assert not np.array_equal(shown[0], shown[1])
    assert "PadIfNeeded → RandomCrop → HorizontalFlip → CoarseDropout" in " ".join(texts(figure).split())


def test_comparison_shows_every_run_by_its_recorded_figures(tmp_path):
    runs = [make_run(tmp_path, recipe=f"resnet18_{norm}norm") for norm in ("batch", "layer")]
    runs[1].history["val_acc"][-1] = 99.5
    figure = plots.plot_comparison(runs)
    for ax, split in zip(figure.axes, ("train", "val"), strict=True):
        curves, dots = ax.lines[::2], ax.lines[1::2]
        assert [list(line.get_ydata()) for line in curves] == [list(run.history[f"{split}_acc"]) for run in runs]
        assert [list(line.get_xdata()) for line in dots] == [[3], [3]]  # the first epoch at the lower rate
    assert figure.get_suptitle() == "resnet18_layernorm ends highest, at 99.50 % of the held-out images"


def test_compared_runs_of_one_recipe_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / name / "run", recipe="resnet18_layernorm") for name in ("plain", "no-clip")]
    written = texts(plots.plot_comparison(runs))
    assert "plain/run" in written and "no-clip/run" in written


def test_unfinished_runs_get_a_sentence(tmp_path):
    run = make_run(tmp_path)
    unfinished = dataclasses.replace(run, summary=None)
    assert "after epoch 4" in plots.plot_curves(unfinished).get_suptitle()
    empty = dataclasses.replace(run, history={key: values[:0] for key, values in run.history.items()})
    for plot, which, said in ((plots.plot_curves, empty, "no finished epoch"),
                              (plots.plot_confusion_matrix, unfinished, "not finished")):  # fmt: skip
        with pytest.raises(CourseError, match=said):
            plot(which)


def test_curves_name_the_last_figures_beside_their_lines(tmp_path):
    run = make_run(tmp_path, recipe="resnet18_layernorm")
    names = {"train": "training", "val": "validation", "test": "test"}
    last = {name: values[-1] for name, values in run.history.items()}
    for ax, quantity, form in zip(plots.plot_curves(run).axes, ("loss", "acc"), ("{:.3f}", "{:.2f} %"), strict=True):
        expected = {f"{name} {form.format(last[f'{split}_{quantity}'])}" for split, name in names.items()}
        assert {text.get_text() for text in ax.texts} == expected


# --- Pictures of ideas


@pytest.mark.parametrize("name", ["custom_resnet", "resnet18"])
def test_network_is_drawn_with_the_parameters_it_has(name):
    figure = illustrations.plot_network(name)
    model = make_model(next(recipe for recipe in RECIPES.values() if recipe.model == name), 10)
    counts = [sum(p.numel() for p in block.parameters()) for block in model.children()]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, *counts]
    written = texts(figure)
    assert f"{sum(counts):,} parameters" in written and "128×16×16" in written and "512×4×4" in written
    residual = {"custom_resnet": ("X + R(X)", 2), "resnet18": ("2 blocks", 4)}
    assert written.count(residual[name][0]) == residual[name][1]


def test_residual_block_shows_the_layers_of_the_network():
    written = texts(illustrations.plot_residual_block())
    assert [written.count(layer) for layer in ("3×3 conv", "BatchNorm", "ReLU")] == [2, 2, 2]


def test_triangular_bounds_are_dashed_lines_without_arrows():
    ax = illustrations.plot_triangular(0.1, 1.0, 100).axes[0]
    dashed = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert dashed == [0.1, 1.0]
    assert all(getattr(text, "arrow_patch", None) is None for text in ax.texts)


def test_annihilation_goes_below_lrmin_and_the_recipes_cycle_does_not():
    schedule = OneCycle(lr_max=0.2, lr_min=0.003, peak_epoch=5)
    default, annihilated, plain = (
        line.get_ydata()
        for line in illustrations.plot_annihilation(schedule, epochs=24, steps_per_epoch=10).axes[0].lines
    )
    assert default[0] == pytest.approx(0.2 / 25) and default[-1] == pytest.approx(0.2 / 25e4)  # torch's documentation
    assert annihilated[-1] == pytest.approx(3e-7) and plain[-1] == pytest.approx(0.003) == plain.min()
    assert len(plain) == 240 and np.argmax(plain) == np.argmax(annihilated) == 49


def test_plateau_figure_fills_improvements_and_shades_the_patience():
    plateau = Plateau(lr=1.0, monitor="val_loss", factor=0.1, patience=1)
    top, bottom = illustrations.plot_plateau(plateau, [3, 2, 2.5, 2.2, 1.5]).axes
    improved, others = top.lines[1:]
    assert (list(improved.get_xdata()), list(others.get_xdata())) == ([1, 2, 5], [3, 4])
    assert list(bottom.lines[0].get_ydata()) == pytest.approx([1, 1, 1, 1, 0.1])
    shaded = top.patches[0]
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == (2.5, 4.5)  # epochs 3 and 4


def test_plateau_figure_fills_only_what_counts_as_an_improvement():
    plateau = Plateau(lr=1.0, monitor="val_acc", factor=0.1, patience=2, threshold=0.1)
    top = illustrations.plot_plateau(plateau, [50, 54, 56, 61, 61.5]).axes[0]
    assert list(top.lines[1].get_xdata()) == [1, 3] and not len(top.patches)  # 56 beats 55, but 61 and 61.5 not 61.6


def test_contest_names_the_best_or_those_that_chance_may_have_ranked():
    points = [(0.1, 90.0), (0.1, 92.0), (0.2, 91.5), (0.2, 91.7), (0.4, 80.0)]
    figure = illustrations.plot_lr_contest(points, error=0.2)  # 0.6 apart, and 0.2 is the error of that difference
    assert figure.get_suptitle() == "LRMAX 0.2 trained best: 91.60 % of the held-out images"
    (bars,) = figure.axes[0].containers
    segments = bars.lines[2][0].get_segments()
    assert segments[0][1][1] - segments[0][0][1] == pytest.approx(2 * 0.2 / 2**0.5)  # of the mean of two
    figure = illustrations.plot_lr_contest(points, error=0.4)
    assert figure.get_suptitle() == "LRMAX 0.1 and 0.2 trained best, too close to rank"


def test_classes_that_chance_may_have_ranked_are_not_ranked(tmp_path):
    run = make_run(tmp_path)
    close = dataclasses.replace(run, summary=run.summary | {"confusion_matrix": [[20, 20], [18, 22]]})
    title = plots.plot_class_accuracy(close).get_suptitle()
    assert title == "Cat is lowest, 50.0 % correct; too close to rank: dog"  # 50 and 55, each give or take 8
    apart = dataclasses.replace(run, summary=run.summary | {"confusion_matrix": [[20, 20], [11, 29]]})
    title = plots.plot_class_accuracy(apart).get_suptitle()  # 50 and 72.5: errors of 7.9 and 7.1, together 10.6
    assert title == "Cat is lowest, 50.0 % correct"


# --- Names of classes


def test_long_names_stay_distinct():
    names = ["Corn_(maize)___Common_rust_", "Corn_(maize)___healthy", "Corn_(maize)___Northern_Leaf_Blight", "cat"]
    short = drawing.class_names(names, 16)
    assert len(set(short)) == 4 and max(map(len, short)) == 16 and short[3] == "cat"
    assert drawing.class_names(["a class of a very long name", "another"], 16) == ["a class of a ve…", "another"]
    alike = [f"{'x' * 20}{middle}{'y' * 20}" for middle in "ab"]
    assert drawing.class_names(alike, 16) == alike  # no short form tells them apart
    assert drawing.class_names(["$x$"]) == [r"\$x\$"]


def test_letters_that_the_default_font_lacks_come_from_installed_fonts():
    with matplotlib.rc_context({"font.family": ["sans-serif"]}):  # whatever was drawn before
        drawing.class_names(["cat", "dog"])
        assert list(matplotlib.rcParams["font.family"]) == ["sans-serif"]  # nothing to look for
        drawing.class_names(["кошка", "∀"])
        assert "DejaVu Sans" in matplotlib.rcParams["font.family"]  # which comes with matplotlib
        fonts = map(font_manager.findfont, ("STIXGeneral", "DejaVu Sans"))
        have, lack = (font_manager.get_font(font).get_charmap() for font in fonts)
        rare = next(chr(code) for code in have if code not in lack and chr(code).isalpha())
        drawing.class_names([rare])
        files = [font_manager.findfont(name) for name in matplotlib.rcParams["font.family"] if name != "sans-serif"]
        assert any(ord(rare) in font_manager.get_font(file).get_charmap() for file in files)


def test_all_of_many_classes_are_shown(tmp_path):
    run = make_run(tmp_path, [f"Tomato___Septoria_leaf_spot number {k}" for k in range(60)])
    accuracy, matrix = plots.plot_class_accuracy(run), plots.plot_confusion_matrix(run)
    assert len(accuracy.axes[0].get_yticklabels()) == 60
    for figure, axis in ((accuracy, "y"), (matrix, "y"), (matrix, "x")):
        figure.canvas.draw()
        assert max(figure.get_size_inches()) * matplotlib.rcParams["savefig.dpi"] < 4000  # pixels
        boxes = [text.get_window_extent() for text in getattr(figure.axes[0], f"get_{axis}ticklabels")()]
        edges = sorted((box.y0, box.y1) if axis == "y" else (box.x0, box.x1) for box in boxes)
        assert len(edges) == 60 and all(a[1] <= b[0] + 1 for a, b in itertools.pairwise(edges))
    assert matrix.axes[0].get_window_extent().width > 500  # pixels
