"""Mathematics that methods, attacks and certificates share, as functions of tensors; public inside the project.

Imports nothing but `methods.method` and `methods.net`. Read `perturb.py` first for attacks in training, `bounds/path.py`
for certified training.
"""
