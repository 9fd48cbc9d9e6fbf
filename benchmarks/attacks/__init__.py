"""Upper bounds of the margin: attacks propose points, and a search on the ray makes them tight.

Imports estimator, machine and methods. Read `ray.py` first: what a point is worth; then `presets.py`.
"""
