"""Data-parallel training on CPU cores: a process of one thread for each core, gradients averaged with gloo.

Two processes of one thread beat one process of two, most of all when something else runs on the cores.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from training.errors import TrainingError


def one_thread() -> None:
    """Keep this process's libraries to one thread."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def launch(work: Callable[..., None], *args: object, processes: int | None = None) -> None:
    """Run `work(rank, processes, *args)` in each process and wait for all; one process is this one."""
    processes = processes or os.cpu_count() or 1
    if processes == 1:
        one_thread()
        work(0, 1, *args)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    errors = get_context("spawn").SimpleQueue()
    try:
        spawn(_start, (processes, port, errors, work, args), nprocs=processes)  # type: ignore[no-untyped-call]
    except ProcessExitedException:
        if errors.empty():
            raise
        raise TrainingError(errors.get()) from None


def _start(rank: int, processes: int, port: int, errors: Any, work: Callable[..., None], args: Sequence[Any]) -> None:
    one_thread()
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    try:
        work(rank, processes, *args)
    except TrainingError as error:
        errors.put(str(error))
        sys.exit(1)
    dist.destroy_process_group()


def average_gradients(weights: Sequence[nn.Parameter]) -> None:
    if not dist.is_initialized():
        return
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    shaped = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
    torch._foreach_copy_(gradients, shaped)


def same_everywhere(tensor: torch.Tensor) -> torch.Tensor:
    """The first process's values, in all."""
    if dist.is_initialized():
        dist.broadcast(tensor, 0)
    return tensor
