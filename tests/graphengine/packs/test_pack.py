"""Packs: installed ones, folders, failing ones; names, migrations, and what stands for a pack in keys."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from graphengine import Graph, NodeDef, Pack, PackError, loads, node, pack
from graphengine.declare import registry
from graphengine.keys.call_key import identity
from tests import ROOT
from tests.graphengine.sample import inc


def install(
    site: Path, name: str, sources: dict[str, str], version: str = "1.0", entry: str | None = None,
    editable: bool = False, local: bool = False,
) -> None:  # fmt: skip
    """What an installer writes for a small distribution."""
    for file, source in sources.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        (site / file).write_text(textwrap.dedent(source))
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    module = next(iter(sources)).partition("/")[0].removesuffix(".py")
    (info / "entry_points.txt").write_text(f"[graphengine.nodes]\n{entry or name} = {module}\n")
    if editable or local:
        about = {"editable": True} if editable else {}
        (info / "direct_url.json").write_text(json.dumps({"url": "file:///x", "dir_info": about}))


def ask(site: Path, code: str) -> str:
    """Run some code in a fresh process which has these distributions installed."""
    program = f"import sys; sys.path[:0] = {[str(site), str(ROOT), str(ROOT / 'nodes')]!r}\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=site)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


GOOD = """
    from graphengine import node

    @node(version=1)
    def triple(x: int) -> int:
        return 3 * x
"""
BROKEN = """
    raise RuntimeError("cannot be loaded")
"""
ODD = """
    from graphengine import node

    @node
    def nothing(x):
        return x
"""


def test_installed_packs_are_found_and_a_failing_one_stops_nobody(tmp_path: Path) -> None:
    install(tmp_path, "goodpack", {"goodpack/__init__.py": GOOD})
    install(tmp_path, "badpack", {"badpack.py": BROKEN})
    install(tmp_path, "oddpack", {"oddpack.py": ODD})
    install(tmp_path, "exitpack", {"exitpack.py": "raise SystemExit(3)"})
    out = ask(
        tmp_path,
        """
        from graphengine import Graph
        from graphengine.declare import registry
        g = Graph()
        g.add("triple", "a", x=2)
        g.add("goodpack.triple", "b", x=g["a"])
        print(g.run(want=["a", "b"]))
        for error in sorted(registry.failures(), key=lambda e: e.pack):
            print(error)
        g.add("gone", "c", x=1)
        print(g.problems()[0])
        print("torch" in sys.modules)
        """,
    )
    values, *failures, problem, torch = out.splitlines()
    assert values == "[6, 18]"
    assert failures == [
        "node pack badpack: did not load: RuntimeError: cannot be loaded",
        "node pack exitpack: did not load: SystemExit: 3",
        "node pack oddpack: did not load: NodeDefinitionError: oddpack.nothing: the parameter x has no annotation; "
        "add one",
    ]
    assert "no installed pack has a node called gone" in problem
    assert "badpack" in problem  # perhaps it is in one that did not load
    assert torch == "False"


def test_a_bare_name_of_two_packs_must_be_written_in_full(tmp_path: Path) -> None:
    install(tmp_path, "onepack", {"onepack.py": GOOD})
    install(tmp_path, "twopack", {"twopack.py": GOOD.replace("3 * x", "30 * x")})
    out = ask(
        tmp_path,
        """
        from graphengine import Graph
        g = Graph()
        g.add("triple", "a", x=1)
        print(g.problems()[0].what)
        g = Graph()
        g.add("onepack.triple", "a", x=1)
        g.add("twopack.triple", "b", x=1)
        print(g.run())
        """,
    )
    assert out.splitlines() == [
        "triple is a node of several packs; write onepack.triple or twopack.triple",
        "{'a': 3, 'b': 30}",
    ]


def test_a_pack_may_say_its_name(tmp_path: Path) -> None:
    source = "from graphengine import Pack\n__pack__ = Pack('nice', distribution='ugly')\n" + textwrap.dedent(GOOD)
    install(tmp_path, "ugly", {"ugly/__init__.py": "from graphengine import Pack\n__pack__ = Pack('nice', "
                                                     "distribution='ugly')\nfrom ugly.more import *\n",
                               "ugly/more.py": GOOD})  # fmt: skip
    assert source
    look = "print(registry.find('nice.triple'), registry.find('ugly.triple'))"
    out = ask(tmp_path, f"from graphengine.declare import registry; {look}")
    assert out == "<node nice.triple> None"


KEY = """
    from graphengine.declare import registry
    from graphengine.keys.call_key import identity
    print(identity(registry.find("keypack.triple")).hex())
"""
PLAIN = "from graphengine import Pack\n__pack__ = Pack('keypack', distribution='keypack', libraries=('lib',))\n"


def key_of(site: Path, version: str = "1.0", lib: str = "1.0", editable: bool = False, extra: str = "",
           local: bool = False) -> str:  # fmt: skip
    sources = {"keypack/__init__.py": PLAIN + textwrap.dedent(GOOD), "keypack/helper.py": extra}
    install(site, "keypack", sources, version, editable=editable, local=local)
    (site / f"lib-{lib}.dist-info").mkdir()
    (site / f"lib-{lib}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lib\nVersion: {lib}\n")
    return ask(site, KEY)


def test_an_installed_packs_keys_hold_its_version_and_its_libraries(tmp_path: Path) -> None:
    keys = {
        name: key_of(tmp_path / name, **options)  # type: ignore[arg-type]
        for name, options in {
            "plain": {}, "again": {}, "later": {"version": "1.1"}, "library": {"lib": "2.0"},
            "sources": {"extra": "X = 1"}, "editable": {"editable": True},
            "edited": {"editable": True, "extra": "X = 1"}, "editable again": {"editable": True},
            "from a folder": {"local": True}, "from a folder, edited": {"local": True, "extra": "X = 1"},
        }.items()
    }  # fmt: skip
    assert keys["plain"] == keys["again"] == keys["sources"]
    assert keys["editable"] == keys["editable again"]
    assert keys["from a folder"] == keys["editable"]
    assert keys["from a folder, edited"] == keys["edited"]
    different = ("plain", "later", "library", "editable", "edited")
    assert len({keys[name] for name in different}) == len(different)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / f"mine_{tmp_path.name[-12:].replace('-', '_')}"
    made.mkdir()
    return made


def test_a_folder_is_a_pack(folder: Path) -> None:
    (folder / "a.py").write_text(textwrap.dedent(GOOD))
    (folder / "b.py").write_text(textwrap.dedent(GOOD).replace("triple", "six").replace("3 *", "6 *"))
    (folder / "c.py").write_text("import nothing_of_this_name\n")
    (folder / "notes.txt").write_text("no code")
    (failed,) = registry.load_folder(folder)
    assert failed.pack == f"{folder.name}.c"
    assert "No module named 'nothing_of_this_name'" in str(failed)
    assert failed in registry.failures()
    g = Graph()
    g.add("six", "a", x=2)
    g.add(f"{folder.name}.triple", "b", x=g["a"])
    assert g.run(want="b") == 36
    assert g.nodes["a"].type == f"{folder.name}.six"


def test_a_folder_that_was_edited_has_other_keys(folder: Path) -> None:
    def key() -> bytes:
        assert registry.load_folder(folder) == []
        found = registry.find(f"{folder.name}.triple")
        assert found is not None
        return identity(found)

    (folder / "a.py").write_text(textwrap.dedent(GOOD))
    (folder / "helper.py").write_text("X = 1")
    first = key()
    assert key() == first
    (folder / "helper.py").write_text("X = 2")
    assert key() != first


def test_a_folder_that_is_loaded_again_computes_anew(folder: Path) -> None:
    g = Graph()
    for factor in (3, 4, 5):  # each of one length, within one second
        (folder / "common.py").write_text(f"K = {factor}\n")
        (folder / "a.py").write_text(textwrap.dedent(GOOD).replace("3 *", "K *") + "\nfrom .common import K\n")
        assert registry.load_folder(folder) == []
        g = Graph()
        g.add(f"{folder.name}.triple", "a", x=2)
        assert g.run(want="a") == 2 * factor
    (folder / "a.py").unlink()
    assert registry.load_folder(folder) == []
    assert registry.find(f"{folder.name}.triple") is None


def test_two_folders_of_one_name_are_told(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other" / folder.name
    other.mkdir(parents=True)
    assert registry.load_folder(folder) == registry.load_folder(folder) == []
    with pytest.raises(PackError, match="two packs are called") as told:
        registry.load_folder(other)
    assert str(folder) in str(told.value)
    assert str(other) in str(told.value)


def script(folder: Path, source: str) -> str:
    (folder / "script.py").write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, timeout=60, cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'nodes'}", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("local", [False, True])
def test_an_edited_script_does_not_get_values_of_the_old_one(tmp_path: Path, local: bool) -> None:
    source = """
        import time
        from graphengine import DiskStore, Graph, Store, node
        import helpers

        @node(version=1)
        def conv(x: int) -> int:
            IMPORT
            time.sleep(0.01)
            return helpers.f(x) BODY

        with Graph() as g:
            out = conv(1)
        print(g.run(want=out, store=Store(disk=DiskStore("disk"))))
    """
    if local:
        source = source.replace("import helpers", "").replace("IMPORT", "import helpers")
    told = []
    for helper, body in (("x", ""), ("x", "+ 10"), ("x + 100", "+ 10")):
        (tmp_path / "helpers.py").write_text(f"def f(x):\n    return {helper}\n")
        told.append(script(tmp_path, source.replace("IMPORT", "").replace("BODY", body)))
    assert told == ["1", "11", "111"]


def test_two_nodes_of_one_name_in_a_folder_are_told(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / f"{name}.py").write_text(textwrap.dedent(GOOD))
    (failed,) = registry.load_folder(folder)
    assert f"two nodes are called {folder.name}.triple" in str(failed)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="there is no such folder"):
        registry.load_folder(tmp_path / "nothing")


def test_an_unknown_name_has_none() -> None:
    assert registry.find("nothing.at_all") is None
    assert "no installed pack" in registry.why_not("nothing")[0]
    assert registry.find("collect@1") is registry.find("flow.collect")


def test_names_come_from_the_top_module() -> None:
    assert inc.full_name == "tests.inc"
    assert pack.pack_of("some_module.inner") == Pack("some_module")
    assert pack.pack_of("__main__") == Pack("main")
    assert all(isinstance(d, NodeDef) for d in registry.nodes().values())


# --- migrations ------------------------------------------------------------------------------------------------------


MIGRATED = """
    from graphengine import node

    @node(version=3)
    def blur(radius: float, passes: int = 1) -> float:
        return radius * passes

    @blur.migration(1)
    def _(given):
        return {("size" if name == "width" else name): value for name, value in given.items()}

    @blur.migration(2)
    def _(given):
        return {("radius" if name == "size" else name): value for name, value in given.items()}

    @node(version=2)
    def sharpen(x: float) -> float:
        return x
"""


def test_a_file_for_an_older_version_is_reached_by_migrations(folder: Path) -> None:
    (folder / "a.py").write_text(textwrap.dedent(MIGRATED))
    assert registry.load_folder(folder) == []
    for written, socket in (("@1", "width"), ("@2", "size"), ("@3", "radius"), ("", "radius")):
        text = f"version: 1\nnodes:\n  b: {{node: {folder.name}.blur{written}, with: {{{socket}: 2.5}}}}\n"
        assert loads(text).run() == {"b": 2.5}
    for name, version in (("blur", 4), ("sharpen", 1)):
        socket = "radius" if name == "blur" else "x"
        g = loads(f"version: 1\nnodes:\n  b: {{node: {folder.name}.{name}@{version}, with: {{{socket}: 2.5}}}}\n")
        (problem,) = g.problems()
        assert str(version) in str(problem)
        assert ("3" if name == "blur" else "2") in str(problem)


def test_a_node_of_a_script_is_of_the_pack_main(tmp_path: Path) -> None:
    out = ask(
        tmp_path,
        """
        from graphengine import Graph, node

        @node
        def once(x: int) -> int:
            return x

        with Graph() as g:
            once(1)
        print(once.full_name, g.run())
        """,
    )
    assert out == "main.once {'once': 1}"


def test_defining_a_node_again_takes_its_place() -> None:
    @node(version=1)
    def again(x: int) -> int:
        return x

    first = again

    @node(version=1)
    def again(x: int) -> int:
        return x

    assert first is not again
    assert first.full_name == again.full_name
