"""Display of lists and dictionaries of pictures in notebooks: a list as a row, a dictionary with its names."""

from __future__ import annotations

import base64
import functools
import html
import sys
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 64
"""The most pictures that are shown of one value."""


def show_lists() -> None:
    """Make the current notebook show lists and dictionaries of pictures as pictures; outside notebooks do nothing."""
    if "IPython" in sys.modules:
        _register(sys.modules["IPython"].get_ipython())


@functools.lru_cache(1)
def _register(shell: Any) -> None:
    if shell is not None:
        formatter = shell.display_formatter.formatters["text/html"]
        formatter.for_type(list, row)
        formatter.for_type(dict, named)


def row(values: Iterable[Any]) -> str | None:
    """HTML of pictures side by side; None if a value is no picture."""
    pictures = list(values)
    if not pictures or not all(hasattr(type(value), "_repr_png_") for value in pictures):
        return None
    shown = "".join(map(_picture, pictures[:MOST]))
    more = f"<span>and {len(pictures) - MOST:,} more</span>" if len(pictures) > MOST else ""
    return f'<div style="display:flex;flex-wrap:wrap;gap:.5em;align-items:center">{shown}{more}</div>'


def named(values: Mapping[Any, Any]) -> str | None:
    """HTML of a dictionary with pictures, or lists of them, among its values; None if it has none."""
    shown = {name: row(value if isinstance(value, list) else [value]) for name, value in values.items()}
    if not any(shown.values()):
        return None
    return "".join(
        f"<div><b>{html.escape(str(name))}</b>{shown[name] or f'<pre>{html.escape(repr(value)[:1000])}</pre>'}</div>"
        for name, value in values.items()
    )


def _picture(value: Any) -> str:
    png = value._repr_png_()
    data = base64.b64encode(png[0] if isinstance(png, tuple) else png or b"").decode()
    return f'<img style="max-width:100%;height:auto" alt="{html.escape(repr(value), quote=True)}" ' \
           f'src="data:image/png;base64,{data}">'  # fmt: skip
