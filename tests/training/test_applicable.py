"""Which methods are trained on sentences, without a line about them, and what the others say."""

from typing import ClassVar

import pytest
import torch

from marginbench.benchmarks.data.dataset import Dataset
from marginbench.benchmarks.suites.derive import derive
from marginbench.benchmarks.suites.schema import Suite, load_suite
from marginbench.benchmarks.training.applicable import NotApplicableError
from marginbench.benchmarks.training.run import Run
from marginbench.methods import Batch, Context, Info, MarginbenchError, Method, create, get, names

OF_PIXELS = {  # and what the reason must say
    "all_layer_margin": "with respect to the input",
    "amm": "with respect to the input",
    "ccat": "with respect to the input",
    "contractive": "no Lipschitz bound is known for the layer Embedding",
    "convex_polytope": "radii",
    "cross_lipschitz": "with respect to the input",
    "crown_ibp": "radii",
    "cure": "with respect to the input",
    "cutout": "changes images behind the normalisation",
    "deep_defense": "with respect to the input",
    "elsayed": "with respect to the input",
    "ibp": "radii",
    "input_grad_reg": "with respect to the input",
    "jacobian_reg": "with respect to the input",
    "lmt": "no Lipschitz bound is known for the layer Embedding",
    "mixup": "changes the images of a batch",
    "mma": "with respect to the input",
    "mmr": "radii",
    "pgd_at": "with respect to the input",
    "rand_smoothing": "changes the images of a batch",
    "roll": "no linear bounds are known for the layer Embedding",
}


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load_suite("text_smoke")


@pytest.fixture(scope="module")
def data(suite: Suite) -> Dataset:
    return suite.load_data()


@pytest.mark.parametrize("key", sorted(set(names()) - set(OF_PIXELS)))
def test_methods_of_features_train_on_sentences(key: str, suite: Suite, data: Dataset) -> None:
    run = Run(create(key), suite, data, 0)
    before = [weight.detach().clone() for weight in run.net.parameters()]
    losses = [float(run.step()) for _ in range(2)]
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    body = [name for name, _ in run.net.named_parameters() if name.startswith("body.")]
    assert body
    assert any(not torch.equal(a, b) for a, b in zip(before, run.net.parameters(), strict=True))


@pytest.mark.parametrize(("key", "reason"), OF_PIXELS.items())
def test_methods_of_pixels_say_why_they_do_not(key: str, reason: str, suite: Suite, data: Dataset) -> None:
    with pytest.raises(NotApplicableError, match=f"^not applicable to sentences: .*{reason}"):
        Run(create(key), suite, data, 0)


def test_a_plug_in_that_changes_images_is_none_for_sentences(suite: Suite, data: Dataset) -> None:
    class Darker(get("ce")):  # type: ignore[misc]
        info: ClassVar[Info] = get("ce").info

        def augment(self, batch: Batch, ctx: Context) -> Batch:
            return batch

    with pytest.raises(NotApplicableError, match="changes the images of a batch"):
        Run(Darker(), suite, data, 0)
    assert issubclass(Darker, Method)


def test_sentences_are_not_augmented(suite: Suite, data: Dataset) -> None:
    flipped = derive(suite, {"training.augment": ["flip"]})
    with pytest.raises(MarginbenchError, match=r"training\.augment: of images"):
        Run(create("ce"), flipped, data, 0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"data.name": "digits", "data.validation": 200},
            "'bert_tiny' reads sentences, and the data 'digits' are images",
        ),
        ({"network.name": "cnn"}, "'cnn' reads images, and the data 'sentences' are sentences"),
    ],
)
def test_networks_read_what_the_data_are(changes: dict[str, object], told: str, suite: Suite) -> None:
    radii = {"evaluation.epsilon": {"l2": 0.5, "linf": 0.1}, "evaluation.attacks": {}, "evaluation.certificates": {}}
    with pytest.raises(MarginbenchError, match=told):
        derive(suite, {**changes, **radii}).load_data()


@pytest.mark.parametrize("key", ["epsilon", "attacks", "certificates"])
def test_a_suite_of_images_still_needs_what_encloses_margins(key: str) -> None:
    with pytest.raises(MarginbenchError, match=rf"key 'evaluation\.{key}' is missing"):
        derive(load_suite("smoke"), {f"evaluation.{key}": None})


def test_a_suite_of_images_without_a_radius_is_told(suite: Suite) -> None:
    with pytest.raises(MarginbenchError, match=r"evaluation\.epsilon: give one radius for each norm"):
        derive(load_suite("smoke"), {"evaluation.epsilon": {}})
