"""Values: numbers, texts and switches that are given or shown as nodes."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from graphengine import Lazy, Multiline, Range, node

T = TypeVar("T")
LARGEST = 2**63 - 1


@node(version=1)
def PrimitiveInt(*, value: Annotated[int, Range(-LARGEST, LARGEST, 1)] = 0) -> int:
    """Give a whole number."""
    return value


@node(version=1)
def PrimitiveFloat(*, value: Annotated[float, Range(-float(LARGEST), float(LARGEST), 0.1)] = 0.0) -> float:
    """Give a number."""
    return value


@node(version=1)
def PrimitiveString(*, value: str = "") -> str:
    """Give a text of one line."""
    return value


@node(version=1)
def PrimitiveStringMultiline(*, value: Annotated[str, Multiline()] = "") -> str:
    """Give a text."""
    return value


@node(version=1)
def PrimitiveBoolean(*, value: bool = False) -> bool:
    """Give a yes or no."""
    return value


@node(version=1, expand=True)
def ComfySwitchNode(*, switch: bool, on_false: Annotated[T, Lazy()], on_true: Annotated[T, Lazy()]) -> T:
    """Choose one of two values; the other one is not computed."""
    return on_true if switch else on_false


@node(version=1)
def StringConcatenate(
    *, string_a: Annotated[str, Multiline()] = "", string_b: Annotated[str, Multiline()] = "", delimiter: str = ""
) -> str:
    """Join two texts with what stands between them."""
    return f"{string_a}{delimiter}{string_b}"


@node(version=1)
def PreviewAny(*, source: Any) -> str:
    """Give any value as a text, as an output of the workflow that is to be looked at."""
    if isinstance(source, str):
        return source
    if isinstance(source, (int, float, bool, list, tuple, dict)) or source is None:
        try:
            return json.dumps(source, indent=2, ensure_ascii=False)
        except (TypeError, ValueError):
            pass
    return repr(source)


@node(version=1)
def StringReplace(
    *, string: Annotated[str, Multiline()] = "", find: Annotated[str, Multiline()] = "",
    replace: Annotated[str, Multiline()] = "",
) -> str:
    """Put a text in the place of another wherever that stands."""
    return string.replace(find, replace) if find else string


@node(version=1)
def SaveText(*, text: Annotated[str, Multiline()] = "", filename_prefix: str = "ComfyUI", format: str = "txt") -> str:
    """Give a text as an output of the workflow."""
    return text
