"""Mathematics that methods, attacks and certificates share, as functions of tensors; public inside the project.

Imports `methods.method` and `methods.net` alone. Read `perturb.py` first for attacks in training, and
`bounds/linear.py` for certified training.
"""
