"""What a run leaves behind: one JSON record and one npz with its per-point arrays.

Imports machine and methods; neither torch nor anything that evaluates. Read `record.py` first.
"""
