"""`GenSession`: pictures of a Pipe into a folder, each with the configuration that made it."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphengine.errors import FileError
from graphengine.results.outputs import place
from graphengine.system.staging import hidden_folder, sweep, sync
from multigen.util import create_exif_metadata, plain

if TYPE_CHECKING:
    import PIL.Image

__all__ = ["GenSession"]

VERSION = "0.0.1"
"""The version of the `.txt` files' format (`cversion`)."""

OFFLOADED = 8
"""Pictures in one call under sequential offload, where moving the weights takes most of each step's time."""


class GenSession:
    """Generates pictures and writes them as `00000.png` with `00000.txt`, the configuration as JSON.

    Files in the folder are never overwritten: numbers go on after the highest one, and if another session takes a name
    meanwhile, the picture is called `00000_1`, `00000_2`, ...

    Args:
        session_dir: The folder; made if it is not there.
        pipe: The generator of pictures, with `gen(inputs)` and `get_config()`.
        config: A `Cfgen` or another iterable of inputs of `gen`.
        name_prefix: The beginning of the names.

    Attributes:
        last_img_name, last_index, last_conf: File, number and configuration of the last picture.
    """

    def __init__(
        self, session_dir: str | Path, pipe: Any, config: Iterable[dict[str, Any]], name_prefix: str = ""
    ) -> None:
        self.session_dir = Path(session_dir).expanduser()
        self.pipe = pipe
        self.confg = config
        self.name_prefix = name_prefix
        self.last_img_name: str | None = None
        self.last_index: int | None = None
        self.last_conf: dict[str, Any] | None = None
        self._inputs = iter(config)

    def gen_sess(
        self,
        add_count: int = 0,
        save_img: bool = True,
        drop_cfg: bool = False,
        force_collect: bool = False,
        callback: Callable[[], object] | None = None,
        save_metadata: bool = False,
        batch_size: int | None = None,
    ) -> list[PIL.Image.Image] | None:
        """Generate pictures until the configurations end.

        Args:
            add_count: Added to the `Cfgen`'s `max_count` before.
            save_img: Write the pictures; otherwise they are returned.
            drop_cfg: Write no `.txt`.
            force_collect: Return the pictures that were written, too.
            callback: Called after each picture.
            save_metadata: Write the configuration into the pictures' EXIF as well.
            batch_size: Pictures in one call of `gen`; by default one, and 8 under sequential offload.

        Raises:
            FileError: The folder cannot be made or written.
        """
        if add_count:
            config: Any = self.confg
            config.max_count += add_count
        size = batch_size or (OFFLOADED if getattr(self.pipe, "offload_gpu_id", None) is not None else 1)
        collected: list[PIL.Image.Image] | None = [] if force_collect or not save_img else None
        numbers = count(self.first_number() if save_img else 0 if self.last_index is None else self.last_index + 1)
        for picture, config in self._generate(size):
            self.last_index = next(numbers)
            self.last_conf = plain({**self.pipe.get_config(), **config, "feedback": "?", "cversion": VERSION})
            if save_img:
                self.last_img_name = str(self.save(picture, self.last_conf, drop_cfg, save_metadata))
            if collected is not None:
                collected.append(picture)
            if callback is not None:
                callback()
        return collected

    def _generate(self, size: int) -> Iterator[tuple[PIL.Image.Image, dict[str, Any]]]:
        """Generate pictures, with the inputs that made them; `size` inputs go into one call."""
        while batch := [_seeded(inputs) for inputs in islice(self._inputs, size)]:
            pictures = self.pipe.gen(_call(batch))
            each = len(pictures) // len(batch)  # several with num_images_per_prompt
            for number, picture in enumerate(pictures):
                yield picture, batch[number // each]

    def first_number(self) -> int:
        """The number after the highest one in the folder, which is made.

        Raises:
            FileError: The folder cannot be made or read.
        """
        pattern = re.compile(rf"{re.escape(self.name_prefix)}(\d{{5,}})(_\d+)?\.(png|txt)")
        try:
            self.session_dir.mkdir(parents=True, exist_ok=True)
            for _ in sweep(self.session_dir):  # files that killed processes have left
                pass
            found = [match for file in self.session_dir.iterdir() if (match := pattern.fullmatch(file.name))]
        except OSError as error:
            raise FileError(f"the folder {self.session_dir} cannot be used: {error.strerror or error}") from None
        return max((int(match[1]) for match in found), default=-1) + 1

    def save(
        self, picture: PIL.Image.Image, conf: dict[str, Any], drop_cfg: bool = False, save_metadata: bool = False
    ) -> Path:
        """Write a picture under the next number; its configuration is written first, so that no picture is without one.

        Raises:
            FileError: The folder cannot be written.
        """
        if self.last_index is None:
            self.last_index = self.first_number()
        exif = create_exif_metadata(picture, conf) if save_metadata else None
        text = json.dumps(conf, indent=4, ensure_ascii=False, allow_nan=False)
        try:
            with hidden_folder(self.session_dir) as hidden:
                written = [hidden / "conf.txt", hidden / "picture.png"]
                written[0].write_bytes(text.encode())
                picture.save(written[1], exif=exif)
                for file in written:
                    sync(file)
                return self._place(written[drop_cfg:])
        except OSError as error:
            raise FileError(f"no picture can be written into {self.session_dir}: {error.strerror or error}") from None

    def _place(self, files: Sequence[Path]) -> Path:
        """Move files, the picture last, to the first free name."""
        for number in count():
            stem = f"{self.name_prefix}{self.last_index:05d}" + (f"_{number}" if number else "")
            finals = [self.session_dir / f"{stem}{file.suffix}" for file in files]
            placed: list[Path] = []
            try:
                if len(files) == 1 and finals[0].with_suffix(".txt").exists():
                    continue
                for file, final in zip(files, finals, strict=True):
                    place(file, final)
                    placed.append(final)
                return finals[-1]
            except FileExistsError:
                for file, final in zip(files, placed, strict=False):  # the picture is another session's, so is the name
                    final.unlink() if file.exists() else final.replace(file)
        raise AssertionError("numbers do not end")


def _seeded(inputs: dict[str, Any]) -> dict[str, Any]:
    """Add a random seed to inputs without one, so that the configuration can make the picture again."""
    if inputs.get("generator") is None and inputs.get("seed") is None:
        return {**inputs, "generator": random.randint(1, 2**32 - 1)}
    return dict(inputs)


def _call(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The inputs of one call of `gen`: prompts and generators of several pictures as lists."""
    calls = [{**inputs, **_generator(inputs)} for inputs in batch]
    if len(calls) == 1:
        return calls[0]
    together: dict[str, Any] = {}
    for name in calls[0]:
        values = [call[name] for call in calls]
        apart = name in ("prompt", "negative_prompt", "generator") or any(v is not values[0] for v in values)
        together[name] = values if apart else values[0]
    return together


def _generator(inputs: dict[str, Any]) -> dict[str, Any]:
    import torch

    seed = inputs.get("generator")
    return {"generator": torch.Generator().manual_seed(seed)} if isinstance(seed, int) else {}
