"""Shell completion: by the variables with which shells ask, and in a real bash."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.graphengine.cli.conftest import PACKS, Done, Run, command, environment

Ask = Callable[..., list[str]]

SWITCHES = """\
version: 1
inputs:
  large: {type: bool, default: false, help: "Evil `id` $(id) \\\\$(id) '\\"; [x]"}
  size: {type: int, default: 1, choices: [1, 12, 20]}
  photo: {type: path, default: null}
  "$(id)": {type: int, default: 1}
nodes:
  a: {node: not_installed.anywhere, from: {x: inputs.large}}
"""


@pytest.fixture
def ask(cli: Run, tmp_path: Path) -> Ask:
    """What a shell is told for a line up to the cursor; a word that goes on with a tab is a help text."""
    (tmp_path / "switches.yaml").write_text(SWITCHES)

    def offers(line: str, shell: str = "bash", **env: str) -> list[str]:
        variable = "COMP_LINE" if shell == "bash" else "_TYPER_COMPLETE_ARGS"
        own = {variable: line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        done = cli(_GRAPHENGINE_COMPLETE=f"complete_{shell}", **own | env)
        assert done.err == ""
        return [text for text in done.out.splitlines() if text]

    return offers


def test_commands_and_options_are_offered(ask: Ask) -> None:
    assert ask("graphengine w") == ["workflows", "why", "worker"]
    assert ask("graphengine run x --keep") == ["--keep-going"]
    assert ask("graphengine run x --backend lo") == ["local"]
    assert ask("graphengine queue su") == ["submit"]


@pytest.mark.parametrize("command", ["run", "validate other.yaml", "workflows", "why", "queue submit", "sweep"])
def test_workflows_are_offered_by_name_and_by_file(ask: Ask, tmp_path: Path, command: str) -> None:
    (tmp_path / "sw folder").mkdir()
    (tmp_path / "swamp").mkdir()
    (tmp_path / "swim.json").touch()
    (tmp_path / "sw $(id).yaml").touch()
    (tmp_path / "swim.txt").touch()
    assert ask(f"graphengine {command} sw") == ["sweep", "swamp/", "swim.json", "switches.yaml"]


def test_files_in_folders_are_offered(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "flow.yml").touch()
    (tmp_path / "deep" / ".hidden.yml").touch()
    assert ask("graphengine run deep/") == ["deep/er/", "deep/flow.yml"]
    assert ask("graphengine run deep/.h") == ["deep/.hidden.yml"]
    assert ask("graphengine run ~/fl", HOME=str(tmp_path / "deep")) == ["~/flow.yml"]


def test_workflows_of_packs_on_the_line_are_offered(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "mine" / "workflows").mkdir(parents=True)
    (tmp_path / "mine" / "workflows" / "zebra.yaml").write_text("inputs: {stripes: {type: int}}\n")
    assert ask("graphengine run --packs mine ze") == ["zebra"]
    assert ask("graphengine run --packs=mine zebra --set s") == ["stripes="]


def test_nodes_are_offered(ask: Ask) -> None:
    assert ask("graphengine nodes pain") == ["paint"]
    assert ask("graphengine nodes toy.pai") == ["toy.paint"]
    assert ask("graphengine nodes load_br", GRAPHENGINE_PACKS="") == []
    assert ask(f"graphengine nodes --packs {PACKS / 'toy'} load_br", GRAPHENGINE_PACKS="") == ["load_brush"]


def test_inputs_are_offered(ask: Ask) -> None:
    assert ask("graphengine run text_to_image --set pro") == ["prompt="]
    assert ask("graphengine sweep text_to_image --over see") == ["seed="]
    assert ask("graphengine queue submit --out here text_to_image --set=seed=1 --set s") == ["scheduler=", "steps="]
    assert ask("""graphengine run text_to_image --set prompt="it's a 'b" --set p""") == []
    assert ask("graphengine run switches.yaml --set ") == ["large=", "size=", "photo="]


def test_values_of_inputs_are_offered(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    assert ask("graphengine run switches.yaml --set large=") == ["true", "false"]
    assert ask("graphengine run switches.yaml --set size=1") == ["1", "12"]
    assert ask("graphengine run switches.yaml --set photo=ph") == ["photo.png"]
    assert ask("graphengine run switches.yaml --set size=1", COMP_WORDBREAKS=" \n") == ["size=1", "size=12"]
    assert ask("graphengine run switches.yaml --set 'size=1") == ["size=1", "size=12"]
    assert ask("graphengine run switches.yaml --set size=1", "fish") == ["size=1", "size=12"]


@pytest.mark.parametrize("line", [
    "run broken.yaml --set ", "run list.yaml --set ", "run gone.yaml --set ", "run --set ",
    "run switches.yaml --set x=", "run gone/", "nodes --packs gone ", "run 'unclosed --set ",
])  # fmt: skip
def test_what_is_wrong_offers_nothing_in_silence(ask: Ask, tmp_path: Path, line: str) -> None:
    (tmp_path / "broken.yaml").write_text("inputs: [\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    assert ask(f"graphengine {line}") == []


def test_a_pack_that_does_not_load_is_no_matter(ask: Ask) -> None:
    packs = os.pathsep.join([str(PACKS / "broken"), str(PACKS / "toy"), "gone"])
    assert ask("graphengine nodes pain", GRAPHENGINE_PACKS=packs) == ["paint"]
    assert ask("graphengine run text_to_im", GRAPHENGINE_PACKS=packs) == ["text_to_image"]


def test_what_a_pack_prints_is_no_offer(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "noisy").mkdir()
    (tmp_path / "noisy" / "loud.py").write_text("import sys\nprint('paint it')\nprint('black', file=sys.stderr)\n")
    packs = os.pathsep.join([str(tmp_path / "noisy"), str(PACKS / "toy")])
    assert ask("graphengine nodes pain", GRAPHENGINE_PACKS=packs) == ["paint"]


def test_a_question_that_makes_no_sense_is_not_answered(cli: Run) -> None:
    done = cli(_GRAPHENGINE_COMPLETE="complete_bash", COMP_WORDS="graphengine run", COMP_CWORD="x")
    assert (done.code, done.out, done.err) == (1, "", "")


def test_the_script_of_typer_itself_is_answered(cli: Run) -> None:
    asked = {"COMP_WORDS": "graphengine\nrun\ntext_to_image\n--set\npro", "COMP_CWORD": "4"}
    assert cli(_GRAPHENGINE_COMPLETE="complete_bash", **asked).out == "prompt=\n"


def test_fish_and_zsh_get_help_texts(ask: Ask) -> None:
    assert ask("graphengine run text_to_image --set pro", "fish") == [
        "prompt=\tWhat the picture shows; word 1.3 , word and a b 0.5 weigh and change words."
    ]
    assert ask("graphengine nodes pain", "zsh") == ["""_arguments '*: :(("paint":"Paint a picture."))'"""]


def test_what_a_shell_evaluates_holds_nothing_that_it_acts_on(ask: Ask) -> None:
    (line,) = ask("graphengine run switches.yaml --set l", "zsh")
    assert line == """_arguments '*: :(("large=":"Evil id id id ; x"))'"""
    assert "id" not in "".join(ask("graphengine run switches.yaml --set ", "fish")).replace("Evil id id id", "")


LOADED = """
import atexit, sys
heavy = ("torch", "diffusers", "transformers", "numpy", "networkx", "PIL", "rich", "graphengine_nodes")
file = sys.argv.pop(1)
atexit.register(lambda: open(file, "w").write(" ".join(name for name in heavy if name in sys.modules)))
from graphengine.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize(("line", "imported"), [
    ("graphengine ", ""), ("graphengine run ", ""), ("graphengine run text_to_image --set ", ""),
    ("graphengine nodes s", "graphengine_nodes"),
])  # fmt: skip
def test_little_is_imported(tmp_path: Path, shell: str, line: str, imported: str) -> None:
    asked = {"COMP_LINE" if shell == "bash" else "_TYPER_COMPLETE_ARGS": line}
    env = environment(tmp_path, GRAPHENGINE_PACKS="", _GRAPHENGINE_COMPLETE=f"complete_{shell}", **asked)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(tmp_path / "loaded")], cwd=tmp_path, env=env, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 1
    assert (tmp_path / "loaded").read_text() == imported


# --- a real bash ------------------------------------------------------------------------------------------------------

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="there is no bash here")


@pytest.fixture
def home(tmp_path: Path, cli: Run) -> Path:
    """A home folder in which completion was installed for bash, and a `graphengine` in its folder bin."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "graphengine"
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    done = cli("--install-completion", "bash", HOME=str(tmp_path))
    assert done.code == 0, done.err
    assert done.out.startswith(f"bash completion installed in {tmp_path}")
    return tmp_path


def _environment(home: Path) -> dict[str, str]:
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return environment(home, HOME=str(home), PATH=path, PS1="$ ", TERM="dumb")


@needs_bash
def test_bash_knows_the_completion(home: Path) -> None:
    script = ". ~/.bashrc && complete -p graphengine"
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script], env=_environment(home), capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout == "complete -o default -F _graphengine_completion graphengine\n"


@needs_bash
@pytest.mark.parametrize(("typed", "completed"), [
    ("graphengine run text_to_im\t--set pro\tX", "run text_to_image --set prompt=X"),
    ("graphengine run switches.yaml --set large=t\t--set si\t7", "run switches.yaml --set large=true --set size=7"),
    ("graphengine run swi\tX", "run switches.yaml X"),
    ("graphengine nodes toy.pai\tX", "nodes toy.paint X"),
    ("graphengine run fold\tX", "run folder/X"),
])  # fmt: skip
def test_a_line_is_completed_in_bash(home: Path, typed: str, completed: str) -> None:
    (home / "switches.yaml").write_text(SWITCHES)
    (home / "folder").mkdir()
    parent, child = pty.openpty()
    bash = subprocess.Popen(
        [str(BASH), "--noprofile", "-i"], stdin=child, stdout=child, stderr=child, cwd=home, env=_environment(home),
        start_new_session=True,
    )  # fmt: skip
    os.close(child)
    try:
        # The completed line becomes the argument of an echo: Ctrl-A goes to its beginning.
        os.write(parent, f"{typed}\x01echo told: \n".encode())
        _wait_for(parent, f"\ntold: graphengine {completed}")
    finally:
        bash.kill()
        bash.wait()
        os.close(parent)


def _wait_for(terminal: int, text: str) -> None:
    seen, end = "", time.monotonic() + 120
    while text not in seen.replace("\r", ""):
        ready, _, _ = select.select([terminal], [], [], end - time.monotonic())
        assert ready, f"{text!r} did not come: {seen!r}"
        seen += os.read(terminal, 4096).decode(errors="replace")


# --- installing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shell", "file"), [
    ("bash", ".bash_completions/graphengine.sh"), ("zsh", ".zfunc/_graphengine"),
    ("fish", ".config/fish/completions/graphengine.fish"),
])  # fmt: skip
def test_completion_is_installed_where_a_shell_looks(cli: Run, tmp_path: Path, shell: str, file: str) -> None:
    done = cli("--install-completion", shell, HOME=str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == f"{shell} completion installed in {tmp_path / file}"
    assert (tmp_path / file).read_text().strip() == cli("--show-completion", shell).out.strip()


def _fails(done: Done, code: int, sentence: str) -> None:
    assert (done.code, done.out, done.err) == (code, "", f"{sentence}\n")


def test_what_cannot_be_installed_is_one_sentence(cli: Run, tmp_path: Path) -> None:
    advice = "(write graphengine --install-completion bash, or zsh, fish, powershell)"
    _fails(cli("--install-completion", "tcsh"), 2, f"there is no completion for 'tcsh' {advice}")
    _fails(cli("--install-completion", "bash", "x"), 2, f"there is no completion for 'bash x' {advice}")
    (tmp_path / "file").touch()
    done = cli("--install-completion", "fish", HOME=str(tmp_path / "file"))
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith(str(tmp_path / "file"))
    assert done.err.endswith(" cannot be written: Not a directory\n")


def test_a_shell_that_is_not_known_must_be_named(cli: Run) -> None:
    done = cli("--install-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    sentence = "it is not known which shell this is"
    _fails(done, 2, f"{sentence} (write graphengine --install-completion bash, or zsh, fish, powershell)")
