"""Bounds on what a ReLU network does to a ball of inputs: intervals, lines, exact regions.

Imports `methods.maths`. Read `linear.py` first: what a network is here, and how bounds pass through it.
"""
