import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from helpers import cli
from helpers.authoring import page, pictures, report, results
from helpers.authoring.page import pages
from helpers.authoring.pictures import Picture
from helpers.authoring.report import check
from helpers.authoring.results import FILES, Results, demanded_accuracy, load_results, record
from helpers.data import load_data
from helpers.plumbing.errors import CourseError
from helpers.plumbing.run_files import HISTORY_COLUMNS, to_csv
from helpers.predictions import predict_test
from helpers.recipes import RECIPES, as_dict, changed, with_epochs
from helpers.runs import load_model, load_run
from helpers.settings import REPOSITORY
from helpers.training import train

SMALL = changed(RECIPES["custom_resnet"], {"batch_size": 64, "width": 8})  # as if that were the recipe
FULL = "custom_resnet-cifar10-seed0"
PUBLISHED = [name for name, recipe in RECIPES.items() if recipe.published]


@pytest.fixture
def root(tmp_path):
    """A copy of what the report reads and writes."""
    for name in ("results", "images", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    shutil.copy(REPOSITORY / "README.md", tmp_path)
    return tmp_path


@pytest.fixture
def texts_only(monkeypatch):
    """Spares the test the figures, whose pixels take a second to look at."""
    monkeypatch.setattr(report, "_figures", lambda root, made: {})


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def texts_of(parts):
    return "\n".join(part for part in parts if isinstance(part, str))


def test_the_repository_matches_its_results():
    assert check() == []


def test_a_changed_digit_on_a_page_is_named_with_both_values_and_put_right_amid_the_prose(root, texts_only):
    path = root / "results" / "README.md"
    path.write_text("Our course.\n\n" + path.read_text(encoding="utf-8") + "\nThe end.\n", encoding="utf-8")
    before = path.read_text(encoding="utf-8")
    (cell,) = re.findall(r"^\| airplane \| ([\d.]+) %", before, re.M)
    edit(path, f"| airplane | {cell} % |", "| airplane | 12.3 % |")
    faults = check(root)
    assert faults[0] == "--- results/README.md" and len(faults) == 5
    assert faults[3].startswith("-| airplane | 12.3 % |") and faults[4].startswith(f"+| airplane | {cell} % |")
    assert report.report(root=root) == [path]
    assert check(root) == [] and path.read_text(encoding="utf-8") == before


def test_a_changed_result_makes_its_table_and_its_figure_stale(root):
    summary = json.loads((root / "results" / FULL / "summary.json").read_text())
    summary["confusion_matrix"][0] = [0] * 9 + [1000]  # no airplane is found any more
    (root / "results" / FULL / "summary.json").write_text(json.dumps(summary))
    faults = check(root)
    assert any(fault.startswith("+") and "**0.0 %, lost**" in fault for fault in faults)
    stale = sorted(fault for fault in faults if fault.startswith("images/"))
    names = [f"{name}{dark}" for name in ("class_accuracy", "curves", "lr") for dark in ("", "-dark")]
    assert {f"images/custom_resnet_{name}.png was drawn from other results" for name in names} <= set(stale)
    assert "images/front_phone-dark.png was drawn from other results" in stale


def test_missing_repainted_and_damaged_figures_are_named_and_an_authors_own_stays(root):
    images = root / "images"
    (images / "custom_resnet_lr.png").unlink()
    with Image.open(images / "custom_resnet_lr-dark.png") as image:
        text, pixels = image.text, np.array(image.convert("RGB"))
    pixels[100, 100] ^= 1
    info = PngImagePlugin.PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.fromarray(pixels).save(images / "custom_resnet_lr-dark.png", pnginfo=info)
    (images / "custom_resnet_curves.png").write_bytes(b"\x89PNG no more")
    Image.new("RGB", (8, 8)).save(images / "own.png")
    faults = check(root)
    for expected in (
        "images/custom_resnet_lr.png is missing",
        "images/custom_resnet_lr-dark.png was changed after it was drawn",
        "images/custom_resnet_curves.png is damaged",
    ):
        assert sum(fault.startswith(expected) for fault in faults) == 1
    assert len(faults) == 3
    report.report(root=root)
    assert check(root) == [] and (images / "own.png").exists()


def test_figures_of_images_are_asked_for_before_anything_is_written(root):
    (root / "images" / "custom_resnet_gradcam.png").unlink()
    (root / "images" / "custom_resnet_lr.png").unlink()
    with pytest.raises(CourseError, match=r"--data: custom_resnet_gradcam\.png"):
        report.report(root=root)
    assert not (root / "images" / "custom_resnet_lr.png").exists()


@pytest.mark.parametrize("new", ["", "<!-- report:other --><!-- /report:other -->"])
def test_a_lost_or_unknown_marker_is_refused(root, texts_only, new):
    edit(root / "README.md", "<!-- report:results -->", new)
    with pytest.raises(CourseError, match=r"README\.md has to hold .* once for each of"):
        check(root)


def test_on_a_phone_the_narrow_figure_takes_its_place():
    phone = Picture("small", "a", 0, None)
    tag = Picture("wide", "what it shows", 0, None, narrow=phone).markdown("../images")
    sources = re.findall(r'<source media="([^"]+)" srcset="../images/([^"]+)">', tag)
    dark = "(prefers-color-scheme: dark)"
    assert sources == [  # a browser takes the first that fits
        (f"{dark} and (min-width: 601px)", "wide-dark.png"),
        (dark, "small-dark.png"),
        ("(max-width: 600px)", "small.png"),
    ]
    assert tag.endswith('<img alt="what it shows" src="../images/wide.png"></picture>')


def rows_of(table):
    lines = table.replace("\u00a0", " ").splitlines()[2:]
    return {cells[0]: cells[1:] for line in lines for cells in [line.strip("| ").split(" | ")]}


def test_a_table_cell_is_the_mean_and_the_sample_deviation_over_the_seeds(root):
    only_runs(root, "resnet18_layernorm", {0: 94.0, 1: 94.2, 2: 94.7})
    deviation = (((94.0 - 94.3) ** 2 + (94.2 - 94.3) ** 2 + (94.7 - 94.3) ** 2) / 2) ** 0.5
    about = RECIPES["resnet18_layernorm"].about
    row = rows_of(texts_of(pages(load_results(root))["README.md"]["results"]))["`resnet18_layernorm`"]
    others = f"{about.others:.2f} %<br>claimed: {about.claimed:.2f} %"
    demanded = f"{demanded_accuracy(RECIPES['resnet18_layernorm']):.2f} %"
    assert row == [f"**94.30 ± {deviation:.2f} %**", "3", demanded, others]
    only_runs(root, "resnet18_layernorm", {0: 91.0, 1: 92.5})  # too few for a deviation
    row = rows_of(texts_of(pages(load_results(root))["results/README.md"]["results"]))["`resnet18_layernorm`"]
    assert row[:3] == ["40", "0, 1", "**91.00, 92.50 %**"]


def test_minutes_are_those_of_the_median_epoch_on_each_device(root):
    only_runs(root, "resnet18_layernorm", {0: 94.0, 1: 94.2})
    run = load_run(root / "results" / FULL)
    path = root / "results" / "resnet18_layernorm-cifar10-seed1"
    (path / "summary.json").write_text(json.dumps(run.summary | {"device": "Another"}))
    rows = [{key: column[k] for key, column in run.history.items()} for k in range(len(run.history["epoch"]))]
    rows = [row | {"seconds": 60.0 if k else 9000.0} for k, row in enumerate(rows)]  # an epoch that slept
    (path / "history.csv").write_text(to_csv(HISTORY_COLUMNS, rows))
    made = pages(load_results(root))
    lines = [line for line in texts_of(made["results/README.md"]["minutes"]).splitlines() if "18_layernorm" in line]
    seconds = statistics.median(run.history["seconds"])
    assert lines == [
        f"| `resnet18_layernorm` | {run.provenance} | 1 | {seconds:.0f} | {40 * seconds / 60:.0f} |",
        f"| `resnet18_layernorm` | {run.provenance.replace(run.summary['device'], 'Another')} | 1 | 60 | 40 |",
    ]


def only_runs(root, name, accuracies):
    """Records as of runs of full length, made from another recipe's, in place of what is recorded; the last folder."""
    for recorded in root.glob(f"results/{name}-cifar10-seed*"):
        shutil.rmtree(recorded)
    for seed, accuracy in accuracies.items():
        folder = root / "results" / f"{name}-cifar10-seed{seed}"
        shutil.copytree(root / "results" / FULL, folder)
        other = load_run(folder)
        config = other.config | {"recipe": as_dict(RECIPES[name]), "seed": seed}
        (folder / "config.json").write_text(json.dumps(config))
        del other.summary["weights"]
        summary = other.summary | {"reported": other.summary["reported"] | {"test_acc": accuracy}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.mark.skipif(not PUBLISHED, reason="no published recipe is left")
def test_a_published_run_stands_beside_what_was_reported_and_ours_with_its_lost_classes(root):
    name = PUBLISHED[0]
    assignment = RECIPES[name].about.assignment
    folder = only_runs(root, name, {0: 94.0})
    summary = json.loads((folder / "summary.json").read_text())
    for row in summary["confusion_matrix"]:
        row[8] += row[9]
        row[9] = 0  # nothing is taken for a truck any more
    (folder / "summary.json").write_text(json.dumps(summary))
    (table,) = [
        part
        for part in pages(load_results(root))["results/PUBLISHED.md"]["published"]
        if isinstance(part, str) and f"`{name}`" in part
    ]
    head, rows = table.splitlines()[0], rows_of(table)
    column, last = head.strip("| ").split(" | ").index(f"`{name}`"), load_run(folder).history
    cell = {row: cells[column] for row, cells in rows.items()}
    assert head.endswith(f"| `{assignment}` |") and cell["run by"] == RECIPES[name].about.source
    assert cell["test accuracy, reported"] == f"{RECIPES[name].about.others:.2f} %"
    assert cell["here, last epoch"] == f"**{last['test_acc'][-1]:.2f} %**"
    assert cell["training accuracy here"] == f"{last['train_acc'][-1]:.2f} %"
    kept = np.mean(load_run(folder).class_accuracy[:9])
    assert cell["classes lost"] == f"seed 0: truck; {kept:.1f} % on the others"
    assert cell["logs"] == f"[seed 0]({folder.name}/train.log)"
    for difference in RECIPES[name].about.differs:
        assert difference in cell["not the same here"]


def test_classes_on_their_way_out_are_counted_by_seed(root):
    (root / "results" / "lost_classes.csv").write_text(
        "recipe,seed,cat,dog,ship,provenance\nx,0,0.0099,0.5,0.4901,CPU\nx,1,0.3,0.3,0.4,CPU\ny,0,0.001,0.001,0.9,CPU\n"
    )
    (root / "results" / "lost_classes_epoch.csv").write_text("recipe,seed,cat,dog,ship,provenance\nx,1,0.4,0.6,0,CPU\n")
    table = texts_of(pages(load_results(root))["results/PUBLISHED.md"]["lost"])
    expected = {"`x`": ["2", "0: cat; 1: none", "1: ship"], "`y`": ["1", "0: cat, dog", "not run yet"]}
    assert rows_of(table) == expected


def test_without_any_run_every_recipe_has_its_place_and_says_so():
    made = pages(Results({name: [] for name in RECIPES}, {}))
    ours = [name for name in RECIPES if name not in PUBLISHED]
    for name in ("README.md", "results/README.md"):
        rows = rows_of(texts_of(made[name]["results"]))
        assert list(rows) == [f"`{name}`" for name in ours]
        assert all("not run yet" in row for row in rows.values())
    assert made["README.md"]["front"] == made["README.md"]["assignments"] == []
    published = texts_of(made["results/PUBLISHED.md"]["published"])
    assert all(f"`{name}`" in published for name in PUBLISHED) and ("not run yet" in published) == bool(PUBLISHED)
    assert made["results/PUBLISHED.md"]["lost"] == ["Not run yet."]


def test_the_pages_work_without_the_published_recipes(root, monkeypatch):
    ours = {name: recipe for name, recipe in RECIPES.items() if not recipe.published}
    for module in (page, results, pictures):
        monkeypatch.setattr(module, "RECIPES", ours)
    for name in PUBLISHED:
        for folder in (root / "results").glob(f"{name}-*"):
            shutil.rmtree(folder)
    report.report(root=root)
    assert check(root) == []
    assert "published_" not in "".join(report.SECTION.findall((root / "results" / "PUBLISHED.md").read_text())[0])


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
    monkeypatch.setattr(results, "CIFAR10_FINGERPRINT", data.fingerprint)
    monkeypatch.setitem(RECIPES, "custom_resnet", SMALL)
    with pytest.raises(CourseError, match="epochs=3"):
        record(run.folder, data, root=tmp_path)
    monkeypatch.setitem(RECIPES, "custom_resnet", with_epochs(SMALL, 3))
    copy = Path(shutil.copytree(run.folder, tmp_path / "again (1)"))
    folder = record(copy, data, root=tmp_path)
    assert folder == tmp_path / "results" / run.folder.name  # whatever its folder is called
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

    content = bytearray((folder / "best.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "best.pt").write_bytes(content)
    with pytest.raises(CourseError, match="is not the file that"):
        load_model(recorded)
    record(run.folder, root=tmp_path)  # without weights: none of another record stay beside it
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"gallery.json", "lr_find.json"}


def test_what_is_of_another_recipe_than_todays_is_no_result(finished, root, tmp_path, monkeypatch):
    with pytest.raises(CourseError, match=r"synthetic is not of the complete CIFAR-10"):
        report.report(finished[1], root=root)
    today = RECIPES["custom_resnet"]
    lr_max, batch_size = f"lr_max={today.schedule.lr_max:g}", f"batch_size={today.batch_size}"
    monkeypatch.setitem(RECIPES, "custom_resnet", changed(today, {"lr_max": 0.3}))  # no matter to its range test
    with pytest.raises(CourseError, match=rf"seed0 is of another recipe .*\({lr_max} \(recipe: 0.3\)\)"):
        load_results(root)
    monkeypatch.setitem(RECIPES, "custom_resnet", changed(today, {"batch_size": 256}))
    shutil.rmtree(root / "results" / FULL)
    with pytest.raises(CourseError, match=rf"seed0-lr-find is of another recipe .*\({batch_size} \(recipe: 256\)\)"):
        load_results(root)
    monkeypatch.setitem(RECIPES, "custom_resnet", today)
    monkeypatch.setattr(results, "RECIPES", {name: RECIPES[name] for name in RECIPES if name != "custom_resnet"})
    shutil.rmtree(root / "results" / f"{FULL}-lr-find")
    with pytest.raises(CourseError, match=r"seed1 is of another recipe .*\(none of its name\)"):
        load_results(root)
    shutil.rmtree(root / "results")
    assert not any(load_results(root).by_recipe.values())


def test_the_command_line_tells_the_faults_and_fails(root, texts_only, monkeypatch, capsys):
    monkeypatch.setattr(report.check, "__defaults__", (root,))
    assert cli.main(["report", "--check"]) == 0
    edit(root / "README.md", "EPOCH: 3\n", "EPOCH: 4\n")
    assert cli.main(["report", "--check"]) == 1
    assert "-EPOCH: 4\n+EPOCH: 3\n" in capsys.readouterr().out
