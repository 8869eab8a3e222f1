"""Files of ComfyUI are run, checked and written by the command line as any workflow is."""
