import json
import shutil
import statistics

import numpy as np
import pytest
from PIL import Image

from helpers import cli
from helpers.authoring import report
from helpers.authoring.report import Results, check, load_results, record
from helpers.data import load_data
from helpers.galleries import predict_test
from helpers.models import load_model
from helpers.plumbing.errors import CourseError
from helpers.recipes import RECIPES, as_dict, changed, with_epochs
from helpers.runs import HISTORY_COLUMNS, load_run, to_csv
from helpers.settings import REPOSITORY
from helpers.training import train

SMALL = changed(RECIPES["custom_resnet"], {"batch_size": 64})  # as if that were the recipe
FULL = "custom_resnet-cifar10-seed0"


@pytest.fixture
def root(tmp_path):
    """A copy of what the report reads and writes."""
    for name in ("results", "images"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_repository_matches_its_results():
    assert check() == []


def test_a_changed_digit_in_the_readme_is_named_with_both_values(root):
    edit(root / "README.md", "| airplane | 94.0 % |", "| airplane | 95.0 % |")
    (fault,) = check(root)
    assert "README.md, block runs" in fault and "95.0 %" in fault and "94.0 %" in fault
    assert report.report(root=root) == [root / "README.md"]
    assert check(root) == []


def test_a_changed_log_line_in_the_readme_is_found(root):
    edit(root / "README.md", "EPOCH: 3\n", "EPOCH: 4\n")
    assert ["block logs" in fault for fault in check(root)] == [True]


def test_prose_around_the_blocks_is_left_alone(root):
    readme = root / "README.md"
    readme.write_text("Our course.\n\n" + readme.read_text(encoding="utf-8") + "\nThe end.\n", encoding="utf-8")
    before = readme.read_bytes()
    assert check(root) == [] and report.report(root=root) == []
    assert readme.read_bytes() == before


def test_a_changed_result_makes_its_table_and_its_figure_stale(root):
    edit(root / "results" / FULL / "summary.json", "[ 940, 4,", "[ 930, 14,")
    faults = check(root)
    assert any("block runs" in fault and "93.0 %" in fault for fault in faults)
    assert "images/custom_resnet_class_accuracy.png was drawn from other results" in faults
    assert "images/custom_resnet_class_accuracy-dark.png was drawn from other results" in faults
    report.report(root=root)
    assert check(root) == []


def test_missing_repainted_damaged_and_unknown_figures_are_named(root):
    images = root / "images"
    (images / "plateau.png").unlink()
    with Image.open(images / "plateau-dark.png") as image:
        text, pixels = image.text, np.array(image.convert("RGB"))
    pixels[100, 100] ^= 1
    info = report.PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.fromarray(pixels).save(images / "plateau-dark.png", pnginfo=info)
    (images / "custom_resnet_curves.png").write_bytes(b"\x89PNG no more")
    shutil.copy(images / "custom_resnet_curves-dark.png", images / "old.png")
    faults = check(root)
    for expected in (
        "images/plateau.png is missing",
        "images/plateau-dark.png was changed after it was drawn",
        "images/custom_resnet_curves.png is damaged",
        "images/old.png is shown nowhere",
    ):
        assert sum(fault.startswith(expected) for fault in faults) == 1
    assert len(faults) == 4
    report.report(root=root)
    assert check(root) == [] and not (images / "old.png").exists()


def test_figures_of_images_are_asked_for_before_anything_is_written(root):
    (root / "images" / "resnet18_batchnorm_augmentation.png").unlink()
    (root / "images" / "plateau.png").unlink()
    with pytest.raises(CourseError, match=r"--data: resnet18_batchnorm_augmentation\.png"):
        report.report(root=root)
    assert not (root / "images" / "plateau.png").exists()


@pytest.mark.parametrize("marker", ["<!-- report:results -->", "<!-- /report:logs -->"])
def test_a_lost_marker_is_refused(root, marker):
    edit(root / "README.md", marker, "")
    with pytest.raises(CourseError, match="once for each of"):
        check(root)


def test_a_marker_that_lost_its_line_break_is_named(root):
    edit(root / "README.md", "\n<!-- /report:lr -->", "<!-- /report:lr -->")
    assert any("block lr" in fault for fault in check(root))


def test_a_table_cell_is_the_mean_and_the_sample_deviation_over_the_seeds(root):
    only_runs(root, "resnet18_layernorm", {0: 94.0, 1: 94.2, 2: 94.7})
    (row,) = [line for line in report._results(load_results(root)).splitlines() if "`resnet18_layernorm`" in line]
    deviation = (((94.0 - 94.3) ** 2 + (94.2 - 94.3) ** 2 + (94.7 - 94.3) ** 2) / 2) ** 0.5
    assert deviation == pytest.approx(statistics.stdev((94.0, 94.2, 94.7)))
    assert f"| 11,173,962 | 40 | 0, 1, 2 | **94.30 ± {deviation:.2f} %** |" in row
    assert row.endswith("| 90.03 % |")
    only_runs(root, "published_s10_plateau_sgd", {0: 91.0, 1: 92.5})  # too few for a deviation
    assert "`published_s10_plateau_sgd` | 11,173,962 | 50 | 0, 1 | **91.00, 92.50 %** |" in report._results(
        load_results(root)
    )
    (line,) = [line for line in report._expect(load_results(root)).splitlines() if "- `resnet18_layernorm`" in line]
    run = load_run(root / "results" / FULL)
    seconds = statistics.median(run.history["seconds"])
    time = f"{40 * seconds / 60:.0f} minutes a run, at the {seconds:.0f} s of its median epoch,"  # of all three
    assert f"94.00 to 94.70 % over 3 seeds; {time} on {run.provenance}." in line
    path = root / "results" / "resnet18_layernorm-cifar10-seed1"
    (path / "summary.json").write_text(json.dumps(run.summary | {"device": "Another"}))
    rows = [{key: column[k] for key, column in run.history.items()} for k in range(len(run.history["epoch"]))]
    (path / "history.csv").write_text(to_csv(HISTORY_COLUMNS, [row | {"seconds": 60.0} for row in rows]))
    (line,) = [line for line in report._expect(load_results(root)).splitlines() if "- `resnet18_layernorm`" in line]
    assert f"; {time} on {run.provenance}; 40 minutes a run, at the 60 s of its median epoch, on Another" in line


def full_run(root, name, seed, accuracy):
    """A record as of a run of full length, made from another recipe's for the test."""
    folder = root / "results" / f"{name}-cifar10-seed{seed}"
    shutil.copytree(root / "results" / FULL, folder, dirs_exist_ok=True)
    other = load_run(folder)
    config = other.config | {"recipe": as_dict(RECIPES[name]), "seed": seed}
    (folder / "config.json").write_text(json.dumps(config))
    del other.summary["weights"]
    summary = other.summary | {"reported": other.summary["reported"] | {"test_acc": accuracy}}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def only_runs(root, name, accuracies):
    """`full_run` for each seed, in place of whatever is recorded of the recipe."""
    for recorded in root.glob(f"results/{name}-cifar10-seed*"):
        shutil.rmtree(recorded)
    return [full_run(root, name, seed, accuracy) for seed, accuracy in accuracies.items()]


def test_our_recipes_come_before_the_published_ones(root):
    results = load_results(root)
    for names in (list(results.by_recipe), [run.recipe.name for run in results.first]):
        published = [name.startswith("published") for name in names]
        assert published == sorted(published) and {True, False} == set(published)


def test_of_every_recipe_the_first_run_with_weights_is_shown_in_the_order_of_the_recipes(root):
    folders = only_runs(root, "resnet18_layernorm", {0: 94.0, 1: 94.0})
    folders += only_runs(root, "resnet18_batchnorm", {0: 94.0})
    folders.append(full_run(root, "custom_resnet", 1, 94.0))
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(json.dumps(summary | {"weights": {"test_acc": 94.0}}))
    results = load_results(root)
    shown = [(run.recipe.name, run.config["seed"]) for run in results.with_weights]
    assert shown == [("custom_resnet", 0), ("resnet18_batchnorm", 0), ("resnet18_layernorm", 0)]
    made = report.blocks(results)
    picture, headline = made["picture"]
    assert picture.name == "custom_resnet_gradcam_layers"
    assert "`resnet18_batchnorm` **94.00 %** (93.80 %)" in headline and "published" not in headline
    titles = [part for part in made["gallery"] if str(part).startswith("#")]
    assert titles == [f"#### `{name}`, seed {seed}" for name, seed in shown]
    names = [part.name for part in made["gallery"] if isinstance(part, report.Shown)]
    assert "resnet18_layernorm_gradcam_layers" in names and "custom_resnet_gradcam_layers" not in names


def test_the_figures_of_a_published_recipe_are_folded_and_ours_are_not():
    sections = dict(report._sections((REPOSITORY / "README.md").read_text(encoding="utf-8")))
    depth = 0
    for line in sections["runs"].splitlines():
        depth += line.startswith("<details>") - line.startswith("</details>")
        if line.startswith("<picture>"):
            assert depth == ("images/published_" in line)
    assert depth == 0


def test_a_shortened_run_is_no_result(root):
    folder = full_run(root, "resnet18_layernorm", 7, 94.0)
    config = json.loads((folder / "config.json").read_text())
    shortened = as_dict(with_epochs(RECIPES["resnet18_layernorm"], 24))
    (folder / "config.json").write_text(json.dumps(config | {"recipe": shortened}))
    with pytest.raises(CourseError, match=r"seed7 is .*\(epochs=24 \(recipe: 40\); warmup_epochs=1.8"):
        load_results(root)


def test_every_recipe_has_a_row_whether_it_was_run_or_not():
    none = Results({name: [] for name in RECIPES}, {})
    rows = report._results(none).splitlines()[2:]
    assert len(rows) == len(RECIPES) and all("not run yet" in row for row in rows)
    assert report.blocks(none)["picture"] == [""]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on synthetic pictures, and its data."""
    data = load_data("synthetic", limit=192)
    recipe = with_epochs(SMALL, 3)
    return train(recipe, data, tmp_path_factory.mktemp("runs"), report=lambda line: None), data


def test_what_is_not_the_complete_cifar10_is_not_recorded(finished, tmp_path):
    with pytest.raises(CourseError, match="complete CIFAR-10"):
        record(finished[0].folder, root=tmp_path)
    assert not list(tmp_path.iterdir())


def test_recorded_weights_give_the_recorded_accuracy_and_galleries(finished, tmp_path, monkeypatch):
    run, data = finished
    monkeypatch.setattr(report, "CIFAR10_FINGERPRINT", data.fingerprint)
    with pytest.raises(CourseError, match="batch_size=64"):
        record(run.folder, data, root=tmp_path)
    monkeypatch.setitem(RECIPES, "custom_resnet", SMALL)
    with pytest.raises(CourseError, match="epochs=3"):
        record(run.folder, data, root=tmp_path)
    monkeypatch.setitem(RECIPES, "custom_resnet", with_epochs(SMALL, 3))
    folder = record(run.folder, data, root=tmp_path)
    assert folder == tmp_path / "results" / run.folder.name
    recorded = load_run(folder)
    assert (folder / "best.pt").stat().st_size < 0.55 * (run.folder / "best.pt").stat().st_size
    predictions = predict_test(recorded, load_model(recorded), data)
    accuracy = 100 * np.mean(predictions.actual == predictions.predicted)
    assert recorded.summary["weights"]["test_acc"] == pytest.approx(accuracy)
    assert recorded.summary["reported"] == run.summary["reported"]
    wrong = json.loads((folder / "gallery.json").read_text())["misclassified"]
    assert set(wrong) <= set(np.flatnonzero(predictions.actual != predictions.predicted).tolist())

    assert load_results(tmp_path).with_weights[0].folder == folder
    with pytest.raises(CourseError, match="recorded already"):
        record(folder, root=tmp_path)

    damaged = tmp_path / "damaged" / run.folder.name
    shutil.copytree(run.folder, damaged)
    (damaged / "best.pt").write_bytes(b"no checkpoint")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CourseError, match=r"best\.pt is damaged"):
        record(damaged, data, root=tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

    content = bytearray((folder / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "best.pt").write_bytes(content)
    with pytest.raises(CourseError, match="is not the file that"):
        load_model(recorded)

    record(run.folder, root=tmp_path)  # without weights: none of another record stay beside it
    assert {path.name for path in folder.iterdir()} == set(report.SHARED) - {"gallery.json", "lr_find.json"}


def test_what_is_of_another_recipe_than_todays_is_no_result(finished, root, tmp_path, monkeypatch):
    with pytest.raises(CourseError, match=r"synthetic is not of the complete CIFAR-10"):
        report.report(finished[1], root=root)
    today = RECIPES["custom_resnet"]
    monkeypatch.setitem(RECIPES, "custom_resnet", changed(today, {"lr_max": 0.3}))  # no matter to its range test
    with pytest.raises(CourseError, match=r"seed0 is of another recipe .*\(lr_max=0.2 \(recipe: 0.3\)\)"):
        load_results(root)
    monkeypatch.setitem(RECIPES, "custom_resnet", changed(today, {"batch_size": 256}))
    shutil.rmtree(root / "results" / FULL)
    with pytest.raises(CourseError, match=r"seed0-lr-find is of another recipe .*\(batch_size=512 \(recipe: 256\)\)"):
        load_results(root)
    monkeypatch.setitem(RECIPES, "custom_resnet", today)
    monkeypatch.setattr(report, "RECIPES", {name: RECIPES[name] for name in RECIPES if name != "custom_resnet"})
    shutil.rmtree(root / "results" / f"{FULL}-lr-find")
    with pytest.raises(CourseError, match=r"seed1 is of another recipe .*\(none of its name\)"):
        load_results(root)
    shutil.rmtree(root / "results")
    assert not load_results(root).runs and next(iter(RECIPES)) == "custom_resnet"  # in its place for the other tests


def test_the_command_line_tells_the_faults_and_fails(root, monkeypatch, capsys):
    monkeypatch.setattr(report.check, "__defaults__", (root,))
    assert cli.main(["report", "--check"]) == 0
    edit(root / "README.md", "| airplane | 94.0 % |", "| airplane | 95.0 % |")
    assert cli.main(["report", "--check"]) == 1
    assert "block runs" in capsys.readouterr().out
