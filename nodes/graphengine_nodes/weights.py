"""The store of weights: what a reference stands for, in memory once for each device.

Bytes are found by digest and loaded by whoever needs them first; others who want the same wait for that one load,
and nobody else does. A byte budget for each device is kept by dropping what is cheapest to have again for its size
and longest unused. LoRAs live on clones of a module's structure over the very same tensors.
"""

from __future__ import annotations

import copy
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graphengine.errors import ModelError
from graphengine.files import fingerprint
from graphengine_nodes import checkpoints
from graphengine_nodes.families import family
from graphengine_nodes.types import ControlNet, LoRA, Model

if TYPE_CHECKING:
    import torch


@dataclass
class _Entry:
    """One thing in the store. `users` counts the calls that hold it and the clones made of it."""

    device: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    size: int = 0
    cost: float = 0.0
    priority: float = 0.0
    users: int = 0
    base: _Entry | None = None


class Store:
    """Weights in memory, by what they are.

    Args:
        budget: Bytes for each device; None for half of the machine's memory, or four fifths of a GPU's.

    Attributes:
        loads, evictions: How often each key was loaded and dropped.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget = budget
        self.loads: Counter[Hashable] = Counter()
        self.evictions: Counter[Hashable] = Counter()
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()
        self._clock = 0.0

    @contextmanager
    def hold(self, key: Hashable, device: str, load: Callable[[], Any], base: Hashable = None) -> Iterator[Any]:
        """What is kept under a key, loaded if it is not there; it stays at least as long as the context.

        Args:
            base: The key of what it shares its tensors with.
        """
        with self._lock:
            entry = self._entries.setdefault(key, _Entry(device))
            entry.users += 1
        try:
            with entry.lock:
                if entry.value is None:
                    self._load(key, entry, load, base)
            with self._lock:
                self._touch(entry)
            yield entry.value
        finally:
            with self._lock:
                entry.users -= 1
                if entry.value is None and entry.users == 0:
                    self._entries.pop(key, None)
                self._make_room(device)

    def _load(self, key: Hashable, entry: _Entry, load: Callable[[], Any], base: Hashable) -> None:
        import torch

        start = time.perf_counter()
        try:
            value = load()
        except (MemoryError, torch.OutOfMemoryError):
            self.clear()
            value = load()
        with self._lock:
            self.loads[key] += 1
            entry.base = self._entries.get(base)
            shared: set[int] = set()
            if entry.base is not None:
                entry.base.users += 1
                shared = set(_storages(entry.base.value))
            entry.size = sum(size for pointer, size in _storages(value).items() if pointer not in shared)
            entry.cost = time.perf_counter() - start
            entry.value = value

    def _touch(self, entry: _Entry) -> None:
        # GreedyDual-Size: the clock is the priority of what was dropped last, so what is not used any more falls
        # behind however dear it was.
        entry.priority = self._clock + entry.cost / (entry.size + 1)

    def _make_room(self, device: str) -> None:
        mine = {key: e for key, e in self._entries.items() if e.device == device and e.value is not None}
        total = sum(entry.size for entry in mine.values())
        budget = self.budget if self.budget is not None else _memory_of(device)
        while total > budget:
            free = [(entry.priority, index, key) for index, (key, entry) in enumerate(mine.items()) if not entry.users]
            if not free:
                return
            self._clock, _, key = min(free)
            entry = mine.pop(key)
            total -= entry.size
            self._drop(key, entry)

    def _drop(self, key: Hashable, entry: _Entry) -> None:
        self.evictions[key] += 1
        del self._entries[key]
        entry.value = None
        if entry.base is not None:
            entry.base.users -= 1

    def clear(self) -> None:
        """Drop everything that nobody holds at this moment."""
        with self._lock:
            while free := [key for key, entry in self._entries.items() if not entry.users]:
                for key in free:
                    self._drop(key, self._entries[key])

    def size(self, device: str = "cpu") -> int:
        """Bytes held for a device."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values() if entry.device == device)

    def digests(self, device: str) -> frozenset[str]:
        """The digests of the components that are held for a device."""
        with self._lock:
            held = [key for key, entry in self._entries.items() if entry.device == device and entry.value is not None]
            return frozenset(key[0] for key in held if isinstance(key, tuple) and isinstance(key[0], str))

    # --- what nodes ask for -------------------------------------------------------------------------------------------

    @contextmanager
    def component(self, model: Model, name: str, device: str) -> Iterator[Any]:
        """A component of a model on a device, with the LoRAs that change it.

        Raises:
            ModelError: Its bytes are not on this machine, or damaged; a LoRA does not fit it.
        """
        digest = model.component(name)
        kind = family(model.family)
        dtype = dtype_of(model.precision, device) if kind.stems[name] is not None else None
        part = next(part for part, names in kind.parts.items() if name in names)
        key = (digest, str(dtype), device)

        def load() -> Any:
            location = checkpoints.locate(digest, f"{model.source}'s {name}")
            if checkpoints.component_digest(location, kind.stems[name]) != digest:
                raise ModelError(f"{location.path} has changed since it was loaded; load it again")
            return to_device(kind.load(name, location, dtype), device)

        loras = model.loras_of(part) if dtype is not None else ()
        with self.hold(key, device, load) as module:
            if not loras:
                yield module
                return
            applied = tuple((lora.weights, scale) for lora, scale in loras)

            def clone() -> Any:
                files = [(f"lora_{i}", locate_lora(lora), scale) for i, (lora, scale) in enumerate(loras)]
                copied = shared_clone(module)
                kind.add_loras(name, copied, files)
                return to_device(copied, device)

            with self.hold((*key, applied), device, clone, base=key) as changed:
                yield changed

    @contextmanager
    def controlnet(self, controlnet: ControlNet, device: str) -> Iterator[Any]:
        """A ControlNet on a device."""
        dtype = dtype_of(controlnet.precision, device)
        kind = family(controlnet.family)

        def load() -> Any:
            location = checkpoints.locate(controlnet.weights, controlnet.source)
            if checkpoints.component_digest(location, kind.stems["controlnet"]) != controlnet.weights:
                raise ModelError(f"{location.path} has changed since it was loaded; load it again")
            return to_device(kind.load("controlnet", location, dtype), device)

        with self.hold((controlnet.weights, str(dtype), device), device, load) as module:
            yield module


def locate_lora(lora: LoRA) -> Any:
    """The file of a LoRA, unchanged since it was loaded."""
    location = checkpoints.locate(lora.weights, lora.source)
    if fingerprint(location.path) != lora.weights:
        raise ModelError(f"{location.path} has changed since it was loaded; load it again")
    return location.path


def shared_clone(module: Any) -> Any:
    """A copy of a module's structure over the very same tensors: what is added to it does not reach the original."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in tensors})


def dtype_of(precision: str | None, device: str) -> torch.dtype:
    """The type of numbers to compute with; without a wish single precision on a CPU, half on anything else."""
    import torch

    if precision is None:
        return torch.float32 if device.startswith("cpu") else torch.float16
    found = getattr(torch, precision)
    assert isinstance(found, torch.dtype)
    return found


def to_device(value: Any, device: str) -> Any:
    """A module on a device; what is no module stays as it is."""
    return value.to(device) if hasattr(value, "parameters") and device != "cpu" else value


def _storages(value: Any) -> dict[int, int]:
    """Address and bytes of every piece of memory that a module uses."""
    if not hasattr(value, "parameters"):
        return {}
    storages = [t.untyped_storage() for t in [*value.parameters(), *value.buffers()]]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _memory_of(device: str) -> int:
    if given := os.environ.get("GRAPHENGINE_WEIGHTS_GB"):
        return int(float(given) * 2**30)
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.get_device_properties(device).total_memory * 0.8)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)


store = Store()
"""This process's weights."""
