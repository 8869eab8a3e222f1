"""What was written before is read afterwards: files, pictures, queues, stores and keys that an earlier state of this
project made.

What lies in `made` was made once, by `python -m tests.written_before.make`, and is not made again when a test fails:
the test says that what users have on their disks is not understood any more. What is added later goes beside it.

The modules that load packs (`values`, `jobs`, `cases`) are imported by fixtures: other tests shall not find their nodes
because these were collected.

The texts of `golden/` and of `still.py` are in keys: they import by old paths, and stay as they are while these import.
"""
