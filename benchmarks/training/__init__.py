"""Training one network: order of the data, optimiser, schedule, checkpoints, replayed steps.

Imports suites, nets, data, machine and methods. Read `loop.py` first.
"""
