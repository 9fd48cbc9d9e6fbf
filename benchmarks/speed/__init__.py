"""Scripts that measure, each as ratios within one run; not in the wheel. Nothing imports them.

Imports anything. `python -m marginbench.benchmarks.speed.steps --help`.
"""
