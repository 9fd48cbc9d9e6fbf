"""Plain cross-entropy: the row that every other row is compared with."""

from typing import ClassVar

from marginbench.methods import Info, Method


class CE(Method):
    """L = mean_i -log softmax(z_i)[y_i], with logits z [B, K]."""

    info: ClassVar[Info] = Info(
        key="ce",
        title="Cross-entropy",
        family="baselines",
        paper="the baseline of every paper here; its link to the margin: Soudry et al., The implicit bias of"
        " gradient descent on separable data, JMLR 2018, arXiv 1710.10345",
        section="-",
        year=2018,
        neutral={},
    )
