"""Start-up time of commands as whole processes: `python -m benchmarks.startup`.

Whole processes, medians of alternating runs. `graphengine run text_to_image` stands against a script of five lines
that makes and saves the same picture with diffusers. `graphengine serve` is measured to its first answer of `/health`.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from benchmarks.table import alternate, environment, machine, ratio, show

SCRIPT = """
import torch
from diffusers import StableDiffusionPipeline
pipeline = StableDiffusionPipeline.from_pretrained({folder!r})
generator = torch.Generator().manual_seed(0)
pipeline({prompt!r}, generator=generator, num_inference_steps=20, guidance_scale=3.5).images[0].save({out!r})
"""


def seconds(command: Sequence[str], env: dict[str, str]) -> float:
    """The wall time of a process that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=env)
    return time.perf_counter() - start


def until_health(command: Sequence[str], env: dict[str, str]) -> float:
    """Seconds from the start of a server to its first answer."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    start = time.perf_counter()
    with subprocess.Popen([*command, "--port", str(port)], env=env, stdout=subprocess.DEVNULL) as server:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.005)
        passed = time.perf_counter() - start
        server.terminate()
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    work = Path(tempfile.mkdtemp(prefix="graphengine-benchmark-"))
    env = environment(GRAPHENGINE_CACHE=str(work / "cache"), HF_HUB_OFFLINE="1")
    python, command = sys.executable, str(Path(sys.executable).with_name("graphengine"))
    folder = str(files("graphengine_nodes") / "tiny" / "model")
    workflow = str(work / "text_to_image.yaml")
    from graphengine.workflow.files import shipped

    Path(workflow).write_bytes(shipped()["text_to_image"].read_bytes())
    prompt = "a red circle on a blue background"
    script = SCRIPT.format(folder=folder, prompt=prompt, out=str(work / "theirs.png"))
    run = [command, "run", "text_to_image", "--no-cache", "--set", f"prompt={prompt}", "--out", str(work)]
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "import graphengine": [python, "-c", "import graphengine"],
        "graphengine validate": [command, "validate", workflow],
    }
    for each in (*commands.values(), run):
        seconds(each, env)  # byte code is compiled, files are in the system's memory
    found = alternate(runs, *(lambda c=c: seconds(c, env) for c in commands.values()))  # type: ignore[misc]
    print(machine(), f"{runs} runs")
    show("Start", ("", "seconds"), [(n, statistics.median(t)) for n, t in zip(commands, found, strict=True)])
    serves = {
        "graphengine serve to /health": [command, "serve"], "the same --editor": [command, "serve", "--editor"],
    }  # fmt: skip
    own = env | {"GRAPHENGINE_STATE": str(work / "state")}
    found = alternate(runs, *(lambda c=c: until_health(c, own) for c in serves.values()))
    show("Servers", ("", "seconds"), [(n, statistics.median(t)) for n, t in zip(serves, found, strict=True)])
    theirs, ours = alternate(
        runs, lambda: seconds([python, "-c", script], env), lambda: seconds(run, env)
    )
    show(
        "A picture from a fresh process",
        ("", "seconds", "ratio"),
        [("five lines of diffusers", statistics.median(theirs), 1.0),
         ("graphengine run text_to_image", statistics.median(ours), ratio(ours, theirs))],
    )


if __name__ == "__main__":
    main()
