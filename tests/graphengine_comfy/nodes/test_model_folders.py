"""Files of models are found by ComfyUI's folder names, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import graphengine_comfy as comfy
import pytest
from graphengine_comfy.nodes.model_folders import choices, find

import graphengine as g
from graphengine import ModelError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "models"
    for name in ("loras/style/a.safetensors", "loras/b.safetensors", "loras/note.txt", "unet/c.gguf", "secret/x.pt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    monkeypatch.setenv("GRAPHENGINE_MODELS", str(root))
    return root


def test_choices_are_files_of_weights_by_their_paths(root: Path) -> None:
    assert choices("loras") == ["tiny-blueprint", "b.safetensors", "style/a.safetensors"]
    assert choices("diffusion_models") == ["c.gguf"]
    assert choices("checkpoints") == ["tiny"]
    assert choices("vae") == []
    assert Path(find("loras", "style/a.safetensors")) == root / "loras" / "style" / "a.safetensors"
    assert find("checkpoints", "tiny") == "tiny"


def test_nothing_outside_is_found(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.safetensors").touch()
    (root / "loras" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert "link.safetensors" not in choices("loras")
    for name in ("../secret/x.pt", str(tmp_path / "outside.safetensors"), "link.safetensors"):
        with pytest.raises(ModelError, match="there is no"):
            find("loras", name)


def test_extra_model_paths_name_further_folders(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "lora"
    other.mkdir(parents=True)
    (other / "d.safetensors").touch()
    (root / "extra_model_paths.yaml").write_text(f"a111:\n  base_path: {tmp_path}/other\n  loras: |\n    lora\n")
    assert "d.safetensors" in choices("loras")
    (root / "extra_model_paths.yaml").write_text("a: [")
    with pytest.raises(ModelError, match="extra_model_paths"):
        choices("loras")


def test_a_graph_tells_unknown_names_before_it_runs(root: Path) -> None:
    with g.Graph():
        model = comfy.CheckpointLoaderSimple(ckpt_name="tiny").MODEL
        with pytest.raises(g.WorkflowError, match=r"did you mean b\.safetensors"):
            comfy.LoraLoaderModelOnly(model=model, lora_name="bb.safetensors")
