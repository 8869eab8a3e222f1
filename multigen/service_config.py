"""Configuration files of a ServiceThread: `config.yaml` and `models.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from graphengine.errors import GraphEngineError
from graphengine.system.devices import check_device
from graphengine.system.opening import read_file
from graphengine.workflow.yaml12 import load

__all__ = ["ConfigError", "model_path", "read_config", "read_models", "wrong"]

FAMILIES = ("SD", "SDXL", "FLUX")
FLAGS = {True: ("true", "yes", "on", "y"), False: ("false", "no", "off", "n", "")}
"""The words for true and false in YAML 1.1, in which these files have always been written."""


class ConfigError(GraphEngineError, RuntimeError):
    """A configuration file is wrong: the message names file, line and key."""


def read_config(file: Path) -> dict[str, Any]:
    """Read `config.yaml`: `model_list` and `model_dir`; optionally `logging_folder`, `queue_limit`, and for workers
    `devices` (one worker for each by default), `workers` (their number) and `threads` (of each).

    Raises:
        ConfigError: It cannot be read, or lacks a key.
    """
    data, lines = _read(file, "model_dir: ./models-sd/")
    for name, what in (("model_list", "the models file"), ("model_dir", "the models' folder")):
        if not isinstance(data.get(name), str):
            _fail(file, lines, (name,), f"{name} must be the path of {what}")
    models = file.parent / Path(data["model_list"]).expanduser()
    if not models.exists():
        _fail(file, lines, ("model_list",), f"model_list names {models}, which is not there")
    for name, most in (("queue_limit", 10**9), ("workers", 64), ("threads", 1024)):
        value = data.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            _fail(file, lines, (name,), f"{name} is {value!r:.40}, but must be a number from 1 to {most}")
    devices = data.get("devices", ["cpu"])
    if not isinstance(devices, list) or not devices or not all(isinstance(one, str) for one in devices):
        _fail(file, lines, ("devices",), f"devices is {devices!r:.40}, but must be a list such as [cuda:0, cuda:1]")
    try:
        for device in devices:
            check_device(device)
    except GraphEngineError as error:
        _fail(file, lines, ("devices",), f"devices: {error}")
    if not isinstance(data.get("logging_folder", ""), str):
        _fail(file, lines, ("logging_folder",), "logging_folder must be the path of a folder")
    return dict(data)


def read_models(file: Path, pipes: Mapping[str, Any]) -> dict[str, Any]:
    """Read `models.yaml`: `base`, `lora` (which may be absent) and `pipes`.

    Args:
        pipes: The Pipe classes by name.

    Raises:
        ConfigError: It cannot be read; an entry lacks its `id`, its `type` or its `classname`, or has an unknown one.
    """
    data, lines = _read(file, "base: {name: {id: folder, type: SD}}")
    found: dict[str, Any] = {"base": {}, "lora": {}, "pipes": {}}
    for section in found:
        entries = {} if data.get(section) is None else data[section]
        if not isinstance(entries, dict):
            _fail(file, lines, (section,), f"{section} must hold names, each with what belongs to it")
        for name, entry in entries.items():
            place = (section, name)
            key, known = ("classname", list(pipes)) if section == "pipes" else ("type", list(FAMILIES))
            if not isinstance(entry, dict):
                _fail(file, lines, place, f"{section}.{name} must hold keys such as {key}")
            if section != "pipes" and not isinstance(entry.get("id"), str):
                _fail(file, lines, place, f"{section}.{name} needs an id: the path of its weights under model_dir")
            if entry.get(key) not in known and not (section == "lora" and key not in entry):
                _fail(file, lines, (*place, key), f"{key} of {section}.{name} must be one of {', '.join(known)}")
            found[section][name] = dict(entry)
            for key in ("need_imgs", "needs_cnet") if section == "pipes" else ():
                if (flag := _flag(entry.get(key, False))) is None:
                    what = f"{key} of {section}.{name} is {entry[key]!r:.40}, but must be True or False"
                    _fail(file, lines, (*place, key), what)
                found[section][name][key] = flag
    return {**data, **found}


def model_path(cwd: Path, config: Mapping[str, Any], id: str, folder: str = "") -> str:
    """The path of a model under `model_dir`; an id that is no path there is a model's name (`tiny`, a hub id)."""
    path = cwd / Path(config.get("model_dir") or "").expanduser() / folder / id
    return str(path) if path.exists() else id


def wrong(file: Path, key: str, what: str) -> ConfigError:
    """Make the error for a wrong key of a file that was noticed after the file was read."""
    try:
        _fail(file, _read(file, key)[1], (key,), what)
    except ConfigError as error:
        return error


def _flag(value: Any) -> bool | None:
    """Read a truth value in any of its spellings; None for any other text."""
    if value is None or isinstance(value, bool):
        return bool(value)
    return next((flag for flag, words in FLAGS.items() if isinstance(value, str) and value.lower() in words), None)


def _read(file: Path, example: str) -> tuple[dict[str, Any], Mapping[tuple[Any, ...], int]]:
    try:
        data, lines = load(read_file(file).decode(), str(file))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file} is no text in UTF-8") from None
    except GraphEngineError as error:
        raise ConfigError(str(error)) from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file} must hold keys with values, such as `{example}`")
    return data, lines


def _fail(file: Path, lines: Mapping[tuple[Any, ...], int], place: tuple[Any, ...], what: str) -> NoReturn:
    line = next((lines[place[:n]] for n in range(len(place), 0, -1) if place[:n] in lines), None)
    raise ConfigError(f"{file}{f':{line}' if line else ''}: {what}")
