"""A server that has imported torch and diffusers, and forks itself for each command that a page gives.

To import them takes longer than all that the pages make. A command that is forked does what it does otherwise, in a
process of its own with the caller's folder, environment and streams.

    python forking.py SOCKET         serves until it is ended
    environment(server, folder)      has `graphengine`, `python` and `pytest` that ask the server
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds that a command, or the start of the server, may take."""
PRELOADED = (
    "torch", "diffusers", "graphengine_nodes", "graphengine.service", "multigen",
    "transformers.models.clip.modeling_clip", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
)  # fmt: skip
CLIENT = """\
#!{python} -SE
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
order = {{"command": [{name!r}, *sys.argv[1:]], "folder": os.getcwd(), "environment": dict(os.environ)}}
data = json.dumps(order).encode() + b"\\n"
sent = socket.send_fds(server, [data], [0, 1, 2])
server.sendall(data[sent:])
answer = server.makefile()
pid = int(answer.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
sys.exit(int(answer.readline()))
"""


def paths() -> dict[str, str]:
    """The environment of a process that uses these sources, with one thread and no network."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "nodes")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def environment(server: Path, folder: Path) -> dict[str, str]:
    """The environment of commands: programs that ask the server, with caches and a queue of their own in a folder."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("graphengine", "python", "pytest"):
        program = programs / name
        program.write_text(CLIENT.format(python=sys.executable, address=str(server), name=name))
        program.chmod(0o755)
    return {
        **paths(),
        "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
        "GRAPHENGINE_CACHE": str(folder / "cache"),
        "GRAPHENGINE_STATE": str(folder / "state"),
        "GRAPHENGINE_PROGRESS": "0",
    }


def order(address: Path, folder: Path, environment: dict[str, str], *command: str, streams: list[int]) -> Any:
    """Ask the server for a process; returns the answer's lines: its number, then its exit code."""
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(address))
    told = {"command": command, "folder": str(folder), "environment": environment}
    data = json.dumps(told).encode() + b"\n"
    sent = socket.send_fds(server, [data], streams)
    server.sendall(data[sent:])
    return server.makefile()


def serve(address: str) -> None:
    """Fork for each connection; two processes each, of which the first waits for the second."""
    import importlib

    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen(64)
    os.rename(address + ".new", address)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _answer(connection)
            os._exit(0)
        connection.close()


def _answer(connection: socket.socket) -> None:
    data, streams, _, _ = socket.recv_fds(connection, 1 << 20, 8)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    wanted = json.loads(data)
    pid = os.fork()
    if pid == 0:
        connection.close()
        os._exit(_become(wanted["command"], wanted["folder"], wanted["environment"], streams))
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(command: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> int:
    """Be the process that was asked for; returns its exit code."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate("rww"))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, folder)
    code: Any = 0
    try:
        match command:
            case ["graphengine", *arguments]:
                from graphengine.cli import main

                sys.argv = ["graphengine", *arguments]
                code = main(arguments)
            case ["session"]:
                code = _session()
            case ["pytest", *arguments]:
                sys.argv = ["pytest", *arguments]
                runpy.run_module("pytest", run_name="__main__", alter_sys=True)
            case ["python", "-m", module, *arguments]:
                sys.argv = [module, *arguments]
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ["python", "-c", text, *arguments]:
                sys.argv = ["-c", *arguments]
                exec(compile(text, "<string>", "exec"), _main())
            case ["python", file, *arguments]:
                sys.argv = [file, *arguments]
                main_module = _main()
                main_module["__file__"] = file
                exec(compile(Path(file).read_text("utf-8"), file, "exec"), main_module)
            case _:
                code = f"{command}: nothing that a page may run"
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


def _main() -> dict[str, Any]:
    """A new `__main__`."""
    sys.modules["__main__"] = ModuleType("__main__")
    return sys.modules["__main__"].__dict__


def _session() -> int:
    """Run the files that are named on standard input one after the other, with the same names; answer on stream 3."""
    names = _main()
    for line in sys.stdin:
        file, failed = line.strip(), 0
        try:
            exec(compile(Path(file).read_text("utf-8"), file, "exec"), names)
        except BaseException:
            traceback.print_exc()
            failed = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(3, f"{failed}\n".encode())
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
