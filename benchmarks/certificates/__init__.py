"""Lower bounds of the margin: radii within which no image has another class.

Imports estimator, attacks, nets, machine and methods. Read `crown.py` first; names with _ are its parts.
"""
