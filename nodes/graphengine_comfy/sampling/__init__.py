"""What ComfyUI's sampling names mean: sigma tables, noise, samplers, weights in prompts; no nodes and no models."""
