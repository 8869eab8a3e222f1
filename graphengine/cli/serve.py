"""`graphengine serve`: the service over HTTP. Imports no torch."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphengine.cli.common import (
    CANCELLED,
    Debug,
    Packs,
    QueueFile,
    Warm,
    device_option,
    guarded,
    load_packs,
    say,
    warn,
)
from graphengine.cli.process import resume_garbage_search
from graphengine.errors import FileError, WorkflowError
from graphengine.system.threads import start

if TYPE_CHECKING:
    from graphengine.server.tokens import Tokens
    from graphengine.service.service import Service

FINISH_SECONDS, END_SECONDS = 5.0, 9.5
"""Seconds after a SIGTERM that running jobs have to end, and after which this process ends, whatever it does."""

commands = typer.Typer(help="The service over HTTP: workflows as endpoints, jobs, events and files.")
token_commands = typer.Typer(no_args_is_help=True, help="The tokens of the users of a server.")
commands.add_typer(token_commands, name="token")

TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help="Where the tokens are kept, as hashes.")
]


@commands.callback(invoke_without_command=True)
def command(
    context: typer.Context,
    host: Annotated[
        str, typer.Option("--host", help="Where to listen; beyond this machine only with tokens.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8188,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, max=64, help="How many workers; default: one for each device.")
    ] = None,
    device: Annotated[
        list[str] | None, device_option("Where the workers compute: cpu, cuda:0, ...; may be repeated.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of each worker.")] = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", min=1, help="Seconds without a sign after which a node on a worker is ended."),
    ] = None,
    backend: Annotated[
        str,
        typer.Option("--backend", help="local: worker processes. inline: this process. ray: actors of a Ray cluster."),
    ] = "local",
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="The Ray cluster, for --backend ray.")
    ] = None,
    input: Annotated[
        Path | None, typer.Option("--input", metavar="FOLDER", help="Files that jobs may name by a relative path.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Where the files of jobs are written.")
    ] = None,
    workflows: Annotated[
        Path | None, typer.Option("--workflows", metavar="FOLDER", help="Workflow files that are run by their names.")
    ] = None,
    models: Annotated[
        Path | None, typer.Option("--models", metavar="FOLDER", help="Models that jobs may name by a relative path.")
    ] = None,
    token_file: TokenFile = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="A name by which browsers call it; may be repeated."),
    ] = None,
    allow_fetch: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-fetch", metavar="HOST",
            help="A host from which jobs may fetch files by URL, or * for all public ones; may be repeated.",
        ),
    ] = None,
    allow_hub: Annotated[bool, typer.Option("--allow-hub", help="Let jobs download models from the hub.")] = False,
    upload_limit: Annotated[
        int, typer.Option("--upload-limit", metavar="MIB", min=1, help="How much each user's uploads may hold.")
    ] = 20_480,
    warm: Warm = None,
    editor: Annotated[bool, typer.Option("--editor", help="Serve the graph editor too, under /editor/.")] = False,
    queue: QueueFile = None,
    packs: Packs = None,
    debug: Debug = False,
) -> None:
    """Run the jobs of this user's queue, and serve them over HTTP until SIGTERM or Ctrl-C.

    Then streams are ended, running jobs have some seconds to finish, and what is left is put back into the queue.
    """
    if context.invoked_subcommand is None:
        _serve(
            host=host, port=port, workers=workers, device=device, threads=threads, timeout=timeout, backend=backend,
            address=address, input=input, output=output, workflows=workflows, models=models, token_file=token_file,
            allow_host=allow_host, allow_fetch=allow_fetch, allow_hub=allow_hub,
            upload_limit=upload_limit, warm=warm, editor=editor, queue=queue, packs=packs, debug=debug,
        )  # fmt: skip


@guarded
def _serve(
    *, host: str, port: int, workers: int | None, device: list[str] | None, threads: int | None,
    timeout: float | None, backend: str, address: str | None, input: Path | None, output: Path | None,
    workflows: Path | None, models: Path | None, token_file: Path | None, allow_host: list[str] | None,
    allow_fetch: list[str] | None, allow_hub: bool, upload_limit: int, warm: list[str] | None, editor: bool,
    queue: Path | None, packs: list[Path] | None, debug: bool,
) -> int | None:  # fmt: skip
    from graphengine.server.editor import frontend_folder
    from graphengine.server.fetching import Fetcher
    from graphengine.server.file_store import FileStore
    from graphengine.server.given import Folders
    from graphengine.server.http import Door, is_loopback
    from graphengine.server.job_api import JobApi
    from graphengine.server.serving import application, listen, serve
    from graphengine.server.user_files import UserFiles
    from graphengine.service.metrics import Metrics
    from graphengine.service.warming import Warming
    from graphengine.system.folders import queue_file, state_folder

    frontend = frontend_folder() if editor else None
    tokens = _tokens(token_file)
    here = is_loopback(host)
    if not here and not tokens.all():
        raise WorkflowError(
            f"{host} is reached from other machines, and there are no tokens: `graphengine serve token add NAME` makes "
            "one, or leave --host at 127.0.0.1"
        )
    if not allow_hub:
        os.environ["HF_HUB_OFFLINE"] = "1"  # of the workers too, which have this process's environment
    if models is not None:
        os.environ["GRAPHENGINE_MODELS"] = str(models.absolute())  # in which packs find models by name
    load_packs(packs)
    own = state_folder() / "server"
    folders = Folders(
        _folder(input or own / "input", make=input is None),
        _folder(output or own / "output", make=True),
        None if models is None else _folder(models),
        None if workflows is None else _folder(workflows),
    )
    listening = listen(host, port)
    made: list[Metrics] = []
    options: dict[str, Any] = {
        "packs": [str(folder) for folder in packs or ()], "prepare": lambda service: made.append(Metrics(service)),
    }  # fmt: skip
    file = queue or queue_file()
    with listening, _service(backend, file, workers, device, threads, timeout, address, options) as service:
        files = FileStore(own / "files", most_of_user=upload_limit << 20)
        api = JobApi(service, folders, files, Fetcher(allow_fetch or (), files))
        if warm:
            places = [folder for folder in (folders.models, folders.input) if folder is not None]
            api.warming = Warming(service.backend, warm, api.catalog.named, places, say, warn)
        door = Door(tokens, [name.lower() for name in allow_host or ()], open=here)
        shown, real = f"[{host}]" if ":" in host else host, listening.getsockname()[1]
        who = "with a token" if tokens.all() else "without a token, from this machine"

        def started() -> None:
            say(f"http://{shown}:{real} serves the jobs of {file}, {who}; Ctrl-C ends it")
            if frontend is not None:
                say(f"http://{shown}:{real}/editor/ is the editor")
            if api.warming is not None:
                api.warming.start()

        def stopped() -> None:
            service.drain(put_back=True)
            start(functools.partial(_end, service), "graphengine-end")
            if api.warming is not None:
                api.warming.close()
            with contextlib.suppress(OSError):  # whoever read the output may have gone
                say("stopping; what does not finish now is put back")

        users = UserFiles(own / "users", folders.workflows or _folder(own / "workflows", make=True))
        app = application(api, door, made[0], None if frontend is None else (frontend, users))
        resume_garbage_search(skip_existing=True)  # jobs leave cycles, and this process lasts
        serve(app, listening, started, stopped)
    return None


def _end(service: Service) -> None:
    """Put running jobs back that do not finish soon, and end this process in time, whatever it does."""
    end = time.monotonic() + END_SECONDS
    pause = threading.Event()
    while service.busy and time.monotonic() < end - END_SECONDS + FINISH_SECONDS:
        pause.wait(0.05)
    service.let_go()
    pause.wait(end - time.monotonic())
    with contextlib.suppress(OSError):
        print("ending, though nodes still run in this process", file=sys.stderr, flush=True)
    os._exit(CANCELLED)


@contextlib.contextmanager
def _service(
    backend: str, file: Path, workers: int | None, device: list[str] | None, threads: int | None,
    timeout: float | None, address: str | None, options: dict[str, Any],
) -> Iterator[Service]:  # fmt: skip
    """The service with the wanted backend; refuses options that do not fit together."""
    from graphengine.service.start import local_service, serving

    if backend not in ("local", "inline", "ray"):
        raise WorkflowError(f"--backend is local, inline or ray, not {backend!r:.40}")
    if (backend == "ray") != (address is not None):
        raise WorkflowError("--backend ray and --address go together: HOST:PORT of the head of the cluster, or local")
    if backend != "local" and device:
        raise WorkflowError("--device is for --backend local")
    if backend == "inline" and timeout is not None:
        raise WorkflowError("--timeout is for workers: those of --backend local or ray")
    common = {"workers": workers, "timeout": timeout, "on_warning": warn, **options}
    if backend == "local":
        with local_service(file, devices=device, threads=threads, **common) as found:
            yield found
    elif backend == "ray":
        from graphengine.service.start_ray import ray_service

        assert address is not None
        with ray_service(file, address, threads=threads or 1, **common) as found:
            yield found
    else:
        from graphengine.cache import DiskStore
        from graphengine.service.workers.inline import InlineRunner
        from graphengine.system.folders import cache_folder

        del options["packs"]
        runner = InlineRunner() if threads is None else InlineRunner(threads)
        with serving(file, runner, DiskStore(cache_folder() / "store"), **options) as found:
            yield found


def _folder(folder: Path, make: bool = False) -> Path:
    """A folder by its real path.

    Raises:
        FileError: There is none, and it cannot be made.
    """
    from graphengine.system.folders import state_folder
    from graphengine.system.private import make_private

    try:
        if make and not folder.is_dir():
            make_private(folder, state_folder() if folder.is_relative_to(state_folder()) else None)
    except OSError as error:
        raise FileError(f"{folder} cannot be made: {error.strerror or error}") from None
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder")
    return folder.resolve()


def _tokens(file: Path | None) -> Tokens:
    from graphengine.server.tokens import Tokens, token_file

    return Tokens(file or token_file())


@token_commands.command("add")
@guarded
def add(
    name: Annotated[str, typer.Argument(help="The user; jobs and files of one user are hidden from others.")],
    admin: Annotated[bool, typer.Option("--admin", help="May see and change what belongs to others too.")] = False,
    read_only: Annotated[bool, typer.Option("--read-only", help="May change nothing.")] = False,
    workflow: Annotated[
        list[str] | None,
        typer.Option("--workflow", metavar="NAME", help="May run this workflow only; may be repeated."),
    ] = None,
    token_file: TokenFile = None,
    debug: Debug = False,
) -> None:
    """Make a token for a user and print it. It is shown this once: only its hash is kept."""
    print(_tokens(token_file).add(name, admin, read_only, workflow))


@token_commands.command("remove")
@guarded
def remove(
    name: Annotated[str, typer.Argument(help="The user whose token is taken away.")],
    token_file: TokenFile = None,
    debug: Debug = False,
) -> None:
    """Take the token of a user away; a server that runs heeds it at once."""
    _tokens(token_file).remove(name)


@token_commands.command("list")
@guarded
def list_(token_file: TokenFile = None, debug: Debug = False) -> None:
    """List the users who have tokens."""
    for token in _tokens(token_file).all():
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(token.created))
        rights = ["admin"] * token.admin + ["read-only"] * token.read_only
        rights += [] if token.workflows is None else [f"only {', '.join(token.workflows)}"]
        print("  ".join([token.name, *rights, f"since {made}"]))
