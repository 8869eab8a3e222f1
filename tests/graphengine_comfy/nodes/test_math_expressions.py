"""Expressions have the numbers of Python's arithmetic, and what else they hold is refused, and never computed."""

from __future__ import annotations

import math
from typing import Any

import graphengine_comfy as comfy
import pytest
from graphengine_comfy.nodes.math_expressions import calculated

NAMES = {"a": 7, "b": 2.5, "c": True, "values": [7, 2.5, True]}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("a + b", 9.5),
        ("a & -8", 0),
        ("-a // 2", -4),
        ("max(5, round(a * 24)) + (5 - (max(5, round(a * 24)) % 17)) % 17", 175),
        ("a ** 2 - 2 ** -1", 48.5),
        ("sum(values) / len_ if False else sum(a, b)", 9.5),
        ("min(values) < b <= a", True),
        ("a > 5 and not c or b", 2.5),
        ("sqrt(16) + ceil(b) + floor(b) + log2(8) + pow(2, 3)", 20.0),
        ("int(b) | 4 ^ 1", 7),
        (" 1e3 ", 1000.0),
    ],
)
def test_an_expression_has_the_number_that_it_says(expression: str, wanted: Any) -> None:
    assert calculated(expression, NAMES) == wanted


@pytest.mark.parametrize(
    "expression",
    [
        "", "a +", "'text'", "a.real", "__import__('os')", "(lambda: 1)()", "[1] * 9", "values * 1000000000", "z + 1",
        "9 ** 9 ** 9", "pow(9, 99999)", "2 ** 0.5 ** -9999", "1 / 0", "sqrt(-1)", "(-8) ** 0.5", "1e308 * 10",
        "round(5, -999999999)", "a if b", "a << 99", "values", "(" * 1500, "1+" * 900 + "1j", "max()", "a := 3",
        "max(values, key=int)", "f'{a}'", "9" * 1999, "a" * 2001,
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"expression|value|number|large|digits|power"):
        calculated(expression, NAMES)


def test_the_nodes_give_numbers_of_both_kinds() -> None:
    found = comfy.ComfyMathExpression(expression="a / c", values_a=7, values_c=2)
    assert found == (3.5, 3, True)
    assert comfy.ComfyMathExpression(expression="a == 8", values_a=7) == (0.0, 0, False)
    with pytest.raises(ValueError, match="is a str"):
        comfy.ComfyMathExpression(expression="a", values_a="7")
    big = 2**60 + 1
    assert comfy.ComfyNumberConvert(value=f" {big} ") == (float(big), big)
    assert comfy.ComfyNumberConvert(value="-2.75") == (-2.75, -2)
    assert comfy.ComfyNumberConvert(value=True) == (1.0, 1)
    for wrong in ("", "seven", "nan", math.inf, None):
        with pytest.raises(ValueError, match="no finite number"):
            comfy.ComfyNumberConvert(value=wrong)
