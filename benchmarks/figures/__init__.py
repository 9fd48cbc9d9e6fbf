"""Figures: Altair charts of records, for the report, for notebooks and for papers.

`scan.FIGURES` holds them all by name, `draw.plot` draws one, `save.save` writes it. A figure is one file with a
function decorated by `@figure`, see `figure.py`; what it shows comes from `tables`, from records, and of feature maps
and adversarial examples from kept networks. Start with `accuracy_curves.py`.
"""
