"""The store of files: whole or not at all, by the hash of the content, and each user's apart."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path

import pytest

from graphengine.server.file_store import UNUSED_SECONDS, FileStore, NewAsset, open_inside, type_of
from graphengine.server.problems import ApiError


def test_a_file_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files", most=10)
    upload = store.upload("ann")
    upload.write(b"12345")
    with pytest.raises(ApiError, match="at most 10 bytes"):
        upload.write(b"678901")
    upload.close()
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
    kept = store.put("ann", b"12345")
    assert (kept.id, kept.new, kept.size) == (f"sha256:{hashlib.sha256(b'12345').hexdigest()}", True, 5)
    assert not store.put("ann", b"12345").new
    assert store.put("ben", b"12345").path != kept.path
    assert [file.stat().st_mode & 0o077 for file in tmp_path.rglob("*")] == [0] * 6
    with pytest.raises(ApiError, match="there is no file"):
        store.get("carl", kept.id)


def test_halves_that_a_killed_server_has_left_are_removed(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    kept, going, left = store.put("ann", b"x"), store.upload("ann"), store.upload("ann")
    parts = sorted(store.of("ann").glob(".*.tmp"))
    assert len(parts) == 2
    os.utime(parts[0], (0, 0))
    store.tidy()
    assert sorted(store.of("ann").iterdir()) == sorted([parts[1], kept.path])
    going.close()
    left.close()


def test_what_leads_outside_is_gone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", tmp_path / "in" / "link")
    os.symlink(tmp_path, tmp_path / "in" / "folder")
    (tmp_path / "in" / "fine").write_bytes(b"fine")
    file, size, kind = open_inside(tmp_path / "in" / "fine", [tmp_path / "in"])
    with file:
        assert (file.read(), size, kind) == (b"fine", 4, "application/octet-stream")
    for path in ("in/link", "in/folder/secret", "secret", "in/../secret", "in"):
        with pytest.raises(ApiError, match="is gone"):
            open_inside(tmp_path / path, [tmp_path / "in"])


def test_a_file_is_removed_when_nobody_holds_it(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    upload = store.upload("ann")
    upload.write(b"12345")
    over = upload.keep_as(NewAsset("a.png", seconds=0))
    assert (over.new, over.made) == (True, True)
    with pytest.raises(ApiError, match="there is no asset"):
        store.asset("ann", over.record.id)
    named = store.path_like(over)
    assert (named.suffix, named.read_bytes()) == (".png", b"12345")
    kept = store.put("ann", b"12345")
    store.tidy()
    assert kept.path.exists()
    held = store.hold("ann", over.record.blake3, NewAsset("b.png"))
    assert held is not None
    assert store.hold("ben", over.record.blake3, NewAsset("b.png")) is None
    with pytest.raises(ApiError, match="is an asset"):
        store.delete("ann", kept.id)
    store.delete_asset("ann", held.record.id)
    store.delete("ann", kept.id)
    assert [*store.of("ann").iterdir()] == []


@pytest.mark.parametrize("head", [b"", b"\x89PNG", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x18ftypheic", b"<svg", b"\xff\xd8"])
def test_other_types_are_not_shown(head: bytes) -> None:
    assert type_of(head) == "application/octet-stream"


def test_uploads_go_when_they_were_not_used_for_long(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    made = {name: store.put("ann", name.encode()) for name in ("unused", "used", "held", "new")}
    long_ago = time.time() - UNUSED_SECONDS - 60
    for name in ("unused", "used", "held"):
        os.utime(made[name].path, (long_ago, long_ago))
    held = store.copy("ann", io.BytesIO(b"held"), NewAsset("held.txt"))
    os.utime(held.path, (long_ago, long_ago))
    assert store.get("ann", made["used"].id).created == pytest.approx(long_ago)  # this is a use
    store.tidy()
    with pytest.raises(ApiError, match="upload it first"):
        store.get("ann", made["unused"].id)
    assert store.asset("ann", held.record.id).path.read_bytes() == b"held"
    assert {store.get("ann", made[name].id).path.read_bytes() for name in ("used", "new")} == {b"used", b"new"}
