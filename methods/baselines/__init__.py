"""Baselines: cross-entropy, alone and with the regularisers that the survey says do not enlarge margins (section 3.1).

`ce` is what every other method is compared with; `ce_wd` and `ce_dropout` are the comparison of the PMM paper.
"""
