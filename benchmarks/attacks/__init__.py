"""Upper bounds of the margin: attacks propose points, and a search on the ray makes them tight.

Imports estimator, registry, machine and methods. Read `ray.py` first, what a point is worth; then `attack.py` and an
attack such as `fmn.py`. Any file may add an attack: see `attack.attack`.
"""
