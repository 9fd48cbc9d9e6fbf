"""Scripts that measure speed, each as ratios within one run: `python -m marginbench.benchmarks.speed.steps --help`.

They need a checkout of the repository: the wheel leaves them out. They may import anything, and nothing imports them.
"""
