"""The promise that the command line runs, checks and writes files of ComfyUI as it does any workflow."""
