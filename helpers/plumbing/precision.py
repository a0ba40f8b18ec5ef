"""Measures once on a machine what its CPU does not tell: whether PyTorch computes faster in bfloat16 there."""

import functools
import platform
import re
import time
from contextlib import suppress
from pathlib import Path

import torch

# Windows counts a thread's time in ticks of 15.6 ms (https://github.com/python/cpython/issues/135304).
CLOCK = time.perf_counter if platform.system() == "Windows" else time.thread_time


@functools.cache
def bfloat16_is_faster(cpu: str) -> bool:
    """Measure it on the CPU of that name, in a third of a second, unless torch's cache folder holds what was found.

    Its instructions do not suffice: bfloat16 convolutions became 4 to 16 times slower in one version of PyTorch, and
    products without them are up to 499 times slower (https://github.com/pytorch/pytorch/issues/183815 and 146508).
    """
    words = re.sub(r"\W+", "-", f"bfloat16 {cpu} {platform.machine()} torch {torch.__version__}")
    remembered = Path(torch.hub.get_dir()).with_name(f"cifar10-course-{words}")  # in ~/.cache/torch, or TORCH_HOME
    with suppress(OSError, KeyError, ValueError):
        return {"faster": True, "slower": False}[remembered.read_text()]
    threads, faster = torch.get_num_threads(), False
    torch.set_num_threads(1)  # so that a thread's own time can be measured, whatever else the machine computes
    try:
        with suppress(RuntimeError):  # for some CPUs oneDNN has no gradients in bfloat16 (pytorch issue 148861)
            single = [_seconds(torch.float32) for _ in range(8)]
            half = [_seconds(torch.bfloat16)]  # once, if that takes longer than all of those
            half += [_seconds(torch.bfloat16) for _ in range(7 if half[0] < sum(single) else 0)]
            faster = min(half) < min(single)  # the first ones of a process load libraries, on a fresh machine for long
    finally:
        torch.set_num_threads(threads)
    with suppress(OSError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        remembered.write_text("faster" if faster else "slower")
    return faster


@torch.enable_grad()
def _seconds(dtype: torch.dtype) -> float:
    """This thread's time for a product, a convolution and their gradients, of ones: no random numbers are drawn."""
    shapes = ((256, 256), (8, 64, 16, 16), (64, 64, 3, 3))
    matrix, maps, kernels = (torch.ones(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    started = CLOCK()
    result = (matrix @ matrix).sum() + torch.conv2d(maps, kernels, padding=1).sum()
    torch.autograd.grad(result, (matrix, maps, kernels))
    return CLOCK() - started
