"""Arithmetic that is written out in a text, computed by its syntax tree: no code runs.

Numbers, the names of values, arithmetic, comparisons, choices (`a if a > b else b`) and a few functions are understood;
everything else is refused, as is what would grow without bounds.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

LONGEST = 2000
"""Characters of an expression."""
LARGEST = 2**1024
"""What a number stays below; more is no float."""

UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _power(base: Any, exponent: Any) -> Any:
    """A power; of whole numbers one that has not too many digits."""
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1 and exponent * math.log2(abs(base)) > 1024:
        raise ValueError(f"{base} to the power of {exponent} is too large")
    return base**exponent


def _round(value: Any, digits: int = 0) -> Any:
    if abs(digits) > 300:
        raise ValueError(f"{digits} digits are too many")
    return round(value, digits) if digits else round(value)


def _sum(*values: Any) -> Any:
    return sum(values[0] if len(values) == 1 and isinstance(values[0], list) else values)


FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "sum": _sum,
    "min": min,
    "max": max,
    "abs": abs,
    "round": _round,
    "pow": _power,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "int": int,
    "float": float,
}


def calculated(expression: str, names: Mapping[str, Any]) -> float | int | bool:
    """The number that an expression is.

    Args:
        names: Values by name, numbers or lists of them.

    Raises:
        ValueError: It is no expression of what is understood, or has no finite value.
    """
    text = expression.strip()
    if not text or len(text) > LONGEST:
        raise ValueError(f"an expression has 1 to {LONGEST} characters, and this one {len(text)}")
    try:
        found = _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"{text!r:.80} is no expression: write arithmetic as in (a + b) * 2") from None
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"{text!r:.80} has no value: {error}") from None
    if not isinstance(found, (int, float)) or not math.isfinite(found):
        raise ValueError(f"{text!r:.80} is no finite number")
    return found


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    found = _computed(node, names)
    if isinstance(found, complex) or (isinstance(found, int) and abs(found) >= LARGEST):
        raise ValueError("an expression has a part that is no real number, or too large")
    return found


def _number(node: ast.expr, names: Mapping[str, Any]) -> Any:
    found = _value(node, names)
    if isinstance(found, list):
        raise ValueError("`values` is for functions in an expression, as in sum(values)")
    return found


def _computed(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The value of a part of an expression."""
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.Name(id=name):
            if name not in names:
                raise ValueError(f"no value {name!r:.80} is linked to an expression; there are {', '.join(names)}")
            return names[name]
        case ast.UnaryOp(op=op, operand=operand):
            return UNARY[type(op)](_number(operand, names))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_number(left, names), _number(right, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            return BINARY[type(op)](_number(left, names), _number(right, names))
        case ast.BoolOp(op=op, values=parts):
            found: Any = None
            for part in parts:
                found = _value(part, names)
                if bool(found) != isinstance(op, ast.And):
                    break
            return found
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARED for op in ops):
            values = [_number(one, names) for one in (left, *others)]
            return all(COMPARED[type(op)](values[n], values[n + 1]) for n, op in enumerate(ops))
        case ast.IfExp(test=test, body=body, orelse=other):
            return _value(body if _value(test, names) else other, names)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
            given = [_value(one, names) for one in arguments]
            try:
                return FUNCTIONS[name](*given)
            except ValueError as error:
                raise ValueError(f"{name} has no value in an expression: {error}") from None
        case _:
            raise ValueError(f"{ast.unparse(node)!r:.80} is not understood in an expression")
