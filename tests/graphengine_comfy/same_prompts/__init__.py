"""The promise that workflows of ComfyUI's editor become the prompts that the editor itself makes of them."""
