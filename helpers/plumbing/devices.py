"""Spares the reader the choice of device, precision and memory format: CUDA or the CPU, and what is fastest there."""

import ctypes
import functools
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.plumbing import distributed
from helpers.plumbing.errors import CourseError
from helpers.plumbing.precision import bfloat16_is_faster
from helpers.recipes import Recipe

NO_GPU = """No GPU: a training of full length takes one hour to a day, by processor. In Colab choose Runtime > \
Change runtime type > T4 GPU, on Kaggle Settings > Accelerator > GPU T4 x2; or set COURSE_FAST=1 before the start to \
see everything on a small scale."""


@dataclass(frozen=True)
class Device:
    """A torch device and the dtype of its autocast; float32 means no autocast."""

    device: torch.device
    dtype: torch.dtype
    name: str

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def provenance(self) -> str:
        """Where a figure was made: device, precision, version."""
        return f"{self.name}, {self.precision}, torch {torch.__version__}"

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which float16 gradients need; it passes through for the other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """The module on the device, channels last: convolutions then read memory in order."""
        return module.to(self.device, memory_format=torch.channels_last)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step, instead of giving it back to the kernel and asking again.

    A step's activations are freed and allocated anew thousands of times, and fresh pages have to be cleared. The custom
    ResNet at batch 512 on two AVX512-BF16 cores: 151 images/s without, 190 with it (results/BENCH.md).
    """
    with suppress(OSError, AttributeError):  # another C library does as it likes
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the heap does not shrink


def out_of_memory(error: BaseException) -> bool:
    """Tell whether the device or the host refused memory: for the host PyTorch has no exception of its own."""
    signs = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in signs)


def explain_failures(function: Callable) -> Callable:
    """Decorate what computes with a recipe, its first argument.

    Raises CourseError, with what to change, if memory runs out, a data loading process fails or dies, or the GPU is one
    that PyTorch was not built for.
    """

    @functools.wraps(function)
    def explained(recipe: Recipe, *arguments, **options):
        try:
            return function(recipe, *arguments, **options)
        except CourseError:
            raise
        except Exception as error:
            text = str(error) or repr(error)
            causes = re.findall(r"^[\w.]+: .*", text, re.MULTILINE) if "in DataLoader worker process" in text else []
            reason = causes[-1] if causes else text.splitlines()[0]  # a worker's error comes with its traceback
            if out_of_memory(error):
                rates = {key: vars(recipe.schedule).get(key) for key in ("lr", "lr_min", "lr_max")}
                halved = {"batch_size": max(1, recipe.batch_size // 2)} | {k: v / 2 for k, v in rates.items() if v}
                sentence = (
                    f"The memory does not suffice for batch_size={recipe.batch_size} ({reason}): close what else uses "
                    "it, such as other notebooks, and run the same again; or halve the batches and with them the "
                    f"learning rate, --set {' '.join(f'{key}={value:g}' for key, value in halved.items())}, in another "
                    "--runs folder if epochs are finished here."
                )
            elif causes:
                sentence = f"An image could not be loaded or augmented ({reason}): change the data or the augmentation."
            elif "DataLoader worker (pid" in reason:
                sentence = (
                    f"A process that loads data died ({reason}): run the same again to go on after the last finished "
                    "epoch; if it is killed again, the machine has too little memory, and others on it use some."
                )
            elif "no kernel image" in reason:
                sentence = (
                    f"This PyTorch does not support {torch.cuda.get_device_name()} ({reason}): choose another GPU, on "
                    "Kaggle T4 x2, or set CUDA_VISIBLE_DEVICES to nothing and start again to use the CPU."
                )
            else:
                raise
        raise CourseError(sentence)  # not within `except`, where it would keep the tensors of the failed step alive

    return explained


def pick_device() -> Device:
    """CUDA with bfloat16 (float16 before Ampere), or the CPU, in bfloat16 if that is measured to be faster.

    Several processes, which have to agree, take bfloat16 where /proc/cpuinfo lists it.

    Custom ResNet at batch 512, channels last, on two cores with AVX512-BF16: float32 100 images/s, bfloat16 190
    (results/BENCH.md).
    """
    processes = distributed.WORLD_SIZE
    times = f"{processes} x " if processes > 1 else ""
    if torch.cuda.is_available():
        if (gpus := torch.cuda.device_count()) <= distributed.LOCAL_RANK:
            raise CourseError(f"torchrun: each process needs a GPU, so use --nproc-per-node {gpus} on this machine.")
        device = torch.device("cuda")
        if processes > 1:
            device = torch.device("cuda", distributed.LOCAL_RANK)
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # thousands of steps of one shape repay the search
        dtype = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
        return Device(device, dtype, times + torch.cuda.get_device_name())
    cpu_info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.split(":")[1].strip() for line in cpu_info.splitlines() if "model name" in line), "CPU")
    bf16 = "bf16" in cpu_info  # x86: avx512_bf16, amx_bf16
    if processes == 1 and (bf16 or not cpu_info):  # several have to agree, whatever each would measure
        bf16 = bfloat16_is_faster(model)
    name = f"{times}{model}, {torch.get_num_threads()} threads"
    return Device(torch.device("cpu"), torch.bfloat16 if bf16 else torch.float32, name)


def describe_machine() -> str:
    """Describe, for a notebook's start, what will be used, and what to do if a GPU is not switched on."""
    device = pick_device()
    text = f"{device.provenance}, Python {platform.python_version()}"
    return text if device.device.type == "cuda" else f"{text}\n{NO_GPU}"
