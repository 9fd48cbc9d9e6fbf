"""Networks as files. That every built-in method's network comes back is a check of the contract: `network_reloads`."""

from collections.abc import Iterable

import pytest
import safetensors.torch
import torch
from torch import nn

from marginbench.benchmarks.contract.check import run_check
from marginbench.benchmarks.contract.fixtures import small_data, small_suite
from marginbench.benchmarks.training.kept import pack, unpack
from marginbench.benchmarks.training.loop import Trained, train
from marginbench.methods import Batch, Context, MarginbenchError, Net, Task
from marginbench.methods.baselines.ce import CE


class Wraps(CE):
    """CE, whose head has a layer in front of it at the end: right, with `rebuild`."""

    def finish(self, net: Net, data: Iterable[Batch], ctx: Context) -> Net:
        return self.rebuild(net, ctx.task)

    def rebuild(self, net: Net, task: Task) -> Net:
        net.body.append(nn.ReLU())
        net.head = nn.Sequential(net.head, nn.Linear(task.num_classes, task.num_classes))
        return net


def test_layers_that_finish_changes_come_back_with_rebuild() -> None:
    assert run_check("network_reloads", Wraps()).status == "passed"


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(CE(), small_suite(epochs=1), small_data(), 0)


def test_the_file_holds_the_state_and_nothing_else(trained: Trained) -> None:
    state = safetensors.torch.load(pack(trained.net))
    known = trained.net.state_dict()
    assert state.keys() == known.keys() and all(torch.equal(state[name], known[name]) for name in known)


def test_files_that_do_not_fit(trained: Trained) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(MarginbenchError, match=r"not a \.safetensors file"):
        unpack(b"something else", trained.blueprint, cpu)
    other = safetensors.torch.save({"head.weight": torch.zeros(1)})
    with pytest.raises(MarginbenchError, match="do not fit what ce builds"):
        unpack(other, trained.blueprint, cpu)


class ReadsRadii(CE):
    """CE, told the radii without saying so."""

    def build(self, net: Net, task: Task) -> Net:
        assert task.epsilon["l2"] > 0
        return net


def test_radii_must_be_declared_by_what_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    train(ReadsRadii(), small_suite(epochs=1), small_data(), 0)
    monkeypatch.setattr(ReadsRadii, "__module__", "marginbench.methods.baselines.reads_radii")
    with pytest.raises(MarginbenchError, match=r"ce reads task\.epsilon: declare it"):
        train(ReadsRadii(), small_suite(epochs=1), small_data(), 0)
