"""Data augmentation, and with it pruning and quantisation: they may enlarge margins without being made for that.

The survey discusses them together in section 4; so does this folder. Read `mixup.py` or `prune_magnitude.py` first.
"""
