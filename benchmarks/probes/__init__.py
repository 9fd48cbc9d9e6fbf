"""Further measurements of a network, with columns of their own: one file each, found by scanning.

Imports attacks, data, records.column, registry, machine and methods. Read `probe.py` first, then `clever.py`. Any file
may add a probe: see `probe.probe`.
"""
