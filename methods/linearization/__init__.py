"""Input margins: the distance to the decision boundary, by linearisation or by an attack in every training step.

Survey, section 3.2; adversarial training belongs here too. Read `pgd_at.py` first, then `mma.py`.
"""
