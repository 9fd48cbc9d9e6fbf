"""Margins at the output: losses and heads that ask for a gap between logits, or for an angle (survey, section 3.1).

Cheap, and about features rather than pixels: most claim a `feature_margin`. Read `svm.py` or `arcface.py` first.
"""
