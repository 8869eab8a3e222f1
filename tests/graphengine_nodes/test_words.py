"""Users of ComfyUI find the counterpart of a node that they know by its name."""

from __future__ import annotations

import graphengine_nodes as std
import pytest

from graphengine.cli.nodes import matching
from graphengine.declare import registry

FOUND = {
    "BasicScheduler": "sample",
    "CFGGuider": "sample",
    "CLIPLoader": "load_text_encoder",
    "CLIPSetLastLayer": "encode_prompt",
    "CLIPTextEncode": "encode_prompt",
    "CLIPVisionEncode": "encode_image_prompt",
    "CheckpointLoaderSimple": "load_model",
    "ControlNetApplyAdvanced": "apply_controlnet",
    "ControlNetLoader": "load_controlnet",
    "CreateVideo": "video_of",
    "CropMask": "crop_mask",
    "DiffusersLoader": "load_model",
    "DualCLIPLoader": "load_text_encoder",
    "EmptyFlux2LatentImage": "empty_latent",
    "EmptyLatentImage": "empty_latent",
    "EmptySD3LatentImage": "empty_latent",
    "FeatherMask": "feather_mask",
    "FluxGuidance": "sample",
    "FluxKontextImageScale": "fit_image",
    "GetImageSize": "image_size",
    "GetVideoComponents": "frames_of",
    "GrowMask": "grow_mask",
    "HypernetworkLoader": "load_hypernetwork",
    "IPAdapter": "apply_ip_adapter",
    "IPAdapterModelLoader": "load_ip_adapter",
    "ImageCompositeMasked": "composite",
    "ImageCrop": "crop_image",
    "ImageScale": "resize_image",
    "ImageScaleBy": "upscale_image",
    "ImageScaleToTotalPixels": "fit_image",
    "ImageToMask": "mask_from_image",
    "ImageUpscaleWithModel": "upscale_with_model",
    "InpaintModelConditioning": "inpaint",
    "InstructPixToPixConditioning": "follow_picture",
    "InvertMask": "invert_mask",
    "KSampler": "sample",
    "KSamplerAdvanced": "sample",
    "KSamplerSelect": "sample",
    "LatentUpscale": "upscale_latent",
    "LoadImage": "load_image",
    "LoadImageMask": "load_mask",
    "LoadVideo": "load_video",
    "LoraLoader": "apply_lora",
    "LoraLoaderModelOnly": "apply_lora",
    "MaskComposite": "combine_masks",
    "ModelComputeDtype": "change_precision",
    "ModelSamplingAuraFlow": "shift",
    "ModelSamplingFlux": "shift",
    "ModelSamplingSD3": "shift",
    "RandomNoise": "sample",
    "ReferenceLatent": "sample",
    "SamplerCustomAdvanced": "sample",
    "SaveImage": "save_image",
    "SaveVideo": "save_video",
    "SetLatentNoiseMask": "repaint",
    "SetUnionControlNetType": "apply_controlnet",
    "SolidMask": "mask_rectangle",
    "TextEncodeQwenImageEdit": "encode_prompt",
    "TextEncodeQwenImageEditPlus": "encode_prompt",
    "TorchCompileModel": "optimize_model",
    "UNETLoader": "load_denoiser",
    "UnetLoaderGGUF": "load_denoiser",
    "UpscaleModelLoader": "load_upscaler",
    "VAEDecode": "decode_latent",
    "VAEDecodeTiled": "tile_vae",
    "VAEEncode": "encode_image",
    "VAEEncodeForInpaint": "inpaint",
    "VAELoader": "load_vae",
}


@pytest.mark.parametrize(("theirs", "ours"), FOUND.items(), ids=FOUND)
def test_a_search_for_a_node_of_comfyui_finds_ours_first(theirs: str, ours: str) -> None:
    assert hasattr(std, ours)
    found = matching(theirs.lower() if ours == "sample" else theirs, registry.nodes().values())
    assert next(one for one in found if one.pack != "comfy").full_name == f"std.{ours}"
