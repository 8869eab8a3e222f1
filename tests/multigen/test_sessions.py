"""GenSession: names, configurations, returned pictures, several sessions in one folder, with a caller's own pipe."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from graphengine import FileError
from multigen import Cfgen, GenSession


class Painter:
    """What GenSession needs of a pipe: each picture is one colour, drawn from its generator."""

    def __init__(self, **config: Any) -> None:
        self.config = {"model_id": "painter", "width": 8} | config
        self.calls: list[dict[str, Any]] = []

    def gen(self, inputs: dict[str, Any]) -> list[PIL.Image.Image]:
        self.calls.append(inputs)
        generators = inputs["generator"] if isinstance(inputs["generator"], list) else [inputs["generator"]]
        colors = [tuple(torch.randint(256, (3,), generator=g).tolist()) for g in generators]
        each = inputs.get("num_images_per_prompt", 1)
        return [PIL.Image.new("RGB", (8, 8), color) for color in colors for _ in range(each)]

    def get_config(self) -> dict[str, Any]:
        return self.config


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_pictures_and_configurations(tmp_path: Path) -> None:
    session = GenSession(tmp_path / "new" / "folder", Painter(), Cfgen(["a house", ["red", "blue"]], "blur"))
    assert session.gen_sess(add_count=3) is None
    folder = tmp_path / "new" / "folder"
    assert names(folder) == ["00000.png", "00000.txt", "00001.png", "00001.txt", "00002.png", "00002.txt"]
    conf = json.loads((folder / "00002.txt").read_text())
    assert conf["model_id"] == "painter"
    assert conf["width"] == 8
    assert conf["prompt"] in ("a house, red", "a house, blue")
    assert conf["negative_prompt"] == "blur"
    assert conf["feedback"] == "?"
    assert conf["cversion"] == "0.0.1"
    generator = torch.Generator().manual_seed(conf["generator"])
    expected = torch.randint(256, (3,), generator=generator).tolist()
    assert np.asarray(PIL.Image.open(folder / "00002.png"))[0, 0].tolist() == expected
    assert (session.last_index, session.last_conf) == (2, conf)
    assert session.last_img_name == str(folder / "00002.png")


def test_it_appends(tmp_path: Path) -> None:
    session = GenSession(tmp_path, Painter(), Cfgen("a house", seeds=range(2)))
    session.gen_sess()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    session.gen_sess()
    assert len(names(tmp_path)) == 4
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=range(5, 8))).gen_sess()
    assert len(names(tmp_path)) == 10
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())
    (tmp_path / "00006.txt").write_text("a note")
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[1])).gen_sess()
    assert (tmp_path / "00007.png").exists()
    assert (tmp_path / "00006.txt").read_text() == "a note"


def test_add_count_adds(tmp_path: Path) -> None:
    session = GenSession(tmp_path, Painter(), Cfgen("a house", max_count=1))
    session.gen_sess(add_count=2)
    session.gen_sess(add_count=1)
    assert len(names(tmp_path)) == 8


def test_prefixes_count_by_themselves(tmp_path: Path) -> None:
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=range(2))).gen_sess()
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=range(2)), name_prefix="boat").gen_sess(drop_cfg=True)
    assert names(tmp_path) == ["00000.png", "00000.txt", "00001.png", "00001.txt", "boat00000.png", "boat00001.png"]


def test_what_is_returned(tmp_path: Path) -> None:
    def session() -> GenSession:
        return GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[3]))

    assert session().gen_sess() is None
    collected = session().gen_sess(force_collect=True)
    unsaved = session().gen_sess(save_img=False)
    assert collected is not None
    assert unsaved is not None
    assert collected[0].tobytes() == unsaved[0].tobytes()
    assert len(names(tmp_path)) == 4


def test_nothing_is_made_on_disk_unless_saved(tmp_path: Path) -> None:
    session = GenSession(tmp_path / "none", Painter(), Cfgen("a house", seeds=[3, 4]))
    session.gen_sess(save_img=False)
    assert not (tmp_path / "none").exists()
    assert (session.last_index, session.last_img_name) == (1, None)


def test_the_callback_comes_after_each_picture(tmp_path: Path) -> None:
    session = GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[10, 20]))
    seen: list[Any] = []

    def callback() -> None:
        assert session.last_img_name is not None
        assert session.last_conf is not None
        assert PIL.Image.open(session.last_img_name).size == (8, 8)
        seen.append((Path(session.last_img_name).name, session.last_index, session.last_conf["generator"]))

    session.gen_sess(callback=callback)
    assert seen == [("00000.png", 0, 10), ("00001.png", 1, 20)]


def test_metadata_in_exif(tmp_path: Path) -> None:
    GenSession(tmp_path, Painter(), Cfgen("a höuse", seeds=[1])).gen_sess(save_metadata=True)
    comment = PIL.Image.open(tmp_path / "00000.png").getexif().get_ifd(0x8769)[0x9286]
    assert comment.startswith(b"UNICODE\0")
    assert json.loads(comment[8:].decode("utf-16-be")) == json.loads((tmp_path / "00000.txt").read_text("utf-8"))
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[1])).gen_sess()
    assert not PIL.Image.open(tmp_path / "00001.png").getexif()


def test_one_picture_at_a_time_unless_asked(tmp_path: Path) -> None:
    alone, together = Painter(), Painter()
    GenSession(tmp_path / "1", alone, Cfgen(["a", ["b", "c"]], "d", seeds=range(5), width=8)).gen_sess()
    GenSession(tmp_path / "2", together, Cfgen(["a", ["b", "c"]], "d", seeds=range(5), width=8)).gen_sess(batch_size=3)
    assert len(alone.calls) == 5
    assert [len(call["prompt"]) for call in together.calls] == [3, 2]
    assert together.calls[0]["negative_prompt"] == ["d"] * 3
    assert together.calls[0]["width"] == 8
    for name in names(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_eight_at_once_where_weights_are_offloaded(tmp_path: Path) -> None:
    pipe: Any = Painter()
    pipe.offload_gpu_id = 0
    GenSession(tmp_path, pipe, Cfgen("a house", seeds=range(10))).gen_sess()
    assert [len(call["prompt"]) for call in pipe.calls] == [8, 2]


def test_several_pictures_for_a_prompt_have_its_configuration(tmp_path: Path) -> None:
    GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[1, 2], num_images_per_prompt=2)).gen_sess(batch_size=2)
    seeds = [json.loads((tmp_path / f"0000{i}.txt").read_text())["generator"] for i in range(4)]
    assert seeds == [1, 1, 2, 2]


def test_inputs_of_ones_own_without_a_seed_get_one(tmp_path: Path) -> None:
    GenSession(tmp_path, Painter(), [{"prompt": "a"}, {"prompt": "b", "generator": None}]).gen_sess()
    seeds = {json.loads((tmp_path / f"0000{i}.txt").read_text())["generator"] for i in range(2)}
    assert len(seeds) == 2


def test_what_is_no_json_is_described(tmp_path: Path) -> None:
    config = {
        "image": PIL.Image.new("RGB", (4, 3)),
        "mask": np.zeros((4, 3), np.uint8),
        "latents": torch.zeros(1, 4, 8, 8, dtype=torch.float16),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "generator_": torch.Generator().manual_seed(3),
        "path": Path("a/b.png"),
        "scale": np.float32(0.5),
        "nan": float("nan"),
        (1, 2): {3},
        "callback": test_metadata_in_exif,
        "object": object(),
        "odd": "\ud800",
    }
    GenSession(tmp_path, Painter(extra=config), Cfgen("a house", seeds=[1])).gen_sess(save_metadata=True)
    found = json.loads((tmp_path / "00000.txt").read_text("utf-8"), parse_constant=pytest.fail)["extra"]
    assert found == {
        "image": "picture 4 x 3 RGB",
        "mask": "ndarray 4 x 3 uint8",
        "latents": "Tensor 1 x 4 x 8 x 8 float16",
        "dtype": "torch.bfloat16",
        "device": "cpu",
        "generator_": 3,
        "path": "a/b.png",
        "scale": 0.5,
        "nan": "nan",
        "(1, 2)": [3],
        "callback": "test_metadata_in_exif",
        "object": "object",
        "odd": "?",
    }


def test_sessions_in_one_folder_at_once(tmp_path: Path) -> None:
    start = threading.Barrier(6)

    def run(number: int) -> None:
        session = GenSession(tmp_path, Painter(), Cfgen("a house", seeds=range(10 * number, 10 * number + 10)))
        start.wait()
        session.gen_sess(drop_cfg=number == 5)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pictures = sorted(tmp_path.glob("*.png"))
    assert len(pictures) == 60
    assert not list(tmp_path.glob(".*"))
    seeds = []
    for picture in pictures:
        if picture.with_suffix(".txt").exists():
            seed = json.loads(picture.with_suffix(".txt").read_text())["generator"]
            expected = torch.randint(256, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
            assert np.asarray(PIL.Image.open(picture))[0, 0].tolist() == expected
            seeds.append(seed)
    assert sorted(seeds) == list(range(50))


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    session = GenSession(tmp_path, Painter(), Cfgen("a house", seeds=[1, 2]))

    def somebody_else() -> None:
        (tmp_path / "00001.png").write_bytes(b"another's")

    session.gen_sess(callback=somebody_else)
    assert (tmp_path / "00001.png").read_bytes() == b"another's"
    assert names(tmp_path) == ["00000.png", "00000.txt", "00001.png", "00001_1.png", "00001_1.txt"]
    assert session.last_index == 1


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"the folder .*file cannot be used"):
        GenSession(tmp_path / "file", Painter(), Cfgen("a house", seeds=[1])).gen_sess()
