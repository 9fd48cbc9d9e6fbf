"""Further measurements of a network: one file each, found by scanning.

Imports attacks, data, machine and methods. Read `rejection.py` first.
"""
