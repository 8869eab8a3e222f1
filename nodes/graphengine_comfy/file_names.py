"""Names of the files of ComfyUI's output nodes: `filename_prefix` with its patterns, and those of previews."""

from __future__ import annotations

import random
import re
import string
import time
from typing import Any

from graphengine import FileName

DEFAULT = "ComfyUI"
PREVIEW = "temp/ComfyUI_temp_"
"""What the names of pictures begin with that are only to be looked at."""
BATCH_NUMBER = "%batch_num%"
LONGEST = 200
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DATE = re.compile(r"%date:([^%]{1,60})%")
_PART = re.compile(r"yyyy|yy|MM?|dd?|hh?|mm?|ss?")


def preview_name() -> FileName:
    """How the files of a picture are named that is only to be looked at. Nobody can guess the name of another one."""
    letters = "".join(random.SystemRandom().choices(string.ascii_lowercase, k=10))
    return FileName(f"{PREVIEW}{letters}")


def saved_name(prefix: str, value: Any) -> FileName:
    """How the files of a value that is saved are named.

    Args:
        prefix: The node's `filename_prefix`.
        value: A picture, for its size.
    """
    return FileName(path_of(prefix, getattr(value, "size", None), time.localtime()), BATCH_NUMBER)


def path_of(prefix: str, size: tuple[int, int] | None, now: time.struct_time) -> str:
    """The path that a prefix means: `%year%`, `%month%`, `%day%`, `%hour%`, `%minute%`, `%second%`, `%width%` and
    `%height%` stand for numbers, `%date:yyyy-MM-dd%` for a date in any form, `/` and `\\` for folders.

    Raises:
        ValueError: It leads out of the folder of the outputs, or is none.
    """
    fields = {
        "year": f"{now.tm_year}", "month": f"{now.tm_mon:02}", "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}", "second": f"{now.tm_sec:02}",
        **({} if size is None else {"width": str(size[0]), "height": str(size[1])}),
    }  # fmt: skip
    path = prefix
    for name, text in fields.items():
        path = path.replace(f"%{name}%", text)
    path = _DATE.sub(lambda found: _date(found[1], now), path)
    parts = path.strip().replace("\\", "/").split("/")
    kept = [part for part in parts if part not in ("", ".")] or [DEFAULT]
    leads_out = len(parts) > 1 and parts[0] == ""
    if leads_out or _UNFIT.search(path) or any(part.startswith(".") or len(part.encode()) > LONGEST for part in kept):
        what = "a name, or a path inside the folder of the outputs whose parts do not begin with a dot"
        raise ValueError(f"filename_prefix is {prefix[:80]!r}, but must be {what}")
    return "/".join(kept)


def _date(form: str, now: time.struct_time) -> str:
    """A date as the editor writes it in names."""
    numbers = {"y": now.tm_year, "M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}

    def part(found: re.Match[str]) -> str:
        text = str(numbers[found[0][0]])
        return text[-len(found[0]):] if found[0][0] == "y" else text.zfill(len(found[0]))

    return _PART.sub(part, form)
