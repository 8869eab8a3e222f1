"""ComfyUI's contracts: its classic HTTP API and WebSocket, and the Comfy API v2."""
