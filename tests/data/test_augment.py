"""Augmentation by the recipe, against slow references that take one image after the other."""

import copy
import random
from pathlib import Path

import pytest
import torch
from data_support import augmented_suite
from scipy import stats
from support import Run
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import AutoAugment as PerImage
from torchvision.transforms import AutoAugmentPolicy
from torchvision.transforms import RandomResizedCrop as OneImage
from torchvision.transforms.autoaugment import _apply_op
from torchvision.transforms.functional import InterpolationMode, resized_crop

from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.data.autoaugment import autoaugment
from marginbench.benchmarks.data.cutout import Cutout
from marginbench.benchmarks.data.geometry import Crop, Flip, RandomResizedCrop
from marginbench.benchmarks.suites.augment import Augment
from marginbench.benchmarks.suites.schema import load_suite
from marginbench.benchmarks.training.run import Run as TrainingRun
from marginbench.methods import create

FILL = torch.tensor([0.5, 0.4, 0.3])
ALL = ("crop", "random_resized_crop", "flip", "autoaugment", "cutout")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 40, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.randint(256, (count, channels, height, width), generator=stream(9)) / 255


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop(mode: str) -> None:
    x = images()
    out = Crop(padding=3, mode=mode)(x, FILL, stream())  # type: ignore[arg-type]
    tops, lefts = torch.randint(7, (2, len(x)), generator=stream())
    assert set(tops.tolist()) == set(range(7))
    for image, found, top, left in zip(x, out, tops.tolist(), lefts.tolist(), strict=True):
        for row in range(12):
            for column in range(10):
                i, j = row + top - 3, column + left - 3
                if mode == "reflect":
                    i, j = (abs(k) if k < n else 2 * (n - 1) - k for k, n in ((i, 12), (j, 10)))
                inside = 0 <= i < 12 and 0 <= j < 10
                assert torch.equal(found[:, row, column], image[:, i, j] if inside else torch.zeros(3))


def windows(transform: RandomResizedCrop, count: int, height: int, width: int) -> list[list[int]]:
    """Drawn one after the other: top, left, height, width."""
    g = stream()
    shares, shapes = torch.rand(2, 10, count, generator=g, dtype=torch.float64).tolist()
    places = torch.rand(2, count, generator=g, dtype=torch.float64).tolist()
    found = []
    for i in range(count):
        rows, columns = min(height, round(width * transform.ratio)), min(width, round(height * transform.ratio))
        top, left = (height - rows) // 2, (width - columns) // 2
        for attempt in range(10):
            area = height * width * (transform.area + (1 - transform.area) * shares[attempt][i])
            ratio = transform.ratio ** (2 * shapes[attempt][i] - 1)
            h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < h <= height and 0 < w <= width:
                rows, columns = h, w
                top, left = int(places[0][i] * (height - h + 1)), int(places[1][i] * (width - w + 1))
                break
        found.append([top, left, rows, columns])
    return found


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 128), (30, 11), (1, 9)])
@pytest.mark.parametrize("settings", [{}, {"area": 0.5, "ratio": 2.0}, {"area": 1.0}])
def test_a_random_resized_crop_is_that_of_torchvision(height: int, width: int, settings: dict[str, float]) -> None:
    """Up to the rounding of places in float32. Windows are enlarged, so that antialiasing makes no difference."""
    x, transform = images(60, 3, height, width), RandomResizedCrop(**settings)
    out = transform(x, FILL, stream())
    assert out.shape == x.shape and float(out.min()) >= 0 and float(out.max()) <= 1
    for image, found, window in zip(x, out, windows(transform, len(x), height, width), strict=True):
        for antialias in (False, True):
            wanted = resized_crop(image, *window, [height, width], antialias=antialias)  # type: ignore[arg-type]
            torch.testing.assert_close(found, wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (120, 160)])
def test_random_windows_are_distributed_as_in_torchvision(height: int, width: int) -> None:
    count = 4000
    ours = RandomResizedCrop()._windows(count, height, width, stream()).T.tolist()
    image = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        theirs = [OneImage.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    facts = {
        "area": lambda top, left, rows, columns: rows * columns,
        "ratio": lambda top, left, rows, columns: columns / rows,
        "top": lambda top, left, rows, columns: top,
        "left": lambda top, left, rows, columns: left,
    }
    for name, fact in facts.items():
        a, b = ([fact(*window) for window in drawn] for drawn in (ours, theirs))
        assert stats.ks_2samp(a, b).pvalue > 0.01, name
    shares = [window[2] * window[3] / (height * width) for window in ours]
    assert 0.07 < min(shares) < 0.1 and max(shares) > 0.9


def test_a_random_resized_crop_repeats_itself_and_may_be_the_whole_image() -> None:
    x, g = images(30, 3, 16, 16), stream(3)
    before, transform = x.clone(), RandomResizedCrop()
    first, second = (transform(x, FILL, g) for _ in range(2))
    assert torch.equal(transform(x, FILL, stream(3)), first) and not torch.equal(first, second)
    assert torch.equal(RandomResizedCrop(area=1.0, ratio=1.0)(x, FILL, stream()), x)
    assert torch.equal(x, before)


def test_where_no_random_window_fits_the_middle_is_taken() -> None:
    for height, width in ((8, 40), (40, 8)):
        wanted = OneImage.get_params(torch.empty(3, height, width), [1.0, 1.0], [3 / 4, 4 / 3])
        found = RandomResizedCrop(area=1.0)._windows(5, height, width, stream())
        assert found.T.tolist() == [list(wanted)] * 5


def test_flip() -> None:
    x = images(400)
    out = Flip()(x, FILL, stream())
    mirrored = [torch.equal(found, image[:, :, range(9, -1, -1)]) for image, found in zip(x, out, strict=True)]
    same = [torch.equal(found, image) for image, found in zip(x, out, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 160 < sum(mirrored) < 240
    assert torch.equal(Flip(probability=0.0)(x, FILL, stream()), x)
    assert torch.equal(Flip(probability=1.0)(x, FILL, stream()), x.flip(3))


@pytest.mark.parametrize("length", [4, 5])
def test_cutout(length: int) -> None:
    x = images()
    out = Cutout(length=length)(x, FILL, stream())
    g = stream()
    rows, columns = (torch.randint(n, (len(x), 1), generator=g)[:, 0].tolist() for n in (12, 10))
    for image, found, row, column in zip(x, out, rows, columns, strict=True):
        wanted = image.clone()
        top, left = row - length // 2, column - length // 2
        wanted[:, max(top, 0) : top + length, max(left, 0) : left + length] = FILL[:, None, None]
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("policy", ["cifar10", "imagenet", "svhn"])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (3, 20, 28), (1, 28, 28)])
def test_autoaugment_is_that_of_torchvision_with_a_sub_policy_for_each_image(
    policy: str, channels: int, height: int, width: int
) -> None:
    """Up to a level of rounding for each operation, and sources that lie half-way between two pixels."""
    count = 300
    coarse = torch.rand(count, channels, 5, 5, generator=stream(9))  # smooth: not every pixel is an edge
    x = (255 * F.interpolate(coarse, (height, width), mode="bilinear")).round() / 255
    fill = torch.tensor([0.4, 0.6, 0.2])[:channels]
    out = autoaugment(x, policy, fill, stream())
    assert float(out.min()) >= 0 and float(out.max()) <= 1

    per_image = PerImage(AutoAugmentPolicy(policy))
    space = per_image._augmentation_space(10, (height, width))
    g = stream()
    chosen = torch.randint(25, (count,), generator=g)
    uniform = torch.rand(count, 2, generator=g)
    signs = torch.randint(2, (count, 2), generator=g)
    assert set(chosen.tolist()) == set(range(25))
    wrong = []
    for i in range(count):
        wanted = (255 * x[i]).round().to(torch.uint8)
        for place, (name, probability, level) in enumerate(per_image.policies[int(chosen[i])]):
            if uniform[i, place] >= probability:
                continue
            magnitudes, signed = space[name]
            magnitude = float(magnitudes[level]) if level is not None else 0.0
            sign = -1 if signed and signs[i, place] == 0 else 1
            wanted = _apply_op(wanted, name, sign * magnitude, InterpolationMode.NEAREST, (255 * fill).round().tolist())
        wrong.append(float(((255 * out[i] - wanted).abs() > 2.5).float().mean()))
    assert max(wrong) < 0.03 and sum(wrong) / count < 5e-3


def test_all_transforms_follow_each_other_in_one_order() -> None:
    x = images()
    before, g = x.clone(), stream()
    wanted = x
    for name in ALL:
        wanted = Augment.model_validate([name]).transforms[name](wanted, FILL, g)
    shuffled = random.Random(0).sample(ALL, len(ALL))
    assert torch.equal(Augment.model_validate(shuffled)(x, FILL, stream()), wanted)
    assert torch.equal(x, before)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_every_method_sees_the_same_images_and_nothing_else_changes(precision: str) -> None:
    suite = augmented_suite(epochs=4)
    suite = suite.model_copy(update={"training": suite.training.model_copy(update={"precision": precision})})
    runs = [TrainingRun(create(spec), suite, small_data(), 1) for spec in ("ce", "mixup")]
    plain = TrainingRun(create("ce"), small_suite(epochs=4), small_data(), 1)
    state = torch.get_rng_state()
    for _ in range(3):
        a, b, c = (run._batch() for run in (*runs, plain))
        assert torch.equal(a.x, b.x) and torch.equal(a.index, b.index)
        assert a.x.dtype == torch.float32 and float(a.x.min()) >= 0 and float(a.x.max()) <= 1
        assert torch.equal(a.index, c.index) and not torch.equal(a.x, c.x)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(runs[0].ctx.generator.get_state(), plain.ctx.generator.get_state())
    other = TrainingRun(create("ce"), suite, small_data(), 2)
    other._order_epoch, other._order = 0, runs[0]._order
    runs[0]._augment_stream = TrainingRun(create("ce"), suite, small_data(), 1)._augment_stream
    assert not torch.equal(runs[0]._batch().x, other._batch().x)


def test_what_has_no_pixel_gets_the_mean_of_the_training_images() -> None:
    training = small_suite(epochs=4).training.model_copy(update={"augment": Augment({"cutout": {"length": 4}})})
    run = TrainingRun(create("ce"), small_suite(epochs=4).model_copy(update={"training": training}), small_data(), 0)
    batch = run._batch()
    changed = batch.x != small_data().train.images(batch.index)
    mean = small_data().train.x.double().mean() / 255
    assert bool(changed.any()) and batch.x[changed].double().tolist() == pytest.approx(
        [float(mean)] * int(changed.sum())
    )


def test_a_checkpoint_in_the_middle_changes_nothing() -> None:
    suite = augmented_suite(epochs=4)
    run = TrainingRun(create("ce"), suite, small_data(), 0)
    for _ in range(3):
        run.step()
    state = copy.deepcopy(run.state_dict())
    resumed = TrainingRun(create("ce"), suite, small_data(), 0)
    resumed.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(run._batch().x, resumed._batch().x)
        run.step()
        resumed.step()
    for p, q in zip(run.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(p, q)


def suite_with(tiny: Path, line: str) -> Path:
    tiny.write_text(tiny.read_text().replace("epochs = 2\n", f"epochs = 2\n{line}\n"))
    return tiny


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('augment = ["corp"]', ["training.augment", "unknown transform 'corp'", "did you mean 'crop'"]),
        ("augment = []", ["training.augment", "empty", "autoaugment"]),
        ("augment = { corp = {} }", ["training.augment:", "unknown transform 'corp'", "did you mean 'crop'"]),
        ("augment = { crop = { pading = 2 } }", ["'training.augment.crop.pading'", "did you mean 'padding'"]),
        ("augment = { crop = { padding = 0 } }", ["training.augment.crop.padding=0"]),
        ("augment = { random_resized_crop = { area = 0.0 } }", ["training.augment.random_resized_crop.area=0.0"]),
        ("augment = { random_resized_crop = { ratio = 0.5 } }", ["training.augment.random_resized_crop.ratio=0.5"]),
        ('augment = { autoaugment = { policy = "mnist" } }', ["training.augment.autoaugment.policy", "svhn"]),
        ('augment = "crop"', ["training.augment='crop'"]),
    ],
)
def test_a_wrong_setting_is_named(run: Run, tiny: Path, line: str, words: list[str]) -> None:
    code, _, err = run("run-all", "--suite", suite_with(tiny, line), "--out", tiny.parent / "out")
    assert code == 2 and err.count("\n") == 1
    for word in words:
        assert word in err


def test_names_and_tables_mean_the_same(tiny: Path) -> None:
    text = tiny.read_text()
    named, table = 'augment = ["flip", "crop"]', "augment = { crop = { padding = 4 }, flip = {} }"
    prints = []
    for line in (named, table, "", "augment = { flip = {} }"):
        tiny.write_text(text)
        prints.append(load_suite(str(suite_with(tiny, line))).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3
