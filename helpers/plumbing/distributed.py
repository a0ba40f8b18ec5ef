"""Spares the reader several processes: one training under torchrun, who does what, how their figures become one.

Each process computes its share of every batch, and torch's DistributedDataParallel averages their gradients. Only the
first speaks and writes. Without torchrun, or in a single process, everything here is the plain computation.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta

from helpers.plumbing.errors import CourseError


def _of_torchrun(variable: str, otherwise: int) -> int:
    return int(os.environ[variable]) if "TORCHELASTIC_RUN_ID" in os.environ else otherwise


RANK, WORLD_SIZE = _of_torchrun("RANK", 0), _of_torchrun("WORLD_SIZE", 1)  # among the processes of all machines
LOCAL_RANK = _of_torchrun("LOCAL_RANK", 0)  # among those of this machine
TIMEOUT = timedelta(minutes=30)  # a process waits for others for a step, a checkpoint, or data to be downloaded


@contextmanager
def group() -> Iterator[None]:
    """Connects the processes for the block. Raises CourseError if another one ends before its time."""
    if WORLD_SIZE == 1:
        yield
        return
    import torch
    from torch import distributed

    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error):
            raise CourseError(
                "Another process of this training ended or does not answer (it or torchrun says why): start the same "
                "command again, it goes on after the last finished epoch."
            ) from error
        raise
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def share(count: int) -> slice:
    """This process's slice of `count` things in a row: parts as equal as can be, the larger ones first."""
    each, rest = divmod(count, WORLD_SIZE)
    start = RANK * each + min(RANK, rest)
    return slice(start, start + each + int(rest > RANK))


def data_parallel(model, sync_batchnorm: bool = False):
    """The model to train with: its backward pass leaves in every process the average of all processes' gradients.

    With `sync_batchnorm` its BatchNorm statistics in training are those of the whole batch, not of a process's share.
    """
    if WORLD_SIZE == 1:
        return model
    import torch

    if sync_batchnorm and not torch.cuda.is_available():
        raise CourseError(
            "sync_batchnorm=True needs GPUs, as torch synchronises BatchNorm statistics on them only: leave it out, or "
            "train in one process."
        )
    if sync_batchnorm:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return torch.nn.parallel.DistributedDataParallel(model)


def mean_over_ranks(loss_function: Callable) -> Callable:
    """The loss function whose gradients, averaged over the processes, are those of the mean over the whole batch.

    Each process gives it the logits and labels of its share, which may be of another size than others', or empty.
    """
    if WORLD_SIZE == 1:
        return loss_function

    def mean(logits, labels, **options):
        import torch

        count = torch.tensor(len(labels), device=logits.device)
        torch.distributed.all_reduce(count)
        return loss_function(logits, labels, reduction="sum", **options) * (WORLD_SIZE / count)

    return mean


def all_reduce_sum(*numbers: float) -> list:
    """The sum of each number over the processes."""
    return [sum(column) for column in zip(*_all_gather(numbers), strict=True)]


def all_gather_rows(part):
    """The rows of all processes' tensors, in the order of their ranks, on the CPU."""
    if WORLD_SIZE == 1:
        return part.cpu()
    import torch

    return torch.cat(_all_gather(part.cpu()))


def _all_gather(value: object) -> list:
    if WORLD_SIZE == 1:
        return [value]
    from torch import distributed

    values = [None] * WORLD_SIZE
    distributed.all_gather_object(values, value)
    return values


def from_rank_zero(function: Callable, *arguments):
    """Call the function in the first process alone, while the others wait, and return its result in all."""
    if WORLD_SIZE == 1:
        return function(*arguments)
    from torch import distributed

    result = [function(*arguments) if RANK == 0 else None]
    distributed.broadcast_object_list(result)
    return result[0]


def broadcast_buffers(*models) -> None:
    """Give all processes the first one's BatchNorm statistics, as DistributedDataParallel does before every step."""
    if WORLD_SIZE == 1:
        return
    from torch import distributed

    for model in models:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def seed_dropout_per_rank(seed: int, epoch: int) -> None:
    """Give every rank but 0 its own dropout seed, the same one when an epoch is repeated."""
    if RANK == 0:
        return
    import numpy as np
    import torch

    torch.manual_seed(int(np.random.SeedSequence((seed, epoch, RANK)).generate_state(1)[0]))


@contextmanager
def first_of_each_machine() -> Iterator[None]:
    """Within the block, and around a function that it decorates: the first process of each machine goes before others.

    So that files which it leaves are made once on each machine, whether machines share disks or not.
    """
    if LOCAL_RANK:
        _all_gather(None)  # waits for all
    yield
    if not LOCAL_RANK:
        _all_gather(None)


@contextmanager
def muted(*, errors: bool = False) -> Iterator[None]:
    """Only the first process's prints within the block are seen; with `errors`, what goes to stderr as well."""
    if not RANK:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere if errors else sys.stderr):
        yield
