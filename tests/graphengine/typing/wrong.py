"""Graphs that a type checker must refuse, each with the error that it must tell. Checked by mypy, never run."""

from enum import Enum
from typing import Annotated, NamedTuple, TypeVar

import graphengine.service
from graphengine import INERT, Context, Graph, Lazy, collect, each, node, when

T = TypeVar("T")


class Image: ...


class Model: ...


class Size(NamedTuple):
    width: int
    height: int


@node(version=2)
def blur(image: Image, radius: float = 1.0) -> Image:
    return image


@node
def photo(seed: int, context: Context = INERT) -> Image:
    context.progres(1, 2)  # E: attr-defined
    return Image()


@node
def size(image: Image) -> Size:
    return Size(1, 2)


@node
def first(items: list[T]) -> T:
    return items[0]


@node
def grid(images: list[Image]) -> Image:
    return images[0]


class Mode(Enum):
    FAST = "fast"


@node
def decode(model: Model, image: Image) -> Image:
    return image


@node(expand=True)
def repeat(n: int, image: Annotated[Image, Lazy()]) -> Image:
    return "image" if n == 0 else repeat(n - 1, image)  # E: return-value


@node(cache="sometimes")  # E: call-overload
def odd(x: int) -> int:
    return x


@node
async def fetch(address: str) -> Image:
    return Image()


class Painter:
    @node
    def paint(self, image: Image, colour: int = 3) -> Image:
        return image


with Graph() as g:
    picture = photo(1)
    blur("picture")  # E: arg-type
    blur(picture, radius="2")  # E: arg-type
    blur(picture, radios=2)  # E: call-arg
    blur()  # E: call-arg
    decode(picture, picture)  # E: arg-type
    blur(size(picture).width)  # E: arg-type
    depth = size(picture).depth  # E: attr-defined
    model: Model = photo(1)  # E: assignment
    number: int = first([picture])  # E: assignment
    both: Image = when(True, picture, 3)  # E: assignment
    blur.named("soft")(3)  # E: arg-type
    blur.named(3)(picture)  # E: arg-type
    repeat("5", picture)  # E: arg-type
    each(["a"], photo)  # E: arg-type
    numbers: list[int] = each([1], photo)  # E: arg-type
    each(([1], ["a"]), lambda a, b: blur(a))  # E: arg-type
    photo(seed=1, context=3)  # E: arg-type
    seed: str = g.input("seed", int)  # E: assignment

    fetched: int = fetch("a")  # E: assignment
    fetch(3)  # E: call-overload
    Painter().paint("image")  # E: arg-type

    g.input("whole", int, "x")  # E: type-var
    g.input("text", str, 3)  # E: type-var
    g.input("numbers", list[int], ["a"])  # E: misc
    g.input("mode", Mode, "fast")  # E: type-var
    g.input("pair", tuple[int, int], [1, 2])  # E: arg-type
    g.input("image", Image, 3)  # E: type-var
    grid(collect([picture, 3]))  # E: list-item
    mixed = collect([picture, model])
    grid(mixed)  # E: arg-type
    pictures: list[Image] = collect([picture, 3])  # E: list-item
    each([1], [2], lambda a, b: blur(a))  # E: arg-type

blur(3)  # E: arg-type


def misspelt() -> None:
    graphengine.Grahp("a")  # E: attr-defined
    graphengine.service.Qeue("queue.sqlite")  # E: attr-defined
