"""The promise that ComfyUI's own templates run: on small random files under the names that they ask for."""
