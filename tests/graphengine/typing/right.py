"""Graphs that a type checker must accept. Checked by mypy, never run."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from graphengine_nodes import load_image, load_mask, save_image

from graphengine import INERT, Context, Graph, Lazy, Range, collect, each, node, when

T = TypeVar("T")


class Image: ...


class Photo(Image): ...


class Size(NamedTuple):
    width: int
    height: int


@node(version=2)
def blur(image: Image, radius: Annotated[float, Range(0, 10)] = 1.0) -> Image:
    return image


@node
def photo(seed: int, context: Context = INERT) -> Photo:
    context.progress(1, 2)
    return Photo()


@node
def size(image: Image) -> Size:
    return Size(1, 2)


@node
def first(items: list[T]) -> T:
    return items[0]


@node
def grid(images: list[Image]) -> Image:
    return images[0]


@node(expand=True)
def repeat(n: int, image: Annotated[Image, Lazy()]) -> Image:
    return image if n == 0 else repeat(n - 1, blur(image))


@node(batch=("seed",), on="device")
def sample(seed: int, prompt: str) -> Image:
    return Image()


@sample.many
def _(seed: list[int], prompt: str) -> Sequence[Image]:
    return [Image() for _ in seed]


@blur.check
def _(given: dict[str, object]) -> list[str]:
    return []


with Graph() as g:
    seed: int = g.input("seed", int, default=0, help="for the noise")
    picture: Photo = photo(seed)
    soft: Image = blur(picture, radius=2)
    named: Image = blur.named("again")(soft)
    width, height = size(soft)
    total: int = size(soft).width
    one: Image = first([soft, picture])
    chosen: Image = when(total > 1, soft, picture)
    looped: Image = repeat(5, chosen)
    photos: list[Photo] = each([1, 2, 3], photo)
    softened: list[Image] = each(photos, lambda p: blur(p))
    stepped: list[Image] = each(([1, 2], ["a", "b"]), sample)
    everything: list[Image] = collect([soft, named])
    g.output("sheet", grid(softened))
    g.run(want=looped)

outside: Image = blur(photo(3))


@node(on="device")
async def fetch(address: str) -> Image:
    return Image()


class Painter:
    @node
    def paint(self, image: Image, colour: int = 3) -> Image:
        return image

    @node(version=1)
    async def ask(self, n: int) -> int:
        return n


with Graph() as h:
    fetched: Image = fetch("a")
    fetched_again: list[Image] = each(["a"], fetch)
    painted: Image = Painter().paint(fetched, colour=2)
    asked: int = Painter().ask.named("asked")(3)


class Mode(Enum):
    FAST = "fast"


@dataclass
class Settings:
    x: int = 1


with Graph() as i:
    whole: int = i.input("whole", int, 3)
    number: float = i.input("number", float, 3)
    flag: bool = i.input("flag", bool, True)
    absent: int = i.input("absent", int, None)
    file: Path = i.input("file", Path, Path("a"))
    image: Image = i.input("image", Image, None)
    images: list[Image] = i.input("images", list[Image])
    numbers: list[int] = i.input("numbers", list[int], [])
    counts: dict[str, int] = i.input("counts", dict[str, int], {"a": 1})
    pair: tuple[int, str] = i.input("pair", tuple[int, str], (1, "a"))
    both: Size = i.input("both", Size, Size(1, 2))
    mode: Mode = i.input("mode", Mode, Mode.FAST)
    settings: Settings = i.input("settings", Settings, Settings())
    optional: int | None = i.input("optional", int | None, 3)
    word: str = i.input("word", Literal["a", "b"], "a")
    zipped: list[Image] = each([1, 2], ["a", "b"], sample)
    three: list[Image] = each([1], ["a"], [soft], lambda n, text, picture: blur(picture))
    save_image(load_image("photo.png"), "again.png")
    load_mask(Path("mask.png"))
