"""Module-level data that a node reads enters its key; what cannot be followed is remembered in this process only."""

from __future__ import annotations

import copy
import gc
import logging
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from graphengine import DiskStore, Graph, Store, node
from graphengine.declare import registry
from graphengine.events import Reuse
from graphengine.keys.call_key import identity, is_current, is_of_process, node_key
from graphengine.keys.code import follow
from graphengine.keys.content import OBJECTS, ContentReader
from graphengine.testing import Recorder

PREAMBLE = """
import array, collections, dataclasses, datetime, decimal, enum, functools, itertools, operator, re, threading, types
import numpy as np
import random
import configparser, logging, contextvars, io, pathlib
"""


def script(source: str, body: str) -> tuple[Any, dict[str, Any]]:
    """A node of a script: `source` is its module, `body` what it returns."""
    module = sys.modules["made_here"] = ModuleType("made_here")
    scope = vars(module)
    exec(PREAMBLE + textwrap.dedent(source) + f"\ndef f(x: int) -> int:\n    return {body}\n", scope)
    return node(scope["f"]), scope


def followed(made: Any) -> bool:
    return not follow(made.fn).unfollowed


CONTENT = {
    "integer": ("K = 1", "K", "K = 10"),
    "dictionary": ("K = {'a': 1}", "K['a']", "K['a'] = 10"),
    "nested": ("K = {'a': [{'b': (1, {2})}]}", "K['a'][0]['b'][0]", "K['a'][0]['b'] = (10, {2})"),
    "ordered": ("K = collections.OrderedDict(a=1)", "K['a']", "K['a'] = 10"),
    "order": ("K = {'a': 1, 'b': 10}", "next(iter(K.values()))", "K['a'] = K.pop('a')"),
    "order moved": ("K = collections.OrderedDict(a=1, b=10)", "next(iter(K.values()))", "K.move_to_end('a')"),
    "defaultdict": ("K = collections.defaultdict(int, a=1)", "K['a']", "K['a'] = 10"),
    "default factory": ("K = collections.defaultdict(int)", "K.get('x', K.default_factory())",
                        "K.default_factory = lambda: 10"),
    "counter": ("K = collections.Counter(a=1)", "K['a']", "K['a'] = 10"),
    "chain map": ("K = collections.ChainMap({'a': 1})", "K['a']", "K.maps[0]['a'] = 10"),
    "user dict": ("K = collections.UserDict(a=1)", "K['a']", "K['a'] = 10"),
    "deque": ("K = collections.deque([1])", "K[0]", "K[0] = 10"),
    "set": ("K = {(1, 2), 'a'}", "len(K)", "K.add('b')"),
    "proxy": ("D = {'a': 1}; K = types.MappingProxyType(D)", "K['a']", "D['a'] = 10"),
    "namespace": ("K = types.SimpleNamespace(a=1)", "K.a", "K.a = 10"),
    "bytearray": ("K = bytearray(b'a')", "K[0]", "K[0] = 10"),
    "array": ("K = array.array('i', [1])", "K[0]", "K[0] = 10"),
    "decimal": ("K = decimal.Decimal('1.0')", "int(K)", "K = decimal.Decimal('10')"),
    "datetime": ("K = datetime.datetime(2000, 1, 1)", "K.year", "K = datetime.datetime(2001, 1, 1)"),
    "pattern": ("K = re.compile('a')", "len(K.pattern)", "K = re.compile('ab')"),
    "complex": ("K = 1j", "int(K.imag)", "K = 10j"),
    "ndarray": ("K = np.ones((2, 2))", "int(K[0, 0])", "K[0, 0] = 10"),
    "ndarray view": ("K = np.ones((4, 4))[::2, ::2]", "int(K[0, 0])", "K[0, 0] = 10"),
    "array of objects": ("K = np.array([{'a': 1}], dtype=object)", "K[0]['a']", "K[0]['a'] = 10"),
    "array of records": ("K = np.zeros(1, [('a', int)])", "int(K['a'][0])", "K['a'] = 10"),
    "scalar of numpy": ("K = np.float32(1)", "int(K)", "K = np.float32(10)"),
    "dtype": ("K = np.dtype('i4')", "K.itemsize", "K = np.dtype('i8')"),
    "shape": ("K = np.zeros((2, 8))", "len(K)", "K = np.zeros((4, 4))"),
    "object": ("class S:\n    def __init__(self): self.k = 1\nK = S()", "K.k", "K.k = 10"),
    "slots": ("class S:\n    __slots__ = ('k', 'unset')\nK = S(); K.k = 1", "K.k", "K.k = 10"),
    "slots set later": ("class S:\n    __slots__ = ('k',)\nK = S()", "hasattr(K, 'k')", "K.k = 10"),
    "subclass of dict": ("class S(dict): pass\nK = S(a=1); K.b = 1", "K.b", "K.b = 10"),
    "subclass of list": ("class S(list): pass\nK = S([1])", "K[0]", "K[0] = 10"),
    "subclass of str": ("class S(str): pass\nK = S('a')", "len(K)", "K = S('ab')"),
    "subclass of ndarray": ("class S(np.ndarray): pass\nK = np.ones(2).view(S)", "int(K[0])", "K[0] = 10"),
    "dataclass": ("@dataclasses.dataclass\nclass S:\n    k: int = 1\nK = S()", "K.k", "K.k = 10"),
    "frozen dataclass": ("@dataclasses.dataclass(frozen=True, slots=True)\nclass S:\n    k: int = 1\nK = S()", "K.k",
                         "K = S(10)"),
    "named tuple": ("S = collections.namedtuple('S', 'a b')\nK = S(1, 2)", "K.a", "K = S(10, 2)"),
    "enum member": ("class S(enum.Enum):\n    A = 1\n    B = 2\nK = S.A", "K.value", "K = S.B"),
    "property": ("class S:\n    def __init__(self): self._k = 1\n    k = property(lambda self: self._k)\nK = S()",
                        "K.k",
                 "K._k = 10"),
    "object in a list in an object": ("class S: pass\nK = S(); K.all = [S()]; K.all[0].k = 1", "K.all[0].k",
                                      "K.all[0].k = 10"),
    "cyclic list": ("K = [1]; K.append(K)", "K[1][0]", "K[0] = 10"),
    "cyclic objects": ("class S: pass\nK = S(); K.other = S(); K.other.other = K; K.k = 1", "K.other.other.k",
                        "K.k = 10"),
    "class attribute": ("class K:\n    k = 1", "K.k", "K.k = 10"),
    "attribute of a base class": ("class B:\n    k = 1\nclass S(B): pass\nK = S()", "K.k", "B.k = 10"),
    "dictionary in a class": ("class K:\n    d = {'a': 1}", "K.d['a']", "K.d['a'] = 10"),
    "partial": ("def g(k): return k\nK = functools.partial(g, 1)", "K()", "K = functools.partial(g, 10)"),
    "data of a partial": ("D = {'a': 1}\ndef g(d): return d['a']\nK = functools.partial(g, D)", "K()", "D['a'] = 10"),
    "item getter": ("K = operator.itemgetter(0)", "K([1, 10])", "K = operator.itemgetter(1)"),
    "functions in a dictionary": ("K = {'a': lambda: 1}", "K['a']()", "K['a'] = lambda: 10"),
    "data of a function in a dictionary": ("D = {'k': 1}\ndef g(): return D['k']\nK = {'a': g}", "K['a']()",
                                           "D['k'] = 10"),
    "data that a helper reads": ("D = {'k': 1}\ndef g(): return D['k']", "g()", "D['k'] = 10"),
    "data that a method reads": ("D = {'k': 1}\nclass S:\n    def g(self): return D['k']\nK = S()", "K.g()",
                        "D['k'] = 10"),
    "method": ("class S:\n    def __init__(self): self.k = 1\n    def g(self): return self.k\nK = S()", "K.g()",
                        "K.k = 10"),
    "bound method": ("class S:\n    k = 1\n    def g(self): return self.k\ns = S(); K = s.g", "K()", "s.k = 10"),
    "default of a helper": ("def g(d={'a': 1}): return d['a']", "g()", "g.__defaults__[0]['a'] = 10"),
    "code put into a helper": ("def g(): return 1\ndef h(): return 10", "g()", "g.__code__ = h.__code__"),
    "closure": ("def m():\n    d = {'a': 1}\n    return (lambda: d['a']), d\ng, D = m()", "g()", "D['a'] = 10"),
    "name that comes later": ("def g():\n    try: return K\n    except NameError: return 1", "g()", "K = 10"),
    "none": ("class S: pass\nK = S()", "K is None", "K = None"),
    "parser": ("K = configparser.ConfigParser(interpolation=None)\nK.read_dict({'s': {'a': '1'}})", "int(K['s']['a'])",
               "K['s']['a'] = '10'"),
    "object with a cached property": (

                               "class S:\n    def __init__(self): self.k = 1"
                        "\n    @functools.cached_property\n    def c(self): return 5\nK = S()",
        "K.k + K.c", "K.k = 10"),
    "singledispatch": (
        "D = {'k': 1}\n@functools.singledispatch\ndef g(x): return 0\n@g.register\ndef _(x: int): return D['k']",
        "g(x)", "D['k'] = 10"),
    "registered later": ("@functools.singledispatch\ndef g(x): return 1", "g(x)", "g.register(int, lambda x: 10)"),
    "singledispatch method": (
        "D = {'k': 1}\nclass S:\n    @functools.singledispatchmethod\n    def g(self, x): return 0\n"
        "    @g.register\n    def _(self, x: int): return D['k']\nK = S()", "K.g(x)", "D['k'] = 10"),
    "subscript of a class": (
        "D = {'k': 1}\nclass M(type):\n    def __getitem__(cls, name): return D[name]\nclass K(metaclass=M): pass",
        "K['k']", "D['k'] = 10"),
    "call of a class": (
        "D = {'k': 1}\nclass M(type):\n    def __call__(cls, name): return D[name]\nclass K(metaclass=M): pass",
        "K('k')", "D['k'] = 10"),
    "property of a class": (
        "D = {'k': 1}\nclass B(type):\n    k = property(lambda cls: D['k'])\nclass M(B): pass\n"
        "class S(metaclass=M): pass\nclass K(S): pass", "K.k", "D['k'] = 10"),
    "class of an object": (
        "D = {'k': 1}\nclass M(type):\n    k = property(lambda cls: D['k'])\nclass S(metaclass=M): pass\nK = S()",
        "type(K).k", "D['k'] = 10"),
    "list that classes enter": (
        "class B:\n    all = []\n    def __init_subclass__(cls): B.all.append(cls)\n"
        "class S(B):\n    k = 1\nclass T(B):\n    k = 2", "B.all[0].k", "S.k = 10"),
    "list that a metaclass fills": (
        "ALL = []\nclass M(type):\n    def __init__(cls, *more): ALL.append(cls)\n"
        "class S(metaclass=M):\n    k = 1", "ALL[0].k * len(S.__name__)", "S.k = 10"),
    "list that attributes enter": (
        "ALL = []\nclass A:\n    def __set_name__(self, owner, name): ALL.append(len(name))\n"
        "class S:\n    a = A()", "ALL[0] if S.a else 0", "ALL[0] = 10"),
    "logger beside data": ("log = logging.getLogger('x')\nK = [1]", "log.debug('y') or K[0]", "K[0] = 10"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENT)
def test_data_enters_the_key_by_content(name: str) -> None:
    source, body, change = CONTENT[name]
    made, scope = script(source, body)
    again, _ = script(source, body)
    assert followed(made), follow(made.fn).unfollowed
    assert identity(made) == identity(again)  # as another process would make it
    with Graph() as g:
        out = made(1)
    store, recorder = Store(), Recorder()
    first = g.run(want=out, store=store)
    assert g.run(want=out, store=store, listeners=[recorder]) == first
    assert recorder.why == {"f": Reuse.MEMORY}
    exec(textwrap.dedent(change), scope)
    expected = scope["f"](1)
    assert expected != first
    assert g.run(want=out, store=store) == expected


def test_a_copy_of_an_object_changes_no_key() -> None:
    made, scope = script("class S:\n    def __init__(self): self.k = 1\nK = S()", "K.k")
    before = follow(made.fn)
    copy.copy(scope["K"])  # Python keeps the names of slots in the class
    assert "__slotnames__" in vars(scope["S"])
    assert before.stands()
    assert follow(made.fn).hash == before.hash


UNFOLLOWED = {
    "lock": ("K = threading.Lock()", "K.locked() + x", "K", "_thread.lock"),
    "event": ("K = threading.Event()", "K.is_set() + x", "K", "_thread.lock"),
    "file": ("K = io.StringIO('a')", "len(K.getvalue())", "K", "StringIO"),
    "random source": ("K = random.Random(1)", "K.getrandbits(3)", "K", "Random"),
    "generator of numpy": ("K = np.random.default_rng(1)", "int(K.integers(3))", "K", "Generator"),
    "thread": ("K = threading.Thread()", "K.is_alive() + x", "K", ""),
    "generator": ("K = itertools.count()", "next(K)", "K", "count"),
    "path": ("K = pathlib.Path('styles.json')", "len(K.name)", "K", "a path"),
    "context variable": ("K = contextvars.ContextVar('K', default=1)", "K.get()", "K", "ContextVar"),
    "lock in a list": ("K = [{'a': threading.Lock()}]", "len(K)", "K", "lock"),
    "large array": ("K = np.zeros(5_000_000, np.int8)", "int(K[0])", "K", "more than 4 MB"),
    "many objects": (f"K = list(range({OBJECTS + 1}))", "K[0]", "K", "more than"),
    "long texts": ("K = ['a' * 1_000_000 + str(n) for n in range(5)]", "len(K)", "K", "more than 4 MB"),
    "memo": ("K = {}", "K.setdefault(x, x)", "K", "changed by"),
    "memo by subscript": ("K = {}\ndef g(x):\n    if x not in K: K[x] = x\n    return K[x]", "g(x)", "K", "changed by"),
    "memo in a local name": ("K = {}\ndef g(x):\n    k = K\n    k[x] = x\n    return x", "g(x)", "K", "changed by"),
    "counter": ("K = 0\ndef g(x):\n    global K\n    K += 1\n    return x", "g(x)", "K", "set by"),
    "list": ("K = []\ndef g(x):\n    K.append(x)\n    return x", "g(x)", "K", "changed by"),
    "attribute": ("class S: n = 0\nK = S()\ndef g(x):\n    K.n += 1\n    return x", "g(x)", "K", "changed by"),
    "class attribute": ("class K: n = 0\ndef g(x):\n    K.n += 1\n    return x", "g(x)", "K", "changed by"),
    "inner list": ("K = {'a': []}\ndef g(x):\n    K['a'].append(x)\n    return x", "g(x)", "K", "changed by"),
    "loop": ("K = [[]]\ndef g(x):\n    for k in K: k.append(x)\n    return x", "g(x)", "K", "changed by"),

                           "method that changes": ("class S:\n    def __init__(self): self.d = {}"
                        "\n    def keep(self, x):\n        self.d[x] = x\n"
                            "        return x\nK = S()", "K.keep(x)", "K", "keep() changes"),
    "method that calls one": ("class S:\n    def __init__(self): self.d = {}\n    def _put(self, x): self.d[x] = x\n"
                              "    def get(self, x):\n        self._put(x)\n        return x\nK = S()", "K.get(x)", "K",
                              "get() changes"),
    "given to a helper": ("K = {}\ndef put(d, x): d[x] = x\ndef g(x):\n    put(K, x)\n    return x", "g(x)", "K",
                          "changed by"),
    "closure": ("def m():\n    k = []\n    def g(x):\n        k.append(x)\n        return x\n    return g\ng = m()",
                        "g(x)",
                "k", "changed by"),

                           "nonlocal": ("def m():\n    k = 0\n    def g(x):\n        nonlocal k"
                        "\n        k += 1\n        return x\n    return g\n"
                 "g = m()", "g(x)", "k", "set by"),
    "default that remembers": ("def g(x, k={}):\n    k[x] = x\n    return x", "g(x)", "g(k=)", "changed by"),
    "class that counts its objects": (
        "class K:\n    n = 0\n    def __init__(self): K.n += 1\n", "K() and x", "K", "changed by"),
    "changed by a helper, read before": ("K = []\ndef put(x): K.append(x)\n", "len(K) + (put(x) or 0)", "K",
                        "changed by"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNFOLLOWED)
def test_what_cannot_be_followed_is_remembered_in_this_process_only(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, body, what, why = UNFOLLOWED[name]
    made, _ = script(f"import time\n{source}", f"time.sleep(0.003) or {body}")
    made.full_name = f"made.{name}"
    found = follow(made.fn).unfollowed
    assert [place.rpartition(".")[2] for place in found] == [what]
    assert why in next(iter(found.values()))

    @node(version=1)
    def after(x: int) -> int:
        return x

    with Graph() as g:
        out, later = made(1), after(made(1))
    recorder, store = Recorder(), Store(disk=DiskStore(tmp_path))
    with caplog.at_level(logging.WARNING):
        g.run(want=later, store=store)
        g.run(want=[out, later], store=store, listeners=[recorder])
    assert set(recorder.why.values()) <= {Reuse.MEMORY, Reuse.JOINED}
    said = [record.getMessage() for record in caplog.records if made.full_name in record.getMessage()]
    assert len(said) == 1
    assert f"{what} (" in said[0]
    assert not list(tmp_path.glob("keys/*/*"))  # nor what was made of it


def test_what_is_followed_is_kept_on_disk(tmp_path: Path) -> None:
    made, _ = script("import time\nK = {'a': [1]}", "time.sleep(0.003) or K['a'][0]")
    with Graph() as g:
        out = made(1)
    g.run(want=out, store=Store(disk=DiskStore(tmp_path)))
    recorder = Recorder()
    g.run(want=out, store=Store(disk=DiskStore(tmp_path)), listeners=[recorder])
    assert recorder.why == {"f": Reuse.DISK}


def test_a_fingerprint_stands_for_what_cannot_be_followed(tmp_path: Path) -> None:
    made, _ = script("import time\nK = threading.Lock()", "time.sleep(0.003) or K.locked() + x")
    made.fingerprint(lambda x: 1)
    assert not is_of_process(node_key(made, {"x": 1}))


def test_data_that_changes_while_a_node_computes_is_not_kept_beyond_the_process(tmp_path: Path) -> None:
    source = "import time\nK = {'a': 1}\nchange = globals().__getitem__('K').__setitem__"
    made, _ = script(source, "time.sleep(0.003) or change('a', 2) or x")
    with Graph() as g:
        out = made(1)
    g.run(want=out, store=Store(disk=DiskStore(tmp_path)))
    assert not list(tmp_path.glob("keys/*/*"))


class Sentry:
    """Every method of it that Python might call by itself tells."""

    called: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.k = 1

    def __getattr__(self, name: str) -> Any:
        Sentry.called.append(name)
        raise AttributeError(name)

    @property  # type: ignore[override]
    def __class__(self) -> Any:
        Sentry.called.append("__class__")
        return int


def _sentry(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any) -> Any:
        Sentry.called.append(name)
        raise RuntimeError(name)

    return method


for _name in ("__eq__", "__hash__", "__repr__", "__str__", "__iter__", "__len__", "__bool__", "__getitem__",
                        "__reduce__",
              "__reduce_ex__", "__getstate__", "__copy__", "__deepcopy__", "__sizeof__", "__dir__", "__format__",
              "__bytes__", "__index__", "__float__", "__fspath__", "__array__", "__call__", "__contains__", "__lt__",
              "__instancecheck__", "__subclasscheck__"):  # fmt: skip
    setattr(Sentry, _name, _sentry(_name))
Sentry.k_property = property(_sentry("k_property"))  # type: ignore[attr-defined]


class Mapped(dict):  # type: ignore[type-arg]
    def items(self) -> Any:
        raise RuntimeError("items")

    keys = values = __iter__ = __len__ = __getitem__ = __eq__ = items  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Meta(type):
    def __eq__(cls, other: object) -> bool:
        raise RuntimeError("eq")

    def __hash__(cls) -> int:
        raise RuntimeError("hash")

    def __instancecheck__(cls, value: object) -> bool:
        raise RuntimeError("instancecheck")

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__dict__", "__mro__", "__name__", "__module__"):
            raise RuntimeError(name)
        return super().__getattribute__(name)


def test_nothing_of_the_users_is_called() -> None:
    Sentry.called.clear()
    values = [Sentry(), Mapped(a=Sentry()), [Sentry(), (Sentry(),)]]
    ContentReader(lambda value: "code", lambda kind: kind is type).of(values)
    assert Sentry.called == []
    scope: dict[str, Any] = {}
    exec("class M(Meta_free, metaclass=Meta): pass", {"Meta_free": object, "Meta": Meta, "__name__": "m"}, scope)
    ContentReader(lambda value: "code", lambda kind: kind is type).of([object.__new__(scope["M"])])


def test_sets_are_told_by_what_they_hold() -> None:
    def content(value: Any) -> bytes:
        return ContentReader(repr, lambda kind: kind is type).of(value)

    assert content({"a", "b", "c"}) == content({"c", "b", "a"})
    assert content({("a", 1), ("b", 2)}) == content({("b", 2), ("a", 1)})
    assert content({("a", 1)}) != content({("a", 2)})
    differ = [1, True, 1.0, "1", b"1", [1], (1,), {1}, {1: None}, None, [], (), {}, set(), frozenset(), [[]], [[], []],
              np.array(1), np.array([1]), np.array([1], "i2"), bytearray(b"1"), 1j]  # fmt: skip
    assert len({content(value) for value in differ}) == len(differ)


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    folder = tmp_path / f"data_{tmp_path.name[-12:].replace('-', '_')}"
    folder.mkdir()
    return folder


def test_data_that_a_pack_reads_from_a_file_enters_its_keys(pack: Path, tmp_path: Path) -> None:
    (pack / "common.py").write_text(
        textwrap.dedent("""
        import json, pathlib
        STYLES = json.loads((pathlib.Path(__file__).parent / "styles.json").read_text())
        class Styles:
            def __init__(self, all): self.all = all
        OBJECT = Styles(STYLES)
        def styled(name): return STYLES[name]
    """)
    )
    (pack / "nodes.py").write_text(
        textwrap.dedent("""
        import time
        from graphengine import node
        from . import common
        from .common import OBJECT, STYLES, styled

        @node
        def by_name(n: str) -> str: time.sleep(0.003); return STYLES[n]
        @node
        def by_object(n: str) -> str: time.sleep(0.003); return OBJECT.all[n]
        @node
        def by_helper(n: str) -> str: time.sleep(0.003); return styled(n)
        @node
        def by_module(n: str) -> str: time.sleep(0.003); return common.STYLES[n]
        @node(version=1)
        def by_version(n: str) -> str: time.sleep(0.003); return STYLES[n]
    """)
    )
    names = ("by_name", "by_object", "by_helper", "by_module", "by_version")
    told = []
    for text in ("one", "one", "two"):
        (pack / "styles.json").write_text(f'{{"film": "{text}"}}')
        assert registry.load_folder(pack) == []
        g = Graph()
        for name in names:
            g.add(f"{pack.name}.{name}", name, n="film")
        recorder = Recorder()
        found = g.run(store=Store(disk=DiskStore(tmp_path / "store")), listeners=[recorder])
        told.append((dict(found), set(recorder.why.values())))
    assert told[0] == (dict.fromkeys(names, "one"), {Reuse.COMPUTED})
    assert told[1] == (dict.fromkeys(names, "one"), {Reuse.DISK})
    assert told[2][0] == dict.fromkeys(names, "two") | {"by_version": "one"}  # its author says when data change


def test_a_change_is_seen_by_every_graph_and_plan() -> None:
    made, scope = script("K = {'a': 1}", "K['a']")
    graphs = []
    for _ in range(2):
        with Graph() as g:
            made(1)
        graphs.append(g)
    store = Store()
    assert [g.run(want="f", store=store) for g in graphs] == [1, 1]
    scope["K"]["a"] = 2
    assert [g.run(want="f", store=store) for g in graphs] == [2, 2]


def test_an_object_that_is_gone_is_not_kept_alive() -> None:
    class Model:
        def __init__(self) -> None:
            self.lock = __import__("threading").Lock()

    made, scope = script("", "K is None")
    scope["K"] = Model()
    ref = weakref.ref(scope["K"])
    assert identity(made)
    scope["K"] = None
    gc.collect()
    assert ref() is None
    assert not is_current(made)


def _best(call: Callable[[], Any], times: int = 7) -> float:
    found = []
    for _ in range(times):
        start = thread_time()
        call()
        found.append(thread_time() - start)
    return min(found)


def test_a_large_dictionary_costs_little_and_a_large_model_nothing() -> None:
    made, _ = script("K = {f'key {n}': n for n in range(10_000)}", "K['key 7']")
    with Graph() as g:
        out = made(1)
    store = Store()
    g.run(want=out, store=store)
    assert _best(lambda: g.run(want=out, store=store)) < 0.05  # 3 ms on an idle machine
    made, _ = script("K = {'w': np.empty(1 << 30, np.int8)}", "K['w'].nbytes")
    identity(made)
    assert _best(lambda: is_current(made)) < 0.01  # microseconds on an idle machine
