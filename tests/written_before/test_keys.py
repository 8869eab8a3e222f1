"""Promise: a call has the key that it had, so that what a disk store holds is found.

The state of packs (a hash of all their sources, and versions of libraries) is pinned; all else that enters keys is
compared: names of nodes, versions, literals with the modules of their classes, digests of files and weights, and for
nodes without a version their code with the modules of what it uses. That code is compiled by Python, so that those keys
are of one version of it.

Not among them are nodes without a version whose data hold a `functools.partial`: their keys are others in each process
(what is read of a partial holds an address), so that none of them is ever found again.

Keys are made in a process of its own: in this one they were made with the packs' true state, and are kept.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from .make import run

MADE = Path(__file__).parent / "made"
BEFORE: dict[str, Any] = json.loads((MADE / "keys.json").read_text("utf-8"))
GONE = {
    "graphengine.service.channel:is_closed", "graphengine.service.here:as_dict",
    "graphengine.service.here:preview_png", "graphengine.workflow_read:comfyui_form",
}  # fmt: skip
"""Functions and classes, as `module:name`, that nobody can use any more."""

of_this_python = pytest.mark.skipif(
    BEFORE["python"] != list(sys.version_info[:2]), reason="another version of Python compiles to other code"
)


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    """The keys of the same calls as they are made now."""
    found: dict[str, Any] = json.loads(
        run("-m", "tests.written_before.make", "keys", given=json.dumps(BEFORE["names"])).splitlines()[-1]
    )
    return found


@pytest.mark.parametrize("name", BEFORE["packs"])
def test_a_call_of_a_pack_has_the_key_that_it_had(now: dict[str, Any], name: str) -> None:
    assert now["packs"][name] == BEFORE["packs"][name]


@of_this_python
@pytest.mark.parametrize("name", BEFORE["script"])
def test_a_call_of_a_script_has_the_key_that_it_had(now: dict[str, Any], name: str) -> None:
    assert now["script"][name] == BEFORE["script"][name]


@of_this_python
def test_whatever_of_graphengine_a_script_uses_its_keys_are_what_they_were(now: dict[str, Any]) -> None:
    """Every function and class that its modules defined, each in a node of a script that uses it."""
    others = {name: key for name, key in now["names"].items() if key != BEFORE["names"][name]}
    assert others.keys() - GONE == set(), others


def test_a_picture_is_found_in_a_store_that_a_run_has_filled(tmp_path: Path) -> None:
    shutil.copytree(MADE / "filled", tmp_path / "store")
    how = json.loads(run("-m", "tests.written_before.make", "fill", tmp_path / "store").splitlines()[-1])
    assert how["decode_latent"] == "disk"
    assert "computed" not in how.values()
