"""Smooth networks: penalties on gradients, Jacobians and curvature, and limits on norms (survey, section 3.1).

Where logits change slowly, a gap between them is a distance between images. The survey names `contractive` and
`minnorm` in section 3.2; they limit norms and so stand here. Read `jacobian_reg.py` first.
"""
