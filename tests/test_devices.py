"""Which precision is picked, and what a failing computation is called."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from helpers.plumbing import devices, distributed, precision
from helpers.plumbing.devices import explain_failures, pick_device
from helpers.plumbing.errors import CourseError
from helpers.recipes import get_recipe


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Stands in for the stopwatch: seconds by dtype, at first with loading, and the calls so far; nothing is cached."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache" / "torch"))
    seconds, calls = {torch.float32: 1.0, torch.bfloat16: 0.5}, []

    def stopwatch(dtype):
        calls.append(dtype)
        if seconds[dtype] is None:
            raise RuntimeError("DNNL does not support bf16/f16 backward on the platform")
        return seconds[dtype] + 30 * (len(calls) == 1)

    monkeypatch.setattr(precision, "_seconds", stopwatch)
    precision.bfloat16_is_faster.cache_clear()
    yield seconds, calls
    precision.bfloat16_is_faster.cache_clear()


@pytest.mark.parametrize(
    ("bfloat16", "faster", "most"), [(0.5, True, 16), (1.01, False, 16), (499.0, False, 9), (None, False, 9)]
)
def test_bfloat16_is_used_where_it_is_faster_and_this_is_measured_once(measured, tmp_path, bfloat16, faster, most):
    seconds, calls = measured
    seconds[torch.bfloat16] = bfloat16
    assert precision.bfloat16_is_faster("A CPU @ 2 GHz") is faster and len(calls) == most
    precision.bfloat16_is_faster.cache_clear()  # as a new process
    assert precision.bfloat16_is_faster("A CPU @ 2 GHz") is faster and len(calls) == most
    (file,) = tmp_path.rglob("cifar10-course-bfloat16-A-CPU-2-GHz-*")
    file.write_text("fas")  # torn
    precision.bfloat16_is_faster.cache_clear()
    assert precision.bfloat16_is_faster("A CPU @ 2 GHz") is faster and len(calls) == 2 * most
    assert precision.bfloat16_is_faster("Another CPU") is faster and len(calls) == 3 * most


@pytest.mark.parametrize(
    ("cpu_info", "processes", "dtype", "is_measured"),
    [
        ("model name\t: A CPU\nflags\t: avx512_bf16", 1, torch.bfloat16, True),
        ("model name\t: A CPU\nflags\t: avx512_bf16", 2, torch.bfloat16, False),  # all have to agree
        ("model name\t: A CPU\nflags\t: avx2", 1, torch.float32, False),
        (None, 1, torch.bfloat16, True),  # not Linux
    ],
)
def test_instructions_for_bfloat16_decide_whether_to_measure(
    measured, monkeypatch, cpu_info, processes, dtype, is_measured
):
    file = SimpleNamespace(exists=lambda: cpu_info is not None, read_text=lambda: cpu_info)
    monkeypatch.setattr(devices, "Path", lambda path: file)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "WORLD_SIZE", processes)
    device = pick_device()
    assert device.dtype == dtype and bool(measured[1]) == is_measured
    model = "A CPU, " if "A CPU" in str(cpu_info) else "CPU, "
    assert device.name.startswith("2 x " * (processes == 2) + model)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("3 channels asked for,\n  not 1"), r"or augmented \(ValueError: 3 channels asked for,\)"),
        (OSError(12, "Cannot allocate memory"), r"memory does not suffice .* \(OSError: .*Cannot allocate memory\)"),
    ],
)
def test_error_in_a_loading_process_is_named(error, sentence):
    def fail(images):
        raise error

    @explain_failures
    def train(recipe):
        list(DataLoader([0], collate_fn=fail, num_workers=1, multiprocessing_context="fork"))

    with pytest.raises(CourseError, match=sentence) as caught:
        train(get_recipe("custom_resnet"))
    assert "Traceback" not in str(caught.value)
