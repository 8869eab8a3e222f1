"""The promise that programs which others wrote for ComfyUI's servers run against ours unmodified.

Each has an environment of its own, made from a package registry: these tests are slow. What a client said and heard
there is kept in a file, and said again to a server in the default suite. `GRAPHENGINE_RECORD=1` writes the file anew.
"""
