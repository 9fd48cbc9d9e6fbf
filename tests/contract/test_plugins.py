"""Five methods as strangers write them, in files of their own: they keep the contract, and broken twins do not."""

from pathlib import Path

import pytest

from marginbench.benchmarks.contract.check import CHECKS, methods_of, run_check

FOLDER = Path(__file__).parents[1] / "plugins"
SKIPPED = {
    "adacos": {"neutral_is_cross_entropy", "certificate_sound"},
    "gloro": {"neutral_is_cross_entropy"},
    "macer": {"batch_order", "certificate_sound"},
    "mart": {"neutral_is_cross_entropy", "batch_order", "certificate_sound"},
    "trades": {"batch_order", "certificate_sound"},
}
"""What does not apply to them: no setting is cross-entropy, random numbers, or no certificate of the network."""

TWINS = [
    (
        "trades",
        {'needs=frozenset({"input_grad", "inner_attack"})': "needs=frozenset()"},
        "needs_declared",
        "inner_attack",
    ),
    (
        "trades",
        {
            "        return Loss(cross_entropy(z, batch) +": "        net.count = getattr(net, 'count', 1.0) + 1e-6\n"
            "        return Loss(net.count * cross_entropy(z, batch) +"
        },
        "replays",
        "net.count is a number of Python",
    ),
    (
        "mart",
        {
            "clean, logs = net(x)": "clean, logs = net.head(net.features(x).detach())",
            " net(moved).float().log": " net.head(net.features(moved).detach()).float().log",
        },
        "gradient_everywhere",
        "no gradient reaches body",
    ),
    ("mart", {"generator=ctx.generator, device": "device"}, "global_rng_untouched", "draw from ctx.generator"),
    ("macer", {'neutral={"sigma": 0.0}': 'neutral={"weight": 0.0}'}, "neutral_is_cross_entropy", "cross-entropy"),
    ("macer", {"z.log_softmax(2)": "z.detach().log_softmax(2)"}, "learns", "after 160 epochs"),
    ("gloro", {"1.0001 * constant": "0.1 * constant"}, "certificate_sound", "within the certified radius"),
    ("gloro", {"torch.eye(inputs.numel()).to(inputs)": "torch.eye(inputs.numel())"}, "certificate_sound", "dtype of x"),
    (
        "adacos",
        {
            "            _adapt(head.scale,": "            head.scale = head.scale.clone()\n"
            "            _adapt(head.scale,"
        },
        "replays",
        "new tensor of net.head.scale",
    ),
    (
        "adacos",
        {
            "    scale: Tensor\n": "    scale: Tensor\n    y = torch.zeros(0, dtype=torch.int64)\n",
            "        return self.scale * self.cosines(phi)": "        z = self.scale * self.cosines(phi)\n"
            "        return z - 0.1 * class_mask(self.y, z.shape[1]) if len(self.y) == len(z) else z",
            "        cosines = head": "        head.y = batch.y\n        cosines = head",
        },
        "forward_ignores_labels",
        "another label of image",
    ),
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", SKIPPED)
def test_a_method_of_a_stranger_keeps_the_contract(name: str, check: str) -> None:
    (method,) = methods_of(FOLDER / f"{name}.py")
    result = run_check(check, method)
    assert result.status == ("skipped" if check in SKIPPED[name] else "passed"), result.reason


@pytest.mark.parametrize(("name", "changes", "check", "words"), TWINS, ids=[f"{t[0]}-{t[2]}" for t in TWINS])
def test_a_broken_twin_is_refused(name: str, changes: dict[str, str], check: str, words: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{old!r}: the twin must follow the file"
        text = text.replace(old, new)
    path = tmp_path / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    (method,) = methods_of(path)
    result = run_check(check, method)
    assert result.status == "failed" and words in result.reason, result
