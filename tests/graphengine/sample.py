"""Small nodes that many tests use. `CALLS` counts how often each one was really computed."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeVar

from graphengine import Lazy, SocketType, Store, node, register_type

T = TypeVar("T")

CALLS: Counter[str] = Counter()


@node(version=1)
def inc(x: int, by: int = 1) -> int:
    """One more."""
    CALLS["inc"] += 1
    return x + by


@node(version=1)
def add(a: int, b: int) -> int:
    CALLS["add"] += 1
    return a + b


@node(version=1)
def is_positive(x: int) -> bool:
    return x > 0


@node(version=1, output=True)
def shown(x: int) -> int:
    return x


@node(version=1)
def total(xs: list[int]) -> int:
    CALLS["total"] += 1
    return sum(xs)


@node(version=1)
def half(x: float) -> float:
    CALLS["half"] += 1
    return x / 2


@node(version=1)
def upto(n: int) -> list[int]:
    CALLS["upto"] += 1
    return list(range(n))


@node(version=1)
def shout(text: str) -> str:
    CALLS["shout"] += 1
    return text.upper()


@node(version=1)
def same(x: T) -> T:
    CALLS["same"] += 1
    return x


class Division(NamedTuple):
    quotient: int
    rest: int


@node(version=1)
def divide(a: int, b: int) -> Division:
    CALLS["divide"] += 1
    return Division(*divmod(a, b))


@node(version=1)
def fail(x: int) -> int:
    CALLS["fail"] += 1
    raise ValueError(f"no {x}")


@node(version=1, cache="never")
def tick() -> int:
    CALLS["tick"] += 1
    return CALLS["tick"]


@node(version=1, output=True)
def show(x: int) -> int:
    CALLS["show"] += 1
    return x


@node(version=1, expand=True)
def loop(n: int, x: int) -> int:
    CALLS["loop"] += 1
    return x if n == 0 else loop(n - 1, inc(x))


@node(version=1, expand=True)
def lazy_loop(n: int, x: Annotated[int, Lazy()]) -> int:
    return x if n == 0 else lazy_loop(n - 1, inc(x))


@node(version=1, expand=True)
def fib(n: int) -> int:
    return n if n < 2 else add(fib(n - 1), fib(n - 2))


@dataclass(frozen=True, eq=False)
class Big:
    """A value whose type says that it is large; it can be watched as it goes."""

    number: int
    bytes: int = 1000


register_type(
    SocketType(
        Big,
        "TestBig",
        encode=lambda big: f"{big.number}:{big.bytes}".encode(),
        decode=lambda data: Big(*map(int, data.decode().split(":"))),
        size=lambda big: big.bytes,
    )
)


@node(version=1)
def big(number: int, seconds: float = 0.0) -> Big:
    CALLS["big"] += 1
    time.sleep(seconds)
    return Big(number)


@node(version=1)
def number_of(big: Big) -> int:
    CALLS["number_of"] += 1
    return big.number


@node(version=1)
def uncounted(number: int, seconds: float = 0.0) -> Big:
    """As `big`, for the disk: what a node counts in a global is no data that its key can follow."""
    time.sleep(seconds)
    return Big(number)


@node(version=1)
def uncounted_number_of(big: Big) -> int:
    return big.number


def until(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something is seen to be so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what is waited for does not come"
        time.sleep(0.002)


def joined(store: Store) -> int:
    """How many runs wait for what others compute."""
    return sum(len(flight.joined or ()) for flight in list(store.flights.values()))


def in_threads(count: int, work) -> list:  # type: ignore[no-untyped-def, type-arg]
    """Run `work(n)` in so many threads that start together; what each returned or raised, in order."""
    found: list = [None] * count  # type: ignore[type-arg]
    barrier = threading.Barrier(count)

    def one(n: int) -> None:
        barrier.wait()
        try:
            found[n] = work(n)
        except BaseException as error:
            found[n] = error

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(8)
        assert not thread.is_alive(), "a thread hangs"
    return found
