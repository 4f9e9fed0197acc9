"""The captured update is the eager one: warming up leaves no trace, results are its own, nothing waits (7.4).

Without a GPU a stand-in calls the update again where a graph would be replayed, and the meta device shows
what a capture would forbid.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from common.cuda_graph import WARM_UP, GraphedUpdate
from common.env_wrapper import EnvSpec
from common.faults import NonFiniteGuard
from common.seeding import seed_everything
from common.spaces import Spaces
from paper4_dreamerv3.agent import DreamerV3Agent
from paper4_dreamerv3.train import Learner
from tests.on_device import OnDevice, called_again

DISCRETE, CONTINUOUS = Spaces({"vector": (5,)}, 3, True), Spaces({"vector": (5,)}, 2, False)
EVERYTHING = Spaces({"image": (32, 32, 1), "image_wrist": (32, 32, 3), "vector": (4,)}, 9, True, (2, 3, 4))
KINDS = pytest.mark.parametrize("spaces", [DISCRETE, CONTINUOUS, EVERYTHING], ids=["one", "box", "all"])


def trained(one: Learner, batches: list[dict]) -> list[torch.Tensor]:
    """Updates -> all that they give and all that they leave, and the next random number."""
    given = [one.update(batch) for batch in batches]
    nets, optim = (*one.agent.parts().values(), one.agent.slow, one.range), one.optimizer
    left = [*(p for net in nets for p in net.state_dict().values()), *optim.mean, *optim.square, optim.count]
    return [*tree_leaves(given), *left, torch.rand(2)]


@KINDS
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_captured_update_is_the_eager_one_to_the_bit(learner, random_batch, spaces, precision):
    """Warming up leaves no trace, batches reach the buffers, what was given before stays as it was."""
    batches, runs = [random_batch(spaces, seed=seed) for seed in range(3)], []
    for graphed in (False, True):
        one = learner({"precision": precision, "lr_warmup": 5}, spaces, awake=True)
        if graphed:
            one.run = GraphedUpdate(one.step, one.tensors(), called_again)
        runs.append(trained(one, [{name: x.clone() for name, x in batch.items()} for batch in batches]))
        one.guard.flush()
        assert one.guard.skipped == 0
    eager, graphed = runs
    assert len(eager) == len(graphed) and all(torch.equal(a, b) for a, b in zip(eager, graphed, strict=True))


def test_a_bad_batch_at_the_capture_and_later_ones_are_counted(learner, random_batch):
    one, bad = learner(), random_batch()
    bad["rew"][0, 1] = float("nan")
    one.run = GraphedUpdate(one.step, one.tensors(), called_again)
    for batch in (bad, random_batch(seed=1), bad):
        one.update(batch)
    one.guard.flush()
    assert one.guard.skipped == 2 and one.optimizer.count == 1


def test_a_batch_of_another_shape_is_refused(learner, random_batch):
    one = learner()
    graphed = GraphedUpdate(one.step, one.tensors(), called_again)
    graphed(random_batch())
    with pytest.raises(AssertionError, match="vector"):
        graphed({name: part[:1] for name, part in random_batch().items()})  # copy_ would repeat the row


def test_loading_a_state_keeps_the_tensors_that_the_graph_works_on(learner, random_batch):
    """A checkpoint's, as OnlineRun puts it back; the other learner is the eager one."""
    one, other = learner(seed=1), learner(seed=2)
    one.run = GraphedUpdate(one.step, one.tensors(), called_again)
    for each in (one, other):
        each.update(random_batch())
    places = [tensor.data_ptr() for tensor in one.tensors()]
    pairs = [(one.agent.parts()[name], part) for name, part in other.agent.parts().items()]
    pairs += [(one.agent.slow, other.agent.slow), (one.range, other.range), (one.optimizer, other.optimizer)]
    for part, saved in pairs:
        part.load_state_dict(saved.state_dict())
    assert [tensor.data_ptr() for tensor in one.tensors()] == places
    runs = []
    for each in (one, other):
        seed_everything(3)
        runs.append(trained(each, [random_batch(seed=1)]))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_capture_comes_after_warming_up_on_a_side_stream(monkeypatch):
    """What torch.cuda.graph asks for, with torch.cuda replaced by names of what is called."""
    calls = []

    class Fake:
        def __init__(self, name="side"):
            self.name = name
            self.replay = lambda: calls.append("replay")

        def wait_stream(self, other):
            calls.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def inside(what, stream=None):
        calls.append(f"into {(stream or what).name}")
        yield
        calls.append("out")

    def function(batch):
        calls.append("update")
        return {"x": batch["x"] + 1}

    for name, fake in {"Stream": Fake, "CUDAGraph": Fake, "stream": inside, "graph": inside}.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Fake("main"))
    assert GraphedUpdate(function, [torch.zeros(1)])({"x": torch.ones(1)})["x"] == 2
    warm = ["side waits for main", "into side", *["update"] * WARM_UP, "out", "main waits for side"]
    assert calls == [*warm, "into side", "update", "out", "replay"]


# --- nothing waits for the device


class NoHostData(TorchFunctionMode):
    """No tensor is made or indexed from Python's numbers: on CUDA a copy that waits, on meta it is silent."""

    MAKERS = (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        data = args[1:] if function is torch.Tensor.new_tensor else args[:1]
        made = function in self.MAKERS and not isinstance(data[0], torch.Tensor)
        index = args[1] if getattr(function, "__name__", "") in ("__getitem__", "__setitem__") else ()
        lists = [x for x in (index if isinstance(index, tuple) else (index,)) if isinstance(x, list)]
        assert not made and not lists, f"{function} of {data or lists}"
        return function(*args, **(kwargs or {}))


def watched(function) -> None:
    with NoHostData(), OnDevice():
        function()


@pytest.fixture
def on_meta(small, random_batch, monkeypatch):
    """on_meta(spaces, lr=0.1) -> a learner whose networks are there, and a batch."""
    autocast = torch.autocast  # which meta has not; casts stay on a device

    def make(spaces: Spaces, **more) -> tuple[Learner, dict[str, torch.Tensor]]:
        agent = DreamerV3Agent(small(**more), EnvSpec("toy_catch", {}), spaces, "meta")
        return Learner(agent), {name: part.to("meta") for name, part in random_batch(spaces).items()}

    monkeypatch.setattr(torch, "autocast", lambda kind, *args, **more: autocast("cpu", *args, **more))
    return make


@KINDS
@pytest.mark.parametrize(
    "more", [{}, {"behaviour.norm": False, "behaviour.root_cont": "true"}, {"model.symlog": False}]
)
def test_the_update_neither_waits_nor_copies(on_meta, spaces, more):
    """On the meta device it takes the branches of a GPU, and reading a value is an error by itself."""
    one, batch = on_meta(spaces, lr_warmup=5, **more)
    one.step(batch)  # warms up: the bins are made on the host, once
    watched(lambda: one.step(batch))


X = torch.zeros(4, device="meta")
FAULTS = {
    "item": lambda: X.sum().item(),
    "if": lambda: 1 if X.sum() > 0 else 0,
    "tolist": lambda: X.tolist(),
    "cpu": lambda: X.cpu(),
    "nonzero": lambda: X.nonzero(),
    "a mask": lambda: X[X > 0],
    "a list as an index": lambda: X[[0, 1]],
    "a tensor of numbers": lambda: torch.tensor([0.05, 0.95], device="meta"),
    "a tensor of one number": lambda: torch.as_tensor(1.0, device="meta"),
    "new_tensor": lambda: X.new_tensor([1.0]),
    "a tensor from the host": lambda: torch.ones(4).to("meta"),
    "a scalar from the host": lambda: X.clamp(max=torch.ones(())),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault):
    with pytest.raises((AssertionError, RuntimeError)):  # NotImplementedError is a RuntimeError
        watched(FAULTS[fault])
    watched(lambda: torch.where(X > 0, X * 0.5, 0.0) + 0.9**X)  # numbers as such are no copies


def test_a_fault_in_the_update_is_found(on_meta, monkeypatch):
    one, batch = on_meta(DISCRETE)
    range_of = one.range.update
    monkeypatch.setattr(one.range, "update", lambda ret: range_of(ret) * torch.tensor(1.0, device="meta"))
    with pytest.raises(AssertionError, match="built-in method tensor"):
        watched(lambda: one.step(batch))


# --- the real thing


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device")
@KINDS
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_cuda_five_replays_are_five_eager_updates(small, random_batch, spaces, precision):
    """With the same draws.  bf16: only the first, rounding adds up."""
    runs = []
    for compiled in (False, True):
        cfg = small(compile=compiled, precision=precision)
        seed_everything(0)
        one = Learner(DreamerV3Agent(cfg, EnvSpec(cfg.env, {}), spaces, "cuda"), NonFiniteGuard())
        assert isinstance(one.run, GraphedUpdate) == compiled
        curve = []
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            seed_everything(1)
            for seed in range(5):
                batch = {name: part.cuda() for name, part in random_batch(spaces, seed=seed).items()}
                curve.append(one.update(batch)[0])
        one.guard.flush()
        assert one.guard.skipped == 0 and one.optimizer.count == 5
        runs.append((curve, one.tensors()))
    (eager, state), (graphed, replayed) = runs
    if precision == "fp32":
        torch.testing.assert_close([graphed, replayed], [eager, state], rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(graphed[0], eager[0], rtol=0.05, atol=0.02)
