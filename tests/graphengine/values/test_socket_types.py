"""Which links are legal, and what types are called in files."""

import enum
import gc
import threading
import time
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, Protocol, TypeVar

import numpy as np
import pytest

from graphengine.values.literals import coerce, value_fits
from graphengine.values.socket_types import (
    SocketType,
    fits,
    is_reference,
    parse_type,
    register_type,
    socket_type,
    substitute,
    type_called,
    type_name,
)

Seed = NewType("Seed", int)


class Barks(Protocol):
    name: str


T = TypeVar("T")
N = TypeVar("N", bound=float)
C = TypeVar("C", int, str)


class Animal: ...


class Dog(Animal): ...


class Cat(Animal): ...


class Mode(enum.Enum):
    FAST = "fast"


class Pair(NamedTuple):
    a: int
    b: str


FITS = [
    # classes
    (int, int), (Dog, Animal), (int, float), (int, object), (object, Any), (Any, int), (int, Any), (bool, bool),
    (Mode, Mode), (type(None), type(None)), (Pair, tuple),
    # unions by direction
    (int, int | str), (int, float | None), (int | str, str | int | None), (Dog | Cat, Animal), (int | float, float),
    (type(None), Optional[int]), (Optional[int], int | None), (Dog, Cat | Animal), (Literal["a"], str | None),  # noqa: UP045
    # Annotated is looked through
    (Annotated[int, "x"], int), (int, Annotated[int, "x"]),
    # lists are covariant
    (list[int], list[int]), (list[int], list[float]), (list[Dog], list[Animal]), (list[int], list[int | str]),
    (list[int], list), (list, list[int]), (list[Any], list[int]), (list[list[int]], list[list[float]]),
    (list[int] | list[str], list[int | str]), (list[int], list[Any]),
    # Literal
    (Literal["a"], Literal["a", "b"]), (Literal["a", "b"], str), (Literal[1], float), (Literal["a", 1], str | int),
    # type variables
    (int, T), (list[int], list[T]), (int | None, T), (int, N), (int, C), (str, C), (T, int), (int, T | None),
    (int, list[T] | T), (bool, T),
]  # fmt: skip
DOES_NOT_FIT = [
    (int, str), (Animal, Dog), (float, int), (str, Path), (str, Mode), (object, int), (int, type(None)),
    (bool, int), (bool, float), (int, bool), (type(None), int),
    (int | str, int), (int | None, int), (Animal | int, Dog | int), (bool, int | float), (bool | int, float),
    (list[str], list[int]), (list[int], int), (int, list[int]), (list[float], list[int]), (list[bool], list[int]),
    (list[int | None], list[int]), (list[int], list[list[int]]),
    (Literal["c"], Literal["a", "b"]), (str, Literal["a"]), (Literal["a", 1], str), (Literal[True], int),
    (str, N), (bool, N), (float, C), (str, list[T]), (Dog, N),
]  # fmt: skip


def _id(value: Any) -> str:
    return str(value).replace("typing.", "")


def test_new_types_are_what_they_are_made_of_and_protocols_take_anything() -> None:
    assert fits(int, Seed)
    assert fits(Seed, int)
    assert not fits(str, Seed)
    assert fits(Seed, Seed | None)
    assert fits(int, Barks)
    assert fits(int | str, Barks | None)


@pytest.mark.parametrize(("source", "target"), FITS, ids=_id)
def test_fits(source: Any, target: Any) -> None:
    assert fits(source, target, {})
    assert fits(source, target)


@pytest.mark.parametrize(("source", "target"), DOES_NOT_FIT, ids=_id)
def test_does_not_fit(source: Any, target: Any) -> None:
    assert not fits(source, target, {})
    assert not fits(source, target)


def test_variables_are_solved_link_by_link() -> None:
    solved: dict[Any, Any] = {}
    assert fits(list[int], list[T], solved)
    assert solved == {T: int}
    assert fits(int, T, solved)
    assert substitute(list[T], solved) == list[int]
    assert fits(str, T, solved)  # unrelated: their union, as a type checker infers
    assert solved[T] == int | str
    assert substitute(dict[str, T], solved) == dict[str, int | str]
    assert substitute(T | None, {T: int}) == int | None


def test_the_wider_of_two_is_taken() -> None:
    for order in ((Dog, Animal), (Animal, Dog)):
        solved: dict[Any, Any] = {}
        assert all(fits(t, T, solved) for t in order)
        assert solved[T] is Animal


def test_an_unsolved_variable_stays() -> None:
    assert substitute(list[T], {}) == list[T]


@pytest.mark.parametrize(
    ("value", "annotation", "right"),
    [
        (1, int, True), (1, float, True), (1.0, int, False), (True, int, False), (True, float, False),
        (True, bool, True), (1, bool, False), ("a", str, True), (None, str, False), (None, str | None, True),
        ([1, 2], list[int], True), ([1, "a"], list[int], False), ((1, 2), list[int], True), ([True], list[int], False),
        ([], list[int], True), ("ab", list[str], False), ("fast", Mode, True), (Mode.FAST, Mode, True),
        ("slow", Mode, False), ("a/b", Path, True), (Path("a"), Path, True), (1, Path, False),
        ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), (True, Literal[1], False),
        ({"a": 1}, dict[str, int], True), ({"a": "b"}, dict[str, int], False), ([1, "a"], tuple[int, str], True),
        ([1], tuple[int, str], False), ((1, 2, 3), tuple[int, ...], True), (1, T, True), (Dog(), Animal, True),
        ([[1], [2]], list[list[int]], True), ([], tuple[int, str], False), (1, Seed, True), ("a", Seed, False),
        (Dog(), Barks, True), (np.int64(1), int, True), (np.float64(1), int, False), (np.bool_(True), int, False),
    ],
)  # fmt: skip
def test_literals(value: Any, annotation: Any, right: bool) -> None:
    assert value_fits(value, annotation) is right


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, 1.0), ("fast", Mode, Mode.FAST), ("a", Path, Path("a")), ([1], list[float], [1.0]),
        ((1, 2), list[int], [1, 2]), (None, float, None), (1, int | float, 1), (1, float | None, 1.0),
        (True, float, True), ("fast", Mode | None, Mode.FAST), (["a"], list[Path] | None, [Path("a")]), (1, Any, 1),
        ("fast", str | Mode, "fast"), ([1, 2], tuple[int, int], (1, 2)), ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1], tuple, (1,)), ([1], Any, [1]), ({"a": 1}, dict[str, float], {"a": 1.0}), (1, Seed, 1),
        (np.int64(3), int, 3), (np.int64(3), float, 3.0), (np.float64(0.5), float, 0.5), (np.int8(1), int | None, 1),
        ([np.float32(0.5)], list[float], [0.5]), (np.bool_(True), bool, True),
    ],
)  # fmt: skip
def test_literals_become_what_the_annotation_says(value: Any, annotation: Any, expected: Any) -> None:
    found = coerce(value, annotation)
    assert found == expected
    assert type(found) is type(expected)
    if isinstance(expected, list):
        assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("text", "annotation"),
    [
        ("int", int), ("list[int]", list[int]), ("str | null", str | None), ("list[list[float]]", list[list[float]]),
        ("path", Path), ("any", Any), ("list", list), ("'a' | 'b'", Literal["a", "b"]), ("int | None", int | None),
        ("list[int | null]", list[int | None]), ("dict", dict), ("bool", bool), ("tuple", tuple),
        ("tuple[int, str]", tuple[int, str]), ("tuple[float, ...]", tuple[float, ...]), ("tuple[int]", tuple[int]),
    ],
)  # fmt: skip
def test_names_of_types(text: str, annotation: Any) -> None:
    assert parse_type(text) == annotation or (fits(parse_type(text), annotation) and fits(annotation, parse_type(text)))
    again = parse_type(type_name(annotation))
    assert fits(again, annotation)
    assert fits(annotation, again)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "list[", "int()", "__import__('os')", "int + str", "list[int, str]", "(" * 500, "a.b", "[int]",
     "list[int](1)", "\0", "x" * 10_000],
)  # fmt: skip
def test_what_is_no_type_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no type|no type is called"):
        parse_type(text)


def test_type_names_for_people() -> None:
    assert type_name(list[int | None]) == "list[int | null]"
    assert type_name(Literal["a", "b"]) == "'a' | 'b'"
    assert type_name(Any) == "any"
    assert type_name(Mode) == "Mode"
    assert type_name(tuple[int, ...]) == "tuple[int, ...]"


# --- what a pack registers -------------------------------------------------------------------------------------------


class Weights: ...


class Special(Weights): ...


def test_registered_types_are_found_by_name_and_for_subclasses() -> None:
    kind = SocketType(Weights, "TestWeights", digest=lambda w, part: part or "all")
    register_type(kind)
    assert socket_type(Weights) is socket_type(Special) is type_called("TestWeights") is kind
    assert socket_type(Animal) is None
    assert parse_type("TestWeights | null") == Weights | None
    assert type_name(list[Weights]) == "list[TestWeights]"
    assert is_reference(Weights)
    assert is_reference(Weights | None)
    assert not is_reference(Weights | int)
    assert not is_reference(type(None))


def test_a_name_is_registered_once() -> None:
    register_type(SocketType(Animal, "TestAnimal"))
    register_type(SocketType(Animal, "TestAnimal"))  # a module that is imported again
    with pytest.raises(ValueError, match="TestAnimal is registered already"):
        register_type(SocketType(Dog, "TestAnimal"))
    with pytest.raises(ValueError, match="registered already"):
        register_type(SocketType(Dog, "int"))


def test_types_are_parsed_on_several_threads_at_once() -> None:
    """Also where the collector of one thread lets another in, in the middle of it."""
    wrong: list[BaseException] = []

    def parse() -> None:
        try:
            for _ in range(100):
                assert parse_type("list[int | str] | null") == list[int | str] | None
        except BaseException as error:
            wrong.append(error)

    def let_others_in(phase: str, facts: object) -> None:
        time.sleep(0.0001)

    thresholds = gc.get_threshold()
    gc.callbacks.append(let_others_in)
    gc.set_threshold(5)
    try:
        threads = [threading.Thread(target=parse) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_others_in)
    assert wrong == []
