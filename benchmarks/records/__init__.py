"""What a run leaves behind: one JSON record and one npz with its per-point arrays.

Imports statistics, machine and methods; nothing that evaluates, and no torch but in `provenance.py`. `record.py` says
what a record holds, `reader.py` reads many of them, `column.py` says how a number is shown. Read `record.py` first.
"""
