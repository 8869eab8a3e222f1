"""The store of weights: the modules that references stand for, in memory once for each device.

Weights are located by digest and loaded by the first call that needs them; other calls that need the same weights wait
for that one load. To keep a byte budget for each device, modules are dropped that are cheap to load for their size and
long unused. LoRAs and options are applied to clones of a module's structure over the very same memory.
"""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graphengine import ModelError
from graphengine_nodes.families.digests import model_components
from graphengine_nodes.families.family import Family
from graphengine_nodes.families.lookup import family
from graphengine_nodes.store import handed_in
from graphengine_nodes.store.changes import OFFLOADERS, ModuleChange, changes_of, held_for, keeps_scales, shared_clone
from graphengine_nodes.values.references import ControlNet, Held, IPAdapter, Model, ModelPart, Redux
from graphengine_nodes.weights import files
from graphengine_nodes.weights.devices import dtype_of, exact_device, memory_of, numbered, storages, to_device
from graphengine_nodes.weights.files import Location
from graphengine_nodes.weights.image_encoders import STEM, load_encoder
from graphengine_nodes.weights.redux_files import EMBEDDER, load_redux

if TYPE_CHECKING:
    import torch


@dataclass
class _Entry:
    """One module in the store. `users` counts the calls that hold it and the clones made of it."""

    device: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    size: int = 0
    cost: float = 0.0
    priority: float = 0.0
    users: int = 0
    base: _Entry | None = None


class WeightStore:
    """Weights in memory, by keys of their content.

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
        self._leases: dict[str, threading.RLock] = {}
        self._clock = 0.0

    @contextmanager
    def hold(
        self, key: Hashable, device: str, load: Callable[[], Any], base: Hashable = None, stays: bool = True
    ) -> Iterator[Any]:
        """Hold the module under a key, loaded if it is missing; it stays at least as long as the context.

        Args:
            base: The key of the module with which it shares its tensors.
            stays: Keep it cached after use, if the budget allows.
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
                    self._remove(key, entry)
                elif not stays and entry.users == 0:
                    self._drop(key, entry)
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
                shared = set(storages(entry.base.value))
            entry.size = sum(size for pointer, size in storages(value).items() if pointer not in shared)
            entry.cost = time.perf_counter() - start
            entry.value = value

    def _touch(self, entry: _Entry) -> None:
        # GreedyDual-Size: the clock is the priority of the last dropped module, so an unused module falls behind
        # however costly its load was.
        entry.priority = self._clock + entry.cost / (entry.size + 1)

    def _make_room(self, device: str) -> None:
        mine = {key: e for key, e in self._entries.items() if e.device == device and e.value is not None}
        total = sum(entry.size for entry in mine.values())
        budget = self._budget_of(device)
        while total > budget:
            free = [(entry.priority, index, key) for index, (key, entry) in enumerate(mine.items()) if not entry.users]
            if not free:
                return
            self._clock, _, key = min(free)
            entry = mine.pop(key)
            total -= entry.size
            self._drop(key, entry)

    def _budget_of(self, device: str) -> int:
        return self.budget if self.budget is not None else memory_of(device)

    def _drop(self, key: Hashable, entry: _Entry) -> None:
        self.evictions[key] += 1
        self._remove(key, entry)
        entry.value = None
        if entry.base is not None:
            entry.base.users -= 1

    def _remove(self, key: Hashable, entry: _Entry) -> None:
        if self._entries.get(key) is entry:  # it may have been abandoned
            del self._entries[key]

    def clear(self, device: str | None = None) -> None:
        """Drop all modules that no call holds at this moment, on one device or on all."""
        with self._lock:
            self._drop_free(lambda key: device in (None, self._entries[key].device))

    def spare(self, device: str) -> None:
        """Free a device's memory: the modules that no call holds, and torch's cache."""
        import gc

        import torch

        self.clear(numbered(device))
        gc.collect()
        torch.cuda.empty_cache()

    def _drop_free(self, wanted: Callable[[Hashable], bool]) -> None:
        while free := [key for key, entry in self._entries.items() if not entry.users and wanted(key)]:
            for key in free:
                self._drop(key, self._entries[key])

    def size(self, device: str = "cpu") -> int:
        """Bytes held for a device."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values() if entry.device == device)

    def free(self, device: str) -> int | None:
        """Bytes that can be loaded for a device before modules are dropped; None while nothing is held for it."""
        held = self.size(device)
        if held == 0:
            return None
        room = self._budget_of(device) - held
        if device.startswith("cuda"):  # others compute on it as well
            import torch

            kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            room = min(room, torch.cuda.mem_get_info(device)[0] + kept)
        return max(0, room)

    def digests(self, device: str) -> frozenset[str]:
        """The digests of the components that are held for a device."""
        with self._lock:
            held = [key for key, entry in self._entries.items() if entry.device == device and entry.value is not None]
            return frozenset(key[0] for key in held if isinstance(key, tuple) and isinstance(key[0], str))

    # --- what nodes ask for -------------------------------------------------------------------------------------------

    @contextmanager
    def component(self, model: Model, name: str, device: str) -> Iterator[Any]:
        """A component of a model, ready to compute on a device, with the LoRAs and options that change it.

        A module that moves or casts its weights while it computes is leased: it serves one call on a device at a time.

        Raises:
            ModelError: Its bytes are not on this machine, or damaged; a LoRA does not fit it; the machine cannot do
                what the model's options say.
        """
        kind, device = family(model.family), exact_device(device)
        model = held_for(model, device)
        changes = changes_of(model, name, device)
        digest, weighty = model.component(name), kind.stems[name] is not None
        if isinstance(digest, Held):
            yield handed_in.held(model, name, device, changes)
            return
        dtype = dtype_of(model.precision, device) if weighty else None
        offload = model.option("offload") if weighty else None
        small = keeps_scales(model, name)
        read = functools.partial(_read, kind, name, digest, f"{model.source}'s {name}", dtype, small)
        key = (digest, str(dtype), *(["small"] if small else []))
        with self._computing(key, device, read, changes, offload) as module:
            yield module

    def config(self, model: Model, name: str) -> Mapping[str, Any]:
        """The configuration of a component, of which nothing is loaded.

        Raises:
            ModelError: Its files are not on this machine.
        """
        digest = model.component(name)
        if isinstance(digest, Held):
            return dict(digest.held.config)
        return files.read_json(files.locate(digest, f"{model.source}'s {name}").folder / "config.json")

    @contextmanager
    def controlnet(self, controlnet: ControlNet, device: str, model: Model | None = None) -> Iterator[Any]:
        """A ControlNet, ready to compute on a device; offloaded as the model that it steers."""
        kind, device = family(controlnet.family), exact_device(device)
        dtype, digest = dtype_of(controlnet.precision, device), controlnet.weights
        if isinstance(digest, Held):
            yield handed_in.placed(digest.held, device, dtype if controlnet.precision else None)
            return
        offload = held_for(model, device).option("offload") if model is not None else None
        changes = [OFFLOADERS[offload](device)] if offload in OFFLOADERS else []
        read = functools.partial(_read, kind, "controlnet", digest, controlnet.source, dtype)
        with self._computing((digest, str(dtype)), device, read, changes, offload) as module:
            yield module

    @contextmanager
    def image_encoder(self, adapter: IPAdapter, device: str) -> Iterator[Any]:
        """The image encoder of an IP-Adapter, ready to compute on a device."""
        device = exact_device(device)
        dtype = dtype_of(adapter.precision, device)

        def read() -> Any:
            return load_encoder(_unchanged(adapter.encoder, f"{adapter.source}'s image encoder", STEM), dtype)

        with self._computing((adapter.encoder, str(dtype)), device, read, (), None) as module:
            yield module

    @contextmanager
    def redux(self, reference: Redux, device: str) -> Iterator[Any]:
        """The image encoder and the embedder of Redux, ready to compute on a device."""
        device = exact_device(device)
        dtype, source = dtype_of(reference.precision, device), reference.source

        def read() -> Any:
            encoder = _unchanged(reference.encoder, f"{source}'s image encoder", STEM)
            return load_redux(_unchanged(reference.weights, source, EMBEDDER), encoder, dtype)

        with self._computing((reference.weights, reference.encoder, str(dtype)), device, read, (), None) as modules:
            yield modules

    @contextmanager
    def _computing(
        self,
        key: tuple[Hashable, ...],
        device: str,
        read: Callable[[], Any],
        changes: Sequence[ModuleChange],
        offload: str | None,
    ) -> Iterator[Any]:
        """A module with its changes, leased if it must be, for as long as it computes."""
        home = "cpu" if offload else device
        leased = any(change.leased for change in changes)
        there = [change for change in changes if change.last and offload == "model" and not leased]
        with ExitStack() as stack:
            if leased:
                stack.enter_context(self._lease(device))
            here = [change for change in changes if change not in there]
            module = stack.enter_context(self._changed((*key, home), home, read, here))
            if offload == "model" and leased:  # not shared: no clone is needed
                stack.callback(module.to, home)
                module.to(device)
            elif offload == "model":

                def visitor() -> Any:
                    return done(shared_clone(module, lambda _, tensor: tensor.to(device)), there)

                visit = (*key, home, *(change.key for change in changes), "visit", device)
                module = stack.enter_context(self.hold(visit, device, visitor, stays=False))
            yield module

    @contextmanager
    def _changed(
        self, key: tuple[Any, ...], device: str, read: Callable[[], Any], changes: Sequence[ModuleChange]
    ) -> Iterator[Any]:
        """A module with its changes, over the memory of the module that was read where they can share it."""
        alone = any(change.rewrites for change in changes)
        stored = [change for change in changes if change.stored or alone]
        over = [change for change in changes if change not in stored]
        key = (*key, *(change.key for change in stored))
        with self.hold(key, device, lambda: done(to_device(read(), device), stored)) as module:
            if not over:
                yield module
                return
            changed = (*key, *(change.key for change in over))

            def clone() -> Any:
                return to_device(done(shared_clone(module), over), device)

            with self.hold(changed, device, clone, base=key) as found:
                yield found

    def _lease(self, device: str) -> threading.RLock:
        """The lock of a device's leased modules: a single lock, so that no call waits for two."""
        with self._lock:
            return self._leases.setdefault(device, threading.RLock())

    # --- what services ask for ----------------------------------------------------------------------------------------

    def load(self, reference: Any, part: str | None, device: str) -> None:
        """Load the weights of a reference, or of one part of a model, before a node computes with them.

        Raises:
            ModelError: As nodes that compute with it raise it.
        """
        if isinstance(reference, ModelPart):
            reference, part = reference.model, part or reference.part
        if isinstance(reference, Model):
            stems = family(reference.family).stems
            for name in model_components(reference, part):  # what has no weights is held in main memory
                self._visit(self.component(reference, name, "cpu" if stems[name] is None else device))
        elif isinstance(reference, ControlNet):
            self._visit(self.controlnet(reference, device))
        elif isinstance(reference, IPAdapter):
            self._visit(self.image_encoder(reference, device))
        elif isinstance(reference, Redux):
            self._visit(self.redux(reference, device))

    @staticmethod
    def _visit(context: AbstractContextManager[Any]) -> None:
        with context:
            pass

    def devices_of(self, model: Model) -> list[str]:
        """The devices that hold weights of a model's denoiser at this moment."""
        digests = {model.component(name) for name in _weighty(model, "denoiser")}
        with self._lock:
            loaded = {key: e for key, e in self._entries.items() if e.value is not None and isinstance(key, tuple)}
            return sorted({entry.device for key, entry in loaded.items() if key[0] in digests})

    def abandon(self, model: Model) -> None:
        """Forget weights of a model that a sharer has written to: the next call reads them from disk again."""
        digests = {digest for _, digest in model.components}
        with self._lock:
            for key in [key for key in self._entries if isinstance(key, tuple) and key[0] in digests]:
                del self._entries[key]

    def forget(self, model: Model) -> None:
        """Drop the weights of a model, except those in use."""
        digests = {digest for _, digest in model.components}
        with self._lock:
            self._drop_free(lambda key: isinstance(key, tuple) and key[0] in digests)


def in_main_memory(value: Any) -> Any:
    """Give a model without an offload option group offload: weights in main memory, a few layers on the device."""
    if isinstance(value, ModelPart):
        return replace(value, model=in_main_memory(value.model))
    plain = isinstance(value, Model) and value.option("offload") is None and value.option("quantization") != "int8"
    return value.with_options(offload="group") if plain else value


def _read(kind: Family, name: str, digest: str, what: str, dtype: torch.dtype | None, small: bool = False) -> Any:
    """Read a component from its files, on the CPU.

    Raises:
        ModelError: They are not on this machine, or have changed.
    """
    return kind.load(name, _unchanged(digest, what, kind.stems[name]), dtype, small)


def _unchanged(digest: str, what: str, stem: str | None) -> Location:
    """Find a component's files, which must be as they were when they were loaded."""
    location = files.locate(digest, what)
    if files.component_digest(location, stem) != digest:
        raise ModelError(f"{location.path} has changed since it was loaded; load it again")
    return location


def done(module: Any, changes: Sequence[ModuleChange]) -> Any:
    """Apply changes to a module that is not shared."""
    for change in changes:
        change.apply(module)
    return module


def _weighty(model: Model, part: str) -> list[str]:
    """The names of the components of a part that have weights."""
    kind = family(model.family)
    return [name for name in kind.parts[part] if kind.stems[name] is not None]


store = WeightStore()
"""This process's weights."""
