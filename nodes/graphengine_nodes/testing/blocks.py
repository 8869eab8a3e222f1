"""GGUF files made on the spot, for tests: weights in blocks, and the same weights as they are then."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["gguf_file"]


def gguf_file(
    file: Path, tensors: Mapping[str, torch.Tensor], architecture: str = "flux", kind: str = "Q8_0"
) -> dict[str, torch.Tensor]:
    """Write tensors to a GGUF file: matrices of whole blocks in blocks, convolutions in half precision, others whole.

    Returns:
        The tensors, rounded as they are in the file.
    """
    import gguf
    import torch

    writer: Any = gguf.GGUFWriter(str(file), architecture)
    blocks = gguf.GGMLQuantizationType[kind]
    rounded = {}
    for name, tensor in tensors.items():
        numbers = tensor.float().numpy()
        if tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[blocks][0] == 0:
            data = gguf.quantize(numbers, blocks)
            writer.add_tensor(name, data, raw_dtype=blocks)
            rounded[name] = torch.from_numpy(gguf.dequantize(data, blocks).reshape(numbers.shape))
            continue
        numbers = tensor.half().numpy() if tensor.ndim == 4 else numbers
        writer.add_tensor(name, numbers)
        rounded[name] = torch.from_numpy(numbers).float()
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded
