"""Probabilities are told from logits, at any scale; logits are never taken for them."""

import re
from collections.abc import Callable

import pytest
import torch
from contract_support import Mutant
from evaluation_support import evaluated
from sklearn.datasets import load_digits
from torch import Tensor, nn

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.evaluation.disguise import FEW, LEAK, nearly_probabilities, probabilities
from marginbench.benchmarks.training.loop import train
from marginbench.methods import Batch, Context, Loss, Net, Normalise, create

Change = Callable[[Tensor], Tensor]

DISGUISED: dict[str, tuple[Change, str]] = {
    "softmax": (lambda z: z.softmax(1), "sums to 1"),
    "softmax, times 100": (lambda z: 100 * (0.5 * z).softmax(1), "sums to 100"),
    "softmax, tiny": (lambda z: 1e-6 * z.softmax(1), "sums to 1e-06"),
    "softmax, cold": (lambda z: (z / 5).softmax(1), "sums to 1"),
    "softmax, hot": (lambda z: (100 * z).softmax(1), "sums to 1"),
    "softmax, smoothed": (lambda z: 0.9 * z.softmax(1) + 0.1 / z.shape[1], "sums to 1"),
    "softmax, shifted up": (lambda z: z.softmax(1) + 3, "sums to"),
    "softmax, centred": (lambda z: 20 * z.softmax(1) - 10, "affine function of probabilities"),
    "softmax, zero-sum": (lambda z: z.softmax(1) - 1 / z.shape[1], "affine function of probabilities"),
    "softmax in bfloat16": (lambda z: 10 * z.bfloat16().softmax(1).float(), "sums to"),
    "sigmoids": (lambda z: (z - z.mean()).sigmoid(), r"lies in \[0, 1\]"),
    "powers of probabilities": (lambda z: z.softmax(1).sqrt(), r"lies in \[0, 1\]"),
    "sigmoids, times 100": (lambda z: 100 * (z - z.mean()).mul(4).sigmoid(), "between 0 and 100, most at one"),
    "tanh": (lambda z: (z - z.mean()).mul(4).tanh(), "between -1 and 1, most at one"),
    "logarithms, clipped": (lambda z: (8 * z).softmax(1).clamp_min(1e-3).log(), "affine function|most at one of them"),
}

HONEST: dict[str, Change] = {
    "logits": lambda z: z,
    "log-probabilities": lambda z: z.log_softmax(1),
    "without negative entries": torch.relu,
    "softplus": nn.functional.softplus,
    "tiny": lambda z: 1e-6 * z,
    "tiny, without negative entries": lambda z: 1e-6 * z.relu(),
    "small": lambda z: 0.01 * z + 0.5,
    "huge": lambda z: 1e6 * z,
    "shifted up": lambda z: z + 1e4,
    "zero-sum": lambda z: z - z.mean(1, keepdim=True),
    "of one sum": lambda z: z - z.mean(1, keepdim=True) + 50,
    "normalised": lambda z: nn.functional.layer_norm(z, z.shape[1:]),
    "cosines": lambda z: nn.functional.normalize(z, dim=1),
    "softly capped": lambda z: 30 * (z / 30).tanh(),
    "one class masked": lambda z: z.index_fill(1, torch.tensor([2]), -torch.inf),
    "constant": lambda z: torch.eye(5)[:1].expand(len(z), 5),
    "NaN": lambda z: z * torch.nan,
}


class After(nn.Module):
    def __init__(self, head: nn.Module, change: Change) -> None:
        super().__init__()
        self.head, self.change = head, change

    def forward(self, phi: Tensor) -> Tensor:
        return self.change(self.head(phi))


def behind(net: Net, change: Change) -> Net:
    return Net(net.normalise, net.body, After(net.head, change)).eval()


def images(count: int = 64) -> Tensor:
    return small_data().test.images(slice(count))


@pytest.mark.parametrize("name", DISGUISED)
def test_they_are_seen(name: str, trained: Net) -> None:
    change, words = DISGUISED[name]
    seen = probabilities(behind(trained, change), images())
    assert seen is not None and re.search(words, seen), seen


@pytest.mark.parametrize("name", HONEST)
def test_logits_are_not(name: str, trained: Net) -> None:
    for count in (2, 64):
        assert probabilities(behind(trained, HONEST[name]), images(count)) is None
        assert nearly_probabilities(behind(trained, HONEST[name]), images(count)) is None


@pytest.mark.parametrize("name", sorted(set(HONEST) - {"one class masked", "normalised", "cosines"}))
def test_logits_of_two_classes_are_not(name: str, trained: Net) -> None:
    """They are opposite to each other, and few; scaled to one size, they would be a sign function."""
    opposite = behind(trained, lambda z: HONEST[name](torch.stack([z[:, 0] - z[:, 1], z[:, 1] - z[:, 0]], 1)))
    free = behind(trained, lambda z: HONEST[name](z[:, :2]))
    for net in (opposite, free):
        for count in (2, 64):
            assert probabilities(net, images(count)) is None


class Cosine(nn.Module):
    """To prototypes without negative entries, of features without: between 0 and 1."""

    def __init__(self, body: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.body, self.prototypes = body, nn.functional.normalize(prototypes)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.body(x)) @ self.prototypes.T


def test_cosines_that_fill_what_probabilities_do_are_not() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(
        Normalise(torch.tensor([0.5]), torch.tensor([0.5])), nn.Flatten(), nn.Linear(16, 32), nn.ReLU()
    )
    classes = torch.rand(5, 1, 4, 4).round()
    x = (classes.repeat(13, 1, 1, 1)[:64] + 0.3 * torch.randn(64, 1, 4, 4)).clamp(0, 1)
    with torch.no_grad():
        net = Cosine(body, body(classes))
        cosines = net(x)
    assert 0 <= cosines.min() < 0.1 and 0.9 < cosines.max() < 1, "as probabilities"
    assert probabilities(net, x) is None


def test_sigmoids_of_bounded_features_are(trained: Net) -> None:
    """Far out of the box they do not come nearer to 0 and 1 than in it."""
    torch.manual_seed(0)
    x = images()
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 5), nn.Sigmoid())
    optimiser = torch.optim.Adam(body.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy(body(x), nn.functional.one_hot(trained(x).argmax(1), 5).float()).backward()
        optimiser.step()
    assert probabilities(body.requires_grad_(False), x) is not None


def test_probabilities_of_two_classes_are(trained: Net) -> None:
    for name in ("softmax", "softmax, times 100", "sigmoids"):
        change, _ = DISGUISED[name]
        assert probabilities(behind(trained, lambda z, change=change: change(z[:, :2])), images()), name


IN_THE_LIMIT = {
    *(
        "softmax, centred",
        "softmax, zero-sum",
        "sigmoids, times 100",
        "tanh",
        "logarithms, clipped",
    ),  # seen there alone
    "of one sum",  # acquitted there alone
}


class Strict(nn.Module):
    """Refuses what is no image, or makes one of it."""

    def __init__(self, clamps: bool) -> None:
        super().__init__()
        self.clamps = clamps

    def forward(self, x: Tensor) -> Tensor:
        if self.clamps:
            return x.clamp(0, 1)
        if x.min() < 0 or x.max() > 1:
            raise ValueError("no image")
        return x


@pytest.mark.parametrize("clamps", [True, False])
def test_a_model_that_takes_images_alone_is_judged_by_them(trained: Net, clamps: bool) -> None:
    for names, disguised in ((DISGUISED, True), (HONEST, False)):
        for name in names:
            if name in IN_THE_LIMIT:
                continue
            change: Change = DISGUISED[name][0] if disguised else HONEST[name]
            net = behind(trained, change)
            strict = Net(nn.Sequential(Strict(clamps), net.normalise), net.body, net.head)
            assert (probabilities(strict, images()) is not None) == disguised, name


LEAKY: dict[str, Change] = {
    "softmax and logits": lambda z: (10 * z).softmax(1) + 1e-3 * z,
    "the same, times 100": lambda z: 100 * (10 * z).softmax(1) + 0.1 * z,
    "softmax and cubes": lambda z: (4 * z).softmax(1) + 1e-5 * z**3,
}


@pytest.mark.parametrize("name", LEAKY)
def test_probabilities_with_a_little_of_logits_are_seen(name: str, trained: Net) -> None:
    net = behind(trained, LEAKY[name])
    assert probabilities(net, images()) is None, "far out of the box something else is in them"
    assert re.search(r"every row sums to .* up to \d\.\d%", nearly_probabilities(net, images()) or "")
    assert nearly_probabilities(net, images(FEW - 1)) is None
    masked = behind(trained, lambda z: LEAKY[name](z).index_fill(1, torch.tensor([4]), -torch.inf))
    assert nearly_probabilities(masked, images()[small_data().test.y[:64] != 4][:FEW]) is not None


class SquaredError(Mutant):
    """L = |z - e_y|^2: outputs that are near 0 and 1, which nothing bounds."""

    def loss(self, net: Net, batch: Batch, ctx: Context) -> Loss:
        z = net(batch.x)
        return Loss((z - nn.functional.one_hot(batch.y, z.shape[1]).float()).square().sum(1).mean())


def test_outputs_fitted_to_0_and_1_are_none() -> None:
    net = train(SquaredError(), small_suite(), small_data(), 0).net.eval()
    assert nearly_probabilities(net, images()) is None


@pytest.mark.parametrize("activation", [nn.GELU, nn.Tanh])
def test_two_classes_fitted_to_0_and_1_are_none(activation: type[nn.Module]) -> None:
    """Their outputs are nearly 0, 1 and of one sum on images of the data, and leave [0, 1] where they are pressed."""
    digits, label = load_digits(n_class=2, return_X_y=True)
    x, y = torch.tensor(digits / 16).float().view(-1, 1, 8, 8), torch.tensor(label)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 2)
        )
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.mse_loss(net(x), nn.functional.one_hot(y).float()).backward()
        optimiser.step()
    with torch.no_grad():
        share = net(x[:64])
    assert ((share.sum(1) - 1).abs() < LEAK).all() and share.min() > -LEAK and share.max() < 1 + LEAK
    assert nearly_probabilities(net, x[:64]) is None
    leaky = nn.Sequential(net, Leak())
    assert nearly_probabilities(leaky, x[:64]) is not None


class Leak(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return (100 * z).softmax(1) + 0.02 * z


def test_the_doubt_says_so(trained: Net) -> None:
    leaky = evaluated(behind(trained, LEAKY["softmax and logits"])).doubts
    assert "up to" in leaky["returns_probabilities"]
    doubts = evaluated(behind(trained, DISGUISED["softmax, times 100"][0])).doubts
    assert doubts["returns_probabilities"] == "every row is non-negative and sums to 100"


@pytest.mark.parametrize("spec", ["arcface", "am_softmax", "ccat", "svm", "rand_smoothing"])
def test_methods_make_no_such_network(spec: str) -> None:
    """Cosines, uniform targets, one-against-all: heads that bound their outputs, or centre them."""
    net = train(create(spec), small_suite(), small_data(), 0).net.eval()
    assert probabilities(net, images()) is None and nearly_probabilities(net, images()) is None
