"""ComfyUI's sampling names mean here what ComfyUI's own numbers say they mean."""
