"""Data sets: found, downloaded or generated, split by hashing, augmented in batches.

Imports machine, the registry and methods. Read `dataset.py` first, `sources.py` for where data come from,
`transform.py` to add a transform.
"""
