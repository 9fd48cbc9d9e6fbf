"""Certified margins: training against bounds that hold for every image of a ball (survey, section 3.3).

Most bring a certificate of their own, the hook `certify`. Read `ibp.py` first, with `methods/maths/bounds`.
"""
