"""Values on disk survive a restart; whatever is wrong with a file there, it is a miss."""

import hashlib
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphengine import DiskStore, Graph, Reuse, SocketType, Store, node, register_type
from graphengine.cache import Entry
from graphengine.cache.disk import seal, unseal
from graphengine.cache.tree import blob_name, to_tree
from graphengine.errors import NotStorable
from graphengine.system.staging import hold_file
from graphengine.testing import Recorder
from tests.graphengine.sample import CALLS, Big, Division, big, number_of, uncounted

KEY, OTHER = bytes(16), bytes(range(16))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    CALLS.clear()
    monkeypatch.setattr("graphengine.cache.store.WORTH_WRITING", 0.0)


@pytest.fixture
def disk(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "store")


class Bare:
    """A type without a codec."""


class Broken:
    """A type whose codec fails."""


def _fail(*_: Any) -> Any:
    raise RuntimeError("no codec today")


register_type(SocketType(Broken, "TestBroken", encode=_fail, decode=_fail))

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(Path("a/b")),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return repr(a) == repr(b) if isinstance(a, float) else bool(a == b)


@given(PLAIN)
@settings(max_examples=80, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    disk = DiskStore(tmp_path_factory.getbasetemp() / "round")
    assert disk.put(KEY, Entry(value, {"device": "cpu"}, 2.5))
    found = DiskStore(disk.folder).get(KEY)
    assert found is not None
    assert same(found.value, value)
    assert (found.made, found.cost) == ({"device": "cpu"}, 2.5)


def test_registered_types_and_several_outputs(disk: DiskStore) -> None:
    assert disk.put(KEY, Entry([Big(7, 70), 3, Division(1, 2)]))
    found = DiskStore(disk.folder).get(KEY)
    assert found is not None
    images, number, division = found.value
    assert (images.number, images.bytes, number) == (7, 70, 3)
    assert type(division) is Division
    assert division == (1, 2)
    assert KEY in disk
    assert OTHER not in disk


@pytest.mark.parametrize("value", [Bare(), [Bare()], Broken(), {1: Bare()}, object, len])
def test_what_has_no_codec_stays_in_memory(disk: DiskStore, value: Any) -> None:
    assert not disk.put(KEY, Entry(value))
    assert disk.get(KEY) is None
    assert disk.usage() == (0, 0)


class Mute(Bare):
    """A type that is registered without a codec."""


register_type(SocketType(Mute, "Mute"))


class Nearly(Big):
    """A subclass of a registered type."""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Bare(), r'type .*\.Bare has .*: make it a dataclass of such values, or register_type\(SocketType\(Bare, "Ba'),
        ([Mute()], r"type .*\.Mute has .*: it is registered without a codec; register_type\(SocketType\(Mute, .* one$"),
        ({"a": Nearly(1)}, r"\.Nearly has .*: what is registered is its base TestBig; register_type\(.*Nearly"),
        (object(), r"type object has .*: what can are numbers, texts, .* arrays, dataclasses and registered types$"),
    ],
)
def test_what_has_no_form_is_told_with_what_to_do(value: Any, told: str) -> None:
    with pytest.raises(NotStorable, match=told):
        to_tree(value, lambda name, content: None)


def test_a_codec_that_fails_fails_no_run(disk: DiskStore) -> None:
    @node(version=1, on="thread")
    def broken(x: int) -> Broken:
        return Broken()

    with Graph() as g:
        out = broken(1)
    assert isinstance(g.run(want=out, store=Store(disk=disk)), Broken)


def test_equal_contents_lie_there_once(disk: DiskStore) -> None:
    disk.put(KEY, Entry(Big(1)))
    size = disk.usage()[1]
    disk.put(OTHER, Entry(Big(1)))
    assert disk.usage()[0] == 2
    assert len(list((disk.folder / "blobs").rglob("*"))) == 2  # a folder and a file
    assert disk.usage()[1] < 2 * size


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    match how:
        case "cut short":
            file.write_bytes(content[: len(content) // 2])
        case "emptied":
            file.write_bytes(b"")
        case "one bit":
            file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        case "noise":
            file.write_bytes(random.Random(1).randbytes(50))
        case "gone":
            file.unlink()
        case "longer":
            file.write_bytes(content + b"x")


@pytest.mark.parametrize("part", ["keys", "blobs"])
@pytest.mark.parametrize("how", ["cut short", "emptied", "noise", "gone", "longer", "one bit"])
def test_whatever_is_damaged_is_a_miss_and_is_mended(disk: DiskStore, part: str, how: str) -> None:
    disk.put(KEY, Entry(Big(7, 70)))
    (file,) = [f for f in (disk.folder / part).rglob("*") if f.is_file()]
    damage(file, how)
    assert disk.get(KEY) is None
    assert disk.put(KEY, Entry(Big(7, 70)))
    found = disk.get(KEY)
    assert found is not None
    assert found.value.number == 7


@pytest.mark.parametrize("how", ["cut short", "emptied", "noise", "gone", "longer", "one bit"])
def test_bytes_that_are_written_again_are_mended(disk: DiskStore, how: str) -> None:
    content = random.Random(2).randbytes(5000)
    name = blob_name(content)
    disk.put_blob(name, content)
    damage(disk._blob_file(name), how)
    disk.put_blob(name, content)
    assert disk.get_blob(name) == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
@pytest.mark.parametrize("part", ["keys", "blobs"])
def test_a_fifo_in_the_place_of_a_file_is_a_miss(disk: DiskStore, part: str) -> None:
    disk.put(KEY, Entry(Big(7, 70)))
    (file,) = [f for f in (disk.folder / part).rglob("*") if f.is_file()]
    file.unlink()
    os.mkfifo(file)
    assert disk.get(KEY) is None
    assert disk.put(KEY, Entry(Big(7, 70)))
    assert disk.get(KEY) is not None


def test_what_cannot_be_read_just_now_is_not_taken_away(disk: DiskStore) -> None:
    resource = pytest.importorskip("resource")
    disk.put(KEY, Entry(Big(7, 70)))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        found = disk.get(KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found is None
    assert disk.get(KEY) is not None


def test_any_bit_that_flips_gives_no_wrong_value(disk: DiskStore) -> None:
    disk.put(KEY, Entry([Big(7, 70), 1234, "abc"]))
    file = disk._key_file(KEY)
    content = file.read_bytes()
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert disk.get(KEY) is None
        assert not file.exists()


@pytest.mark.parametrize(
    "record",
    [
        [], 3, None, "text", {}, {"format": 99}, {"format": 1, "key": KEY.hex()},
        {"format": 1, "key": OTHER.hex(), "value": {"json": 1}, "made": {}, "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"type": "TestBig", "blob": "../../../etc/passwd"}, "made": {},
         "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"type": "nobody's", "blob": "00"}, "made": {}, "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"named": ["os", "system"], "tuple": []}, "made": {}, "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"named": ["tests.graphengine.sample", "Division"], "tuple": []},
         "made": {}, "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"list": 3}, "made": {}, "cost": 0},
        {"format": 1, "key": KEY.hex(), "value": {"json": 1}, "made": 3, "cost": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_foreign_records_are_misses(disk: DiskStore, record: Any) -> None:
    file = disk._key_file(KEY)
    file.parent.mkdir(parents=True)
    file.write_bytes(seal(record))
    assert disk.get(KEY) is None
    disk.evict()
    disk.usage()
    assert disk.put(KEY, Entry(5))
    found = disk.get(KEY)
    assert found is not None
    assert found.value == 5


def seal_text(text: bytes) -> bytes:
    return text + b"\n" + hashlib.blake2b(text, digest_size=20).hexdigest().encode()


def test_deep_nesting_is_a_miss(disk: DiskStore) -> None:
    file = disk._key_file(KEY)
    file.parent.mkdir(parents=True)
    file.write_bytes(seal_text(b"[" * 1_000_000))
    assert disk.get(KEY) is None
    disk.evict()


def test_a_type_that_is_not_known_here_is_left_for_those_who_know_it(disk: DiskStore) -> None:
    disk.put(KEY, Entry(Big(7)))
    file = disk._key_file(KEY)
    record = unseal(file.read_bytes())
    record["value"]["type"] = "TestOther"
    file.write_bytes(seal(record))
    assert disk.get(KEY) is None
    assert file.exists()


def test_nothing_is_unpickled_or_imported(disk: DiskStore, tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path}/evil",)

    file = disk._key_file(KEY)
    file.parent.mkdir(parents=True)
    file.write_bytes(pickle.dumps(Evil()))
    assert disk.get(KEY) is None
    assert not (tmp_path / "evil").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_fails_no_run(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not DiskStore(tmp_path / "store").put(KEY, Entry(1))


def test_a_file_in_the_folders_place_fails_no_run(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    disk = DiskStore(tmp_path / "store")
    assert not disk.put(KEY, Entry(1))
    assert disk.get(KEY) is None
    assert disk.usage() == (0, 0)


def test_a_full_disk_leaves_no_half_file(disk: DiskStore) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))  # bytes of a file
    try:
        assert not disk.put(KEY, Entry(Big(1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [f for f in disk.folder.rglob("*") if f.is_file()]
    assert disk.put(KEY, Entry(Big(1)))


# --- budget ----------------------------------------------------------------------------------------------------------


def test_the_budget_is_kept_least_recently_used_first(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store", budget=20_000)
    for n in range(60):
        disk.put(bytes([n]) * 16, Entry("x" * 1000))
        os.utime(disk._key_file(bytes([n]) * 16), (n, n))
    disk.get(bytes([50]) * 16)
    disk.evict()
    assert disk.usage()[1] <= 20_000
    assert bytes([0]) * 16 not in disk
    assert bytes([50]) * 16 in disk
    assert bytes([59]) * 16 in disk


def test_bytes_that_nothing_points_to_go_with_their_values(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store", budget=10_000)
    register_type(SocketType(Text, "TestText", encode=lambda t: t.text.encode(), decode=lambda b: Text(b.decode())))
    for n in range(50):
        disk.put(bytes([n]) * 16, Entry(Text(f"{n:04}" * 500)))
        assert disk.usage()[1] < 13_000
    found = disk.get(bytes([49]) * 16)
    assert found is not None
    assert found.value.text == "0049" * 500
    assert type(found.value) is Text
    assert len([f for f in (disk.folder / "blobs").rglob("*") if f.is_file()]) == disk.usage()[0]


def test_bytes_without_a_key_are_within_the_budget_and_used_last_stays(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store", budget=100_000)
    contents = [random.Random(n).randbytes(4000) for n in range(100)]
    for content in contents:
        disk.put_blob(blob_name(content), content)
        assert disk.usage()[1] <= 100_000
    assert [disk.get_blob(blob_name(content)) for content in contents[-10:]] == contents[-10:]


def test_processes_that_write_at_once_keep_the_budget(tmp_path: Path) -> None:
    """Each has a store of its own over one folder, as workers and their service have."""
    stores = [DiskStore(tmp_path / "store", budget=100_000) for _ in range(4)]
    for n in range(120):
        content = random.Random(n).randbytes(2000)
        stores[n % 4].put_blob(blob_name(content), content)
        assert stores[0].usage()[1] <= 100_000


def test_foreign_files_hinder_nobody(tmp_path: Path) -> None:
    disk = DiskStore(tmp_path / "store", budget=1000)
    disk.put(KEY, Entry(Big(1)))
    for part in ("keys", "blobs"):
        (tmp_path / "store" / part / "odd").mkdir()
        (tmp_path / "store" / part / "odd" / "a.b c").write_bytes(b"x" * 2000)
    assert disk.put(OTHER, Entry("x" * 100))
    disk.evict()
    assert disk.usage()[1] <= 1000


class Text(NamedTuple("Text", [("text", str)])):
    """A value of its own size."""


def test_the_budget_is_shared_by_processes(tmp_path: Path) -> None:
    one = DiskStore(tmp_path / "store")
    one.put(KEY, Entry(1))
    one.set_budget(12345)
    assert DiskStore(tmp_path / "store").budget == 12345
    (tmp_path / "store" / "config.json").write_text("{")
    assert DiskStore(tmp_path / "store").budget > 12345


def test_left_over_temporary_files_go(disk: DiskStore) -> None:
    """Those that no process is writing."""
    disk.put(KEY, Entry(Big(1)))
    left, live = disk._key_file(KEY).parent / ".a.tmp", disk._key_file(KEY).parent / ".b.tmp"
    left.write_text("x")
    with open(live, "w") as writing:
        hold_file(writing.fileno())
        disk.evict()
        assert not left.exists()
        assert live.exists()
    disk.evict()
    assert not live.exists()
    assert disk.get(KEY) is not None


def test_clear(disk: DiskStore) -> None:
    disk.put(KEY, Entry(Big(1)))
    disk.put(OTHER, Entry(2))
    assert disk.clear() == 2
    assert disk.usage() == (0, 0)
    assert disk.get(KEY) is None
    disk.put(KEY, Entry(Big(1)))
    assert disk.get(KEY) is not None


# --- in runs ---------------------------------------------------------------------------------------------------------


def test_a_run_finds_what_another_process_computed(disk: DiskStore) -> None:
    with Graph() as g:
        out = number_of(big(3))
    g.run(want=out, store=Store(disk=disk))
    recorder = Recorder()
    assert g.run(want=out, store=Store(disk=DiskStore(disk.folder)), listeners=[recorder]) == 3
    assert recorder.why == {"number_of": Reuse.DISK}
    assert CALLS == {"big": 1, "number_of": 1}


def test_what_was_quickly_computed_is_not_written(disk: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphengine.cache.store.WORTH_WRITING", 0.05)
    with Graph() as g:
        outs = [uncounted(1), uncounted(2, 0.06)]
    g.run(want=outs, store=Store(disk=disk))
    assert disk.usage()[0] == 1


def test_what_asks_to_stay_in_memory_is_not_written(disk: DiskStore) -> None:
    @node(version=1, cache="memory")
    def private(x: int) -> int:
        return x

    with Graph() as g:
        out = private(1)
    store = Store(disk=disk)
    g.run(want=out, store=store)
    assert disk.usage()[0] == 0
    assert len(store.memory.entries) == 1


def test_several_outputs_come_back_from_disk(disk: DiskStore) -> None:
    from tests.graphengine.sample import add, divide

    with Graph() as g:
        d = divide(7, 2)
        outs = [d, d.rest, add(d.quotient, d.rest)]
    g.run(want=outs, store=Store(disk=disk))
    recorder = Recorder()
    found = g.run(want=outs, store=Store(disk=DiskStore(disk.folder)), listeners=[recorder])
    assert found == [(3, 1), 1, 4]
    assert type(found[0]) is Division
    assert recorder.why["divide"] is Reuse.DISK
    assert not recorder.computed


WRITER = """
import sys, time
sys.path[:0] = {path!r}
import graphengine.cache.store as s
s.WORTH_WRITING = 0
from graphengine import DiskStore, Graph, Store
from tests.graphengine.sample import uncounted, uncounted_number_of
start = float(sys.argv[2])
time.sleep(max(0, start - time.time()))
for round in range(3):
    with Graph() as g:
        outs = [uncounted_number_of(uncounted(n)) for n in range(60)]
    disk = DiskStore(sys.argv[1], budget=int(sys.argv[3]))
    assert g.run(want=outs, store=Store(memory=0, disk=disk)) == list(range(60))
    disk.evict()
print("right")
"""


@pytest.mark.parametrize("budget", [1 << 30, 4000])
def test_two_processes_write_the_same_store_at_once(tmp_path: Path, budget: int) -> None:
    program = WRITER.format(path=sys.path)
    command = [sys.executable, "-c", program, str(tmp_path / "s"), str(time.time() + 1), str(budget)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert out.strip() == b"right", err.decode()
    disk = DiskStore(tmp_path / "s")
    assert not list(disk.folder.rglob("*.tmp"))
    if budget > 10_000:
        assert disk.usage()[0] == 120
