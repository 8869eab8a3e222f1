"""What the decorator reads off a function, and what it refuses."""

import enum
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, NamedTuple, Optional, TypeVar

import pytest

from graphengine import (
    INERT,
    Choices,
    Context,
    Doc,
    File,
    Graph,
    Lazy,
    Multiline,
    NodeDefinitionError,
    Pack,
    Range,
    Ref,
    Uses,
    node,
)
from graphengine.declare.sockets import Socket
from graphengine.keys.call_key import identity, is_current, node_key
from graphengine.keys.code import code_hash
from tests.graphengine.sample import Division, divide, inc

T = TypeVar("T")


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@node(version=3)
def everything(
    image: Path,
    prompt: Annotated[str, Multiline(), Doc("What to draw.")],
    steps: Annotated[int, Range(1, 100, 1)] = 20,
    mode: Annotated[Mode, Choices(Mode.FAST)] = Mode.FAST,
    file: Annotated[Path | None, File("weights", names=True)] = None,
    model: Annotated[str, Uses("vae")] = "tiny",
    context: Context = INERT,
) -> str:
    """Draw.

    Slowly.
    """
    return f"{prompt} {steps} {context.device}"


def test_what_is_wrong_with_a_huge_number_is_told_in_short() -> None:
    for socket in (Socket("n", int, range=Range(0, 9)), Socket("n", int, choices=Choices(1, 2))):
        for number in (10**400, 10**5000):
            complaint = socket.complaint(number)
            assert complaint is not None
            assert len(" ".join(complaint)) < 200


def test_the_signature_calls_pythons_types_as_python_does() -> None:
    @node
    def words(a: dict[str, Any], b: Path | None = None, c: Literal["any", "null"] = "any") -> list[Any]:
        return []

    told = "(a: dict[str, Any], b: Path | None = None, c: 'any' | 'null' = 'any') -> list[Any]"
    assert str(inspect.signature(words)) == told


def test_sockets_come_from_the_signature() -> None:
    sockets = everything.sockets
    assert list(sockets) == ["image", "prompt", "steps", "mode", "file", "model"]  # the context is none
    assert sockets["prompt"].multiline
    assert sockets["prompt"].doc == "What to draw."
    assert sockets["prompt"].type is str
    assert sockets["prompt"].required
    assert sockets["steps"].range == Range(1, 100, 1)
    assert (sockets["steps"].required, sockets["steps"].default) == (False, 20)
    assert sockets["mode"].choices is not None
    assert sockets["mode"].choices.values() == (Mode.FAST,)
    assert sockets["file"].file == File("weights", names=True)
    assert sockets["file"].type == Path | None
    assert sockets["model"].uses == "vae"
    assert everything.context_parameter == "context"
    assert everything.outputs == {"": str}
    assert everything.doc == "Draw.\n\nSlowly."
    assert everything.version == 3
    assert everything.__name__ == "everything"


def test_named_tuples_are_several_outputs() -> None:
    assert divide.outputs == {"quotient": int, "rest": int}
    assert divide.result is Division


def test_choices_may_be_a_function_asked_late() -> None:
    asked = []

    def known() -> list[str]:
        asked.append(1)
        return ["a", "b"]

    @node
    def pick(x: Annotated[str, Choices(known)]) -> str:
        return x

    socket = pick.sockets["x"]
    assert asked == []
    assert socket.complaint("c") == ("not a choice", "one of a, b", "'c'")
    assert socket.complaint("a") is None


def test_called_outside_a_graph_it_is_the_function() -> None:
    assert inc(1, by=3) == 4
    assert divide(7, 2) == Division(3, 1)
    assert everything(Path(), "a") == "a 20 cpu"
    with pytest.raises(TypeError, match="missing"):
        inc()  # type: ignore[call-arg]


def test_called_in_a_graph_it_is_a_reference() -> None:
    with Graph() as g:
        ref = inc(1)
    assert isinstance(ref, Ref)
    assert list(g.nodes) == ["inc"]


def test_named_gives_the_id() -> None:
    with Graph() as g:
        inc.named("first")(1)
        inc.named("second")(1, by=2)
        with pytest.raises(Exception, match="there already"):
            inc.named("first")(2)
    assert list(g.nodes) == ["first", "second"]
    assert inc.named("direct")(1) == 2


def test_the_context_may_be_any_parameter_and_is_never_bound() -> None:
    @node
    def first(context: Context, x: int) -> int:
        return x

    assert list(first.sockets) == ["x"]
    with Graph() as g:
        ref = first(INERT, 3)
    assert g.nodes["first"].args == {"x": 3}
    assert g.run(want=ref) == 3


def test_missing_annotations_are_told_by_name() -> None:
    @node
    def no_parameter(x) -> int:  # type: ignore[no-untyped-def]
        return 1

    @node
    def no_result(x: int):  # type: ignore[no-untyped-def]
        return 1

    with pytest.raises(NodeDefinitionError, match="parameter x has no annotation"):
        no_parameter.sockets  # noqa: B018
    with pytest.raises(NodeDefinitionError, match="return type has no annotation"):
        no_result.outputs  # noqa: B018


def test_an_annotation_that_cannot_be_read_is_told() -> None:
    @node
    def odd(x: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
        return 1

    with pytest.raises(NodeDefinitionError, match=r"odd: an annotation cannot be read .*Nowhere"):
        odd.sockets  # noqa: B018


def test_variable_arguments_are_refused() -> None:
    @node
    def args(*x: int) -> int:
        return 1

    @node
    def kwargs(**x: int) -> int:
        return 1

    for definition in (args, kwargs):
        with pytest.raises(NodeDefinitionError, match="use a list"):
            definition.sockets  # noqa: B018


def test_lazy_inputs_belong_to_expanding_nodes() -> None:
    @node
    def plain(x: Annotated[int, Lazy()]) -> int:
        return x

    with pytest.raises(NodeDefinitionError, match=r"only expanding nodes have lazy inputs \(x\)"):
        plain.sockets  # noqa: B018


def test_batch_names_are_checked() -> None:
    @node(batch=("sed",))
    def sample(seed: int) -> int:
        return seed

    with pytest.raises(NodeDefinitionError, match="batch names sed, which is no input"):
        sample.sockets  # noqa: B018

    with pytest.raises(NodeDefinitionError, match="needs @node"):

        @inc.many
        def inc_many(x: list[int], by: int) -> list[int]:
            return x


def test_a_name_must_be_a_name() -> None:
    with pytest.raises(NodeDefinitionError, match="no name for a node"):
        node(lambda: 1)
    assert node(name="fine")(lambda: 1).name == "fine"
    with pytest.raises(NodeDefinitionError):
        node(name="not fine")(lambda: 1)


def test_generic_nodes_are_known() -> None:
    @node
    def first(x: list[T]) -> T:
        return x[0]

    @node
    def count(x: list[T]) -> int:
        return len(x)

    assert first.is_generic
    assert not count.is_generic


def test_optional_stays_a_union_and_none_is_no_hint() -> None:
    @node
    def maybe(x: Optional[int] = None, y: "int | None" = None) -> None:  # noqa: UP045
        return None

    assert maybe.sockets["x"].type == maybe.sockets["y"].type == int | None
    assert maybe.outputs == {"": type(None)}


def test_aliases_of_annotated_types_work() -> None:
    Seed = Annotated[int, Range(0, 9)]

    @node
    def sample(seed: Seed = 1, more: Annotated[Seed, Doc("help")] = 2) -> int:
        return seed

    assert sample.sockets["seed"].range == sample.sockets["more"].range == Range(0, 9)
    assert sample.sockets["more"].doc == "help"


def test_limits_complain_about_what_is_outside() -> None:
    @node
    def limited(x: Annotated[float, Range(0, 1)], n: Annotated[int, Range(1)] = 1) -> float:
        return x

    x, n = limited.sockets["x"], limited.sockets["n"]
    assert x.complaint(0) is x.complaint(1) is x.complaint(0.5) is n.complaint(10**20) is None
    assert x.complaint(1.01) == ("out of range", "0..1", "1.01")
    assert n.complaint(0) == ("out of range", "1..∞", "0")
    assert x.complaint(float("nan")) == ("not a number", "a finite number", "nan")
    assert x.complaint(float("-inf")) == ("not a number", "a finite number", "-inf")
    assert x.complaint(True) == ("wrong type", "float", "True (bool)")
    assert x.complaint("0.5") == ("wrong type", "float", "'0.5' (str)")


# --- versions ------------------------------------------------------------------------------------------------------


def make(source: str, **options: Any) -> Any:
    scope: dict[str, Any] = {"__name__": "made_in_a_test"}
    exec(source, scope)
    return node(**options)(scope["f"])


def test_without_a_version_the_code_is_the_version() -> None:
    one = make("def f(x: int) -> int:\n    return x + 1")
    two = make("def f(x: int) -> int:\n    return x + 2")
    moved = make("\n\n# a comment\ndef f(x: int) -> int:\n    'help'\n    return x + 1")
    again = make("def f(x: int) -> int:\n    return x + 1")
    assert identity(one) == identity(again)
    assert identity(one) != identity(two)
    assert code_hash(again.fn) == code_hash(one.fn)
    assert identity(moved) != b""


def test_a_declared_version_stands_for_the_code_of_a_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("made_in_a_test")
    module.__dict__["__pack__"] = Pack("made")
    one, changed, later = (
        make(f"def f(x: int) -> int:\n    return {body}", version=version)
        for body, version in (("x + 1", 1), ("x * 1 + 1", 1), ("x + 1", 2))
    )
    assert identity(one) != identity(changed)  # of no pack: two scripts share one store, and one version says little
    monkeypatch.setitem(sys.modules, "made_in_a_test", module)
    one, changed, later = (
        make(f"def f(x: int) -> int:\n    return {body}", version=version)
        for body, version in (("x + 1", 1), ("x * 1 + 1", 1), ("x + 1", 2))
    )
    assert identity(one) == identity(changed)
    assert identity(one) != identity(later)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("def f(x: int = 1) -> int: return x", "def f(x: int = 2) -> int: return x"),
        ("def f(*, x: int = 1) -> int: return x", "def f(*, x: int = 2) -> int: return x"),
        ("K = 1\ndef f(x: int) -> int: return x + K", "K = 2\ndef f(x: int) -> int: return x + K"),
        ("def h(x): return x\ndef f(x: int) -> int: return h(x)",
         "def h(x): return -x\ndef f(x: int) -> int: return h(x)"),
        ("def f(x: int) -> int: return (lambda y: y)(x)", "def f(x: int) -> int: return (lambda y: -y)(x)"),
        ("def g(k):\n    def f(x: int) -> int: return x + k\n    return f\nf = g(1)",
         "def g(k):\n    def f(x: int) -> int: return x + k\n    return f\nf = g(2)"),
        ("def g(k):\n    def f(x: int) -> int: return k(x)\n    return f\nf = g(lambda x: x)",
         "def g(k):\n    def f(x: int) -> int: return k(x)\n    return f\nf = g(lambda x: -x)"),
        ("def g(k):\n    def f(x: int) -> int: return k['a']\n    return f\nf = g({'a': [1]})",
         "def g(k):\n    def f(x: int) -> int: return k['a']\n    return f\nf = g({'a': [2]})"),
        ("def g(k):\n    def f(x: int) -> int: return k(x)\n    return f\nfrom functools import partial\n"
         "f = g(partial(max, 1))",
         "def g(k):\n    def f(x: int) -> int: return k(x)\n    return f\nfrom functools import partial\n"
         "f = g(partial(max, 2))"),
        ("def g(k):\n    return lambda x: x + k\ndef h(a, b):\n    def f(x: int) -> int: return a(b(x))\n"
         "    return f\nf = h(g(1), g(2))",
         "def g(k):\n    return lambda x: x + k\ndef h(a, b):\n    def f(x: int) -> int: return a(b(x))\n"
         "    return f\nf = h(g(1), g(3))"),
        ("class C:\n    def m(self): return 1\ndef f(x: int) -> int: return C().m()",
         "class C:\n    def m(self): return 2\ndef f(x: int) -> int: return C().m()"),
        ("K = {'a': 1}\ndef f(x: int) -> int: return K['a']", "K = {'a': 2}\ndef f(x: int) -> int: return K['a']"),
        ("def f(x: int) -> int:\n    try: a()\n    except ValueError: b()\n    return 1",
         "def f(x: int) -> int:\n    try: a()\n    except TypeError: b()\n    return 1"),
        ("def f(x: int) -> float: return x * 1.0", "def f(x: int) -> float: return x * 1"),
    ],
    ids=[
        "default", "keyword default", "global constant", "helper function", "inner function", "closure",
        "closed-over function", "closed-over dictionary", "closed-over partial", "two closures of one code",
        "class", "global dictionary", "exception", "1 and 1.0",
    ],
)  # fmt: skip
def test_whatever_decides_the_result_is_in_the_code_hash(one: str, two: str) -> None:
    assert code_hash(make(one).fn) == code_hash(make(one).fn)
    assert code_hash(make(one).fn) != code_hash(make(two).fn)


def test_what_has_no_canonical_form_shares_a_key_with_nothing() -> None:
    def factory(value: Any) -> Any:
        @node
        def uses(x: int) -> int:
            return x + value.n  # type: ignore[no-any-return]

        return uses

    class Holder:
        def __init__(self, n: int) -> None:
            self.n = n

    one, two = Holder(1), Holder(2)
    assert identity(factory(one)) == identity(factory(one))
    assert identity(factory(one)) != identity(factory(two))
    with Graph() as g:
        a, b = factory(one)(0), factory(two)(0)
    assert g.run(want=[a, b]) == [1, 2]


def test_a_helper_that_is_defined_again_is_seen() -> None:
    scope: dict[str, Any] = {"__name__": "made_in_a_test"}
    exec("def h(x): return x + 1\ndef f(x: int) -> int: return h(x)", scope)
    made = node(scope["f"])
    first, key = identity(made), node_key(made, {"x": 1})
    assert is_current(made)
    exec("def h(x): return x + 100", scope)
    assert not is_current(made)
    assert node_key(made, {"x": 1}) != key
    assert identity(made) != first
    assert is_current(made)
    counting = make("N = 0\ndef f(x: int) -> int:\n    global N\n    N += 1\n    return x")
    before = identity(counting)
    counting.fn(1)
    assert identity(counting) == before  # what a node itself sets is no part


def test_a_signature_that_cannot_work_is_told() -> None:
    def positional(x: int, /, y: int = 2) -> int:
        return x + y

    def optional(x: int, ctx: Context | None = None) -> int:
        return x

    for function, told in ((positional, "positional-only"), (optional, "ctx: Context = INERT")):
        with pytest.raises(NodeDefinitionError, match=told):
            node(function).sockets  # noqa: B018


def test_recursive_helpers_have_a_hash() -> None:
    source = "def h(n): return 1 if n == 0 else f2(n - 1)\ndef f2(n): return h(n)\ndef f(x: int) -> int: return h(x)"
    assert code_hash(make(source).fn) == code_hash(make(source).fn)


class Pair(NamedTuple):
    a: int
    b: Annotated[str, Doc("help")]


def test_outputs_are_stripped_of_metadata() -> None:
    @node
    def pair() -> Pair:
        return Pair(1, "x")

    assert pair.outputs == {"a": int, "b": str}
