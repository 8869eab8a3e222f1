"""Values: numbers, texts and switches that are given or shown as nodes."""

from __future__ import annotations

import json
import math
import string as letters
from typing import Annotated, Any, NamedTuple, TypeVar

from graphengine import Lazy, Multiline, Range, node
from graphengine_comfy.file_names import saved_name
from graphengine_comfy.nodes.math_expressions import calculated

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
    """Give a text as an output of the workflow.

    Raises:
        ValueError: The prefix leads out of the folder of the outputs.
    """
    saved_name(filename_prefix, text)
    return text


class Calculated(NamedTuple):
    """A number as a fraction, as a whole number and as yes or no."""

    FLOAT: float
    INT: int
    BOOL: bool


@node(version=1)
def ComfyMathExpression(
    *,
    expression: Annotated[str, Multiline()] = "a + b",
    values_a: Any = None, values_b: Any = None, values_c: Any = None, values_d: Any = None,
    values_e: Any = None, values_f: Any = None, values_g: Any = None, values_h: Any = None,
    values_i: Any = None, values_j: Any = None, values_k: Any = None, values_l: Any = None,
    values_m: Any = None, values_n: Any = None, values_o: Any = None, values_p: Any = None,
    values_q: Any = None, values_r: Any = None, values_s: Any = None, values_t: Any = None,
    values_u: Any = None, values_v: Any = None, values_w: Any = None, values_x: Any = None,
    values_y: Any = None, values_z: Any = None,
) -> Calculated:  # fmt: skip
    """Compute an expression of the values that are linked, `a` to `z`, or of the list of them, `values`.

    There are arithmetic, comparisons, `x if a > b else y`, sum, min, max, abs, round, pow, sqrt, ceil, floor, log,
    log2, log10, sin, cos, tan, int and float.

    Raises:
        ValueError: It is no expression of these, names a value that is not linked, or has no finite value.
    """
    given = (
        values_a, values_b, values_c, values_d, values_e, values_f, values_g, values_h, values_i,
        values_j, values_k, values_l, values_m, values_n, values_o, values_p, values_q, values_r,
        values_s, values_t, values_u, values_v, values_w, values_x, values_y, values_z,
    )  # fmt: skip
    names = {letter: value for letter, value in zip(letters.ascii_lowercase, given, strict=True) if value is not None}
    for letter, value in names.items():
        if not isinstance(value, (int, float)):
            raise ValueError(f"the value {letter} of an expression is a {type(value).__name__}, and no number")
    found = calculated(expression, {**names, "values": [*names.values()]})
    return Calculated(float(found), int(found), bool(found))


class Converted(NamedTuple):
    """A number as a fraction, and as a whole number towards 0."""

    FLOAT: float
    INT: int


@node(version=1)
def ComfyNumberConvert(*, value: Any) -> Converted:
    """Give a number, a number in a text, or a yes or no as numbers.

    Raises:
        ValueError: It holds no finite number.
    """
    try:
        if isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            value = int(value)
        found = float(value)
        if not isinstance(value, (str, int, float)) or not math.isfinite(found):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{str(value)!r:.80} is no finite number") from None
    return Converted(found, int(found) if isinstance(value, str) else int(value))
