"""Values of the standard pack: pictures, latents, conditioning, and references to models."""
