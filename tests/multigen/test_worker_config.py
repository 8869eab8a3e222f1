"""The configuration of a ServiceThread: errors name file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from multigen.service_config import ConfigError, model_path, read_config, read_models
from multigen.service_pipes import Catalogue, pipes_by_name
from multigen.worker import ServiceThread

MODELS = "base:\n  m:\n    id: tiny\n    type: SD\npipes:\n  p:\n    classname: Prompt2ImPipe\n"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("model_dir: .\n", "", "model_list must be"),
        ("model_list: m.yaml\nmodel_dir: 5\n", ":2", "model_dir must be"),
        ("model_list: m.yaml\nmodel_dir: .\nqueue_limit: five\n", ":3", "queue_limit is 'five'"),
        ("model_list: m.yaml\nmodel_dir: .\nworkers: 0\n", ":3", "workers is 0"),
        ("model_list: m.yaml\nmodel_dir: .\ndevices: cpu\n", ":3", "devices is 'cpu'"),
        ("model_list: m.yaml\nmodel_dir: .\ndevices: [cpu, foo]\n", ":3", "there is no device 'foo'"),
        ("model_list: m.yaml\nmodel_dir: .\nthreads: two\n", ":3", "threads is 'two'"),
        ("model_list: m.yaml\nmodel_dir: .\nlogging_folder: 5\n", ":3", "logging_folder must be"),
        ("model_list: none.yaml\nmodel_dir: .\n", ":1", "model_list names"),
        ("model_list: m.yaml\nmodel_dir: .\nworkers: 100000\n", ":3", "must be a number from 1 to 64"),
        ("model_list: [\n", ":2", ""),
        ("model_list: m.yaml\nmodel_list: n.yaml\n", ":2", "model_list"),
        ("- 1\n", "", "must hold keys"),
    ],
)
def test_a_broken_config(tmp_path: Path, text: str, line: str, what: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "m.yaml").write_text(MODELS)
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "config.yaml")
    assert f"{tmp_path / 'config.yaml'}{line}: " in str(caught.value) or not line
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("    type: SD\n", "", ":2", "type of base.m must be one of SD, SDXL, FLUX"),
        ("type: SD", "type: SD3", ":4", "type of base.m must be one of"),
        ("    id: tiny\n", "", ":2", "base.m needs an id"),
        ("Prompt2ImPipe", "NoPipe", ":7", "classname of pipes.p must be one of"),
        ("Prompt2ImPipe\n", "Prompt2ImPipe\n    need_imgs: maybe\n", ":8", "need_imgs of pipes.p is 'maybe', but"),
        ("Prompt2ImPipe\n", "Prompt2ImPipe\n    needs_cnet: [1]\n", ":8", "needs_cnet of pipes.p is [1], but must be"),
        (MODELS, "base: 0\n", ":1", "base must hold names"),
    ],
)
def test_a_broken_models_file(tmp_path: Path, old: str, new: str, line: str, what: str) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(MODELS.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        read_models(file, pipes_by_name())
    assert f"{file}{line}: " in str(caught.value)
    assert what in str(caught.value)


@pytest.mark.parametrize("word", ["yes", "Yes", "on", "True", "true", "no", "NO", "off", "False", "", "~"])
def test_truth_values_are_those_of_the_yaml_that_these_files_are_written_in(tmp_path: Path, word: str) -> None:
    (tmp_path / "models.yaml").write_text(f"{MODELS}    need_imgs: {word}\n")
    needs = read_models(tmp_path / "models.yaml", pipes_by_name())["pipes"]["p"]["need_imgs"]
    assert needs is bool(yaml.safe_load(word))


def test_numbers_may_be_left_open(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MODELS)
    (tmp_path / "config.yaml").write_text("model_list: m.yaml\nmodel_dir: .\nworkers:\nthreads:\nqueue_limit:\n")
    assert read_config(tmp_path / "config.yaml")["workers"] is None


def test_lora_and_what_is_not_needed_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(MODELS)
    assert read_models(tmp_path / "models.yaml", pipes_by_name())["lora"] == {}


def test_every_pipe_can_be_named(tmp_path: Path) -> None:
    names = list(pipes_by_name())
    assert {"Prompt2ImPipe", "Im2ImPipe", "MaskedIm2ImPipe", "Cond2ImPipe", "CIm2ImPipe", "CInpaintingPipe"} < {*names}
    pipes = "".join(f"  p{n}:\n    classname: {name}\n" for n, name in enumerate(names))
    (tmp_path / "models.yaml").write_text(f"base: {{}}\npipes:\n{pipes}")
    assert len(read_models(tmp_path / "models.yaml", pipes_by_name())["pipes"]) == len(names)


def test_where_a_model_lies(tmp_path: Path) -> None:
    (tmp_path / "models" / "sub").mkdir(parents=True)
    assert model_path(tmp_path, {"model_dir": "./models"}, "sub") == str(tmp_path / "models" / "sub")
    assert model_path(tmp_path, {"model_dir": "./models"}, "tiny") == "tiny"


def test_what_a_service_thread_is_given(tmp_path: Path) -> None:
    """What is wrong is told when it is made, in one sentence, whichever file it is in."""
    (tmp_path / "config.yaml").write_text("model_list: models.yaml\nmodel_dir: .\nlogging_folder: file/logs\n")
    (tmp_path / "file").write_text("")
    for file, what in (("none.yaml", "cannot be read: No such file"), ("config.yaml", "config.yaml:1: model_list")):
        with pytest.raises(ConfigError, match=what):
            ServiceThread(tmp_path / file)
    (tmp_path / "models.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"models.yaml must hold keys with values, such as `base: "):
        ServiceThread(tmp_path / "config.yaml")
    (tmp_path / "models.yaml").write_text(MODELS.replace("type: SD", "type: SD3"))
    with pytest.raises(ConfigError, match=r"models.yaml:4: type of base.m must be one of SD, SDXL, FLUX"):
        ServiceThread(tmp_path / "config.yaml")
    (tmp_path / "models.yaml").write_text(MODELS)
    with pytest.raises(ConfigError, match=r"config.yaml:3: logging_folder .*file/logs cannot be written"):
        ServiceThread(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("model_list: models.yaml\nmodel_dir: .\n")
    assert ServiceThread(tmp_path / "config.yaml").pipes["p"]["classname"] == "Prompt2ImPipe"


@pytest.mark.parametrize("user", ["a\0b", "a\udcff", "a\nb"])
def test_a_user_whose_name_is_no_text_has_no_folder(user: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"are names of folders; some of it is no text"):
        Catalogue(tmp_path, {}, {}).folder({"user": user})
