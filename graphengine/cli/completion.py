"""Shell completion: offers names of workflows, nodes and inputs. Prints no errors, and imports no torch.

Typer does the shells' part (bash, zsh, fish and PowerShell) and calls the functions here. Offered names come from files
that may be a stranger's and are put into a command line, which zsh evaluates: so only names of letters, digits and a
few other characters are offered.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphengine.old_names import moved

VARIABLE = "_GRAPHENGINE_COMPLETE"
"""The environment variable by which a shell asks for completions; its value is `complete_bash`, `complete_zsh`, ..."""
OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
MOST_HELP = 80
"""The most characters of a help text beside an offer."""
MOST_FILES = 1_000
"""The most entries of a folder that are read."""

BASH = """
%(complete_func)s() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \\
                   COMP_CWORD=$COMP_CWORD \\
                   COMP_LINE="${COMP_LINE:0:$COMP_POINT}" \\
                   COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
                   %(autocomplete_var)s=complete_bash $1 ) )
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
    return 0
}

complete -o default -F %(complete_func)s %(prog_name)s
"""
"""Typer's script for bash, changed to pass the line up to the cursor and to add no space after `prompt=`, `folder/`."""

_NAME = re.compile(r"[\w.-]+")
_PATH = re.compile(r"[\w./~+@%,-]*")
_NOT_PLAIN = re.compile(r"[^\w .,;/+-]+")

Offer = str | tuple[str, str]
"""A text to offer, with or without a help text."""


# --- the line ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TypedLine:
    """A command line up to the cursor.

    Attributes:
        words: The words before the one with the cursor, beginning with the program's name.
        word: The part of the word with the cursor that is before it.
        head: The part of `word` that the shell does not replace: bash replaces only what follows a `=`.
    """

    words: tuple[str, ...] = ()
    word: str = ""
    head: str = ""


_line = TypedLine()


def asked() -> list[str]:
    """Read the command line that a shell wants completed; returns its words after the program's name."""
    global _line
    bash, text = os.environ.get("COMP_LINE"), os.environ.get("_TYPER_COMPLETE_ARGS", "")
    if os.environ.get("_TYPER_COMPLETE_WORD_TO_COMPLETE") == "":  # PowerShell leaves out the space before it
        text += " "
    _line = _read(text if bash is None else bash, is_bash=bash is not None)
    if bash is not None:  # typer reads these words
        os.environ["COMP_WORDS"] = "\n".join(map(shlex.quote, [*_line.words, _line.word.removeprefix(_line.head)]))
        os.environ["COMP_CWORD"] = str(len(_line.words))
    elif "COMP_WORDS" in os.environ:  # from typer's own script
        words, at = os.environ["COMP_WORDS"].split(), int(os.environ.get("COMP_CWORD", 0))
        _line = TypedLine(tuple(words[:at]), "".join(words[at : at + 1]))
    return [*_line.words[1:], _line.word]


def _read(text: str, is_bash: bool) -> TypedLine:
    """Split a command line, which may end inside quotes, into words."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words, is_open = [], False
    try:
        for word in lexer:
            words.append(word)
    except ValueError:  # the quotes are not closed
        words.append(lexer.token or "")
        is_open = True
    word = words.pop() if words and (is_open or not text[-1].isspace()) else ""
    is_cut = is_bash and "=" in os.environ.get("COMP_WORDBREAKS", "=") and not word.startswith("-")
    has_quotes = is_open or re.search(r"[\"']\S*\Z", text) is not None
    return TypedLine(tuple(words), word, word[: word.rfind("=") + 1] if is_cut and not has_quotes else "")


def _given(context: typer.Context) -> tuple[list[str], dict[str, list[str]]]:
    """The command's arguments before the cursor, and the values of its options."""
    takes = {name for option in context.command.params for name in option.opts if not getattr(option, "is_flag", True)}
    arguments: list[str] = []
    options: dict[str, list[str]] = {}
    words = iter(_line.words[len(context.command_path.split()) :])
    for word in words:
        name, has_value, value = word.partition("=")
        if name in takes:
            options.setdefault(name, []).append(value if has_value else next(words, ""))
        elif not word.startswith("--"):
            arguments.append(word)
    return arguments, options


# --- offers -----------------------------------------------------------------------------------------------------------


def offering(offers: Callable[[typer.Context], Iterable[Offer]]) -> Callable[[typer.Context, str], list[Offer]]:
    """Make typer's completion function of a function that yields all offers for a parameter.

    Offers that do not begin with the typed word, or are not safe in every shell, are left out. After an error nothing
    is offered.
    """

    def offered(ctx: typer.Context, incomplete: str) -> list[Offer]:
        matching: list[Offer] = []
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):  # packs may print
            for offer in offers(ctx):
                text, help = offer if isinstance(offer, tuple) else (offer, "")
                if text.startswith(_line.word) and _is_safe(text):
                    rest = text.removeprefix(_line.head)
                    matching.append((rest, plain(help)) if plain(help) else rest)
        return matching

    return offered


def _is_safe(text: str) -> bool:
    """Whether no shell changes the meaning of a text: it is a name, a path, or one of these after `name=`."""
    name, is_value, value = text.rpartition("=")
    return bool(_PATH.fullmatch(value) and (_NAME.fullmatch(name) or not is_value))


def plain(text: str) -> str:
    """Reduce a help text to one line of characters without meaning for shells."""
    return " ".join(_NOT_PLAIN.sub(" ", text)[: 2 * MOST_HELP].split())[:MOST_HELP].strip()


@offering
def workflows(context: typer.Context) -> Iterator[Offer]:
    """Offer the shipped workflows, and workflow files."""
    from graphengine.declare.shipped import SUFFIXES, shipped_unloaded

    yield from shipped_unloaded(map(Path, _given(context)[1].get("--packs", ())))
    yield from _files(_line.word, SUFFIXES)


@offering
def nodes(context: typer.Context) -> Iterator[Offer]:
    """Offer the nodes, by their bare names if only one pack has it, else by their full names."""
    from graphengine.declare import registry

    for folder in _given(context)[1].get("--packs", ()):
        registry.load_folder(folder)
    for full, definition in sorted(registry.nodes().items()):
        name = full if "." in _line.word or registry.find(definition.name) is None else definition.name
        yield name, definition.doc.partition("\n")[0]


@offering
def inputs(context: typer.Context) -> Iterator[Offer]:
    """Offer the inputs of the workflow on the command line as `name=`, and after that the values of the input."""
    arguments, options = _given(context)
    declared = _inputs_of(arguments[0], options.get("--packs", ()))
    name, is_given, value = _line.word.partition("=")
    if is_given:
        yield from (f"{name}={offer}" for offer in _values(declared[name], value))
        return
    taken = {pair.partition("=")[0] for option in ("--set", "--over") for pair in options.get(option, ())}
    for name, entry in declared.items():
        if name not in taken:
            yield f"{name}=", str(entry.get("help") or "")


def _inputs_of(workflow: str, packs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Read the declarations of a workflow's inputs, without importing any pack."""
    from graphengine.declare.shipped import shipped_unloaded
    from graphengine.system.opening import read_file
    from graphengine.workflow.yaml12 import MAX_SIZE, load

    file = Path(workflow).expanduser()
    if not file.is_file():
        file = shipped_unloaded(map(Path, packs))[workflow]
    if file.stat().st_size > MAX_SIZE:
        return {}
    data, _ = load(read_file(file).decode(), str(file))
    return {name: entry for name, entry in data["inputs"].items() if isinstance(entry, dict)}


def _values(declared: dict[str, Any], begun: str) -> Iterator[str]:
    """The values that an input accepts, if they can be listed."""
    type_name = str(declared.get("type"))
    if declared.get("choices"):
        yield from map(str, declared["choices"])
    elif type_name.split(" ")[0] == "bool":
        yield from ("true", "false")
    elif type_name.split(" ")[0] == "path":
        yield from _files(begun, ("",))


def _files(begun: str, endings: tuple[str, ...]) -> Iterator[str]:
    """The files whose paths begin with a text and end with one of the endings, and the folders, with a `/`.

    No folders are offered in zsh, which would add a space after them; without offers it completes paths itself.
    """
    folder = begun[: begun.rfind("/") + 1]
    with_folders = not os.environ[VARIABLE].endswith("zsh")
    with os.scandir(Path(folder or ".").expanduser()) as entries:
        listed = sorted(islice(entries, MOST_FILES), key=lambda entry: entry.name)
    for entry in listed:
        if entry.name.startswith(".") and not begun[len(folder) :].startswith("."):
            continue
        if entry.is_dir():
            yield from [f"{folder}{entry.name}/"] if with_folders else []
        elif entry.name.endswith(endings):
            yield f"{folder}{entry.name}"


# --- changes of typer -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Discard standard error inside a `with` block, and end the process silently after an error."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        try:
            yield
        except Exception:
            raise SystemExit(1) from None


def prepare() -> None:
    """Give typer the changed script for bash, and stop it from rendering help texts, for which it would import rich."""
    import typer._completion_classes as classes
    import typer._completion_shared as shared

    shared._completion_scripts["bash"] = BASH
    classes._sanitize_help_text = plain


def install(run: Callable[[], None], arguments: list[str]) -> None:
    """Run `--install-completion` or `--show-completion`, which may be followed by a shell's name.

    Args:
        run: Runs typer's command.
        arguments: The command line after the program's name.

    Raises:
        WorkflowError: The shell is unknown.
        FileError: The shell's files cannot be written.
    """
    from graphengine.errors import FileError, Problem, WorkflowError

    if arguments[1:2]:  # with this variable, typer accepts a shell's name
        os.environ["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    advice = f"write graphengine {arguments[0]} bash, or zsh, fish, powershell"
    if arguments[1:] and (len(arguments) > 2 or arguments[1] not in SHELLS):
        what = " ".join(arguments[1:])
        raise WorkflowError(Problem("usage", f"there is no completion for {what!r:.40}", hint=advice))
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            run()
    except SystemExit as ended:
        if ended.code:
            raise WorkflowError(Problem("usage", "it is not known which shell this is", hint=advice)) from None
        print(said.getvalue().replace("Shells.", ""), end="")  # typer's names of shells
    except (OSError, RuntimeError) as error:
        what = getattr(error, "filename", None) or "the shell's files in this user's home folder"
        raise FileError(f"{what} cannot be written: {getattr(error, 'strerror', None) or error}") from None


if not TYPE_CHECKING:
    __getattr__ = moved(__name__)  # names that were renamed
