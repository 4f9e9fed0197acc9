"""Signals that let a loop save once more, and losses that are no longer numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from common.errors import UserError
from common.faults import NonFiniteGuard, SignalGuard, children_ignore_interrupts, finite_flags

NAN, INF = float("nan"), float("inf")


def losses(image=1.0, rew=1.0, kl=1.0) -> dict[str, torch.Tensor]:
    """Named losses [2, 3], each value in one place only."""
    out = {"image": image, "rew": rew, "kl": kl}
    return {
        name: torch.ones(2, 3).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(v))
        for name, v in out.items()
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(number):
    before = [signal.getsignal(n) for n in SignalGuard.SIGNALS]
    steps = 0
    with SignalGuard() as guard:
        while not guard.stop_requested:
            steps += 1
            if steps == 3:
                os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)  # again: a scheduler, or make, may send it twice
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)  # the signal ends it at once
    assert steps == 3
    assert [signal.getsignal(n) for n in SignalGuard.SIGNALS] == before


def test_a_guard_outside_the_main_thread_is_only_a_flag():
    seen = []

    def work():
        with SignalGuard() as guard, children_ignore_interrupts():
            seen.append(guard.stop_requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


def test_workers_do_not_answer_to_ctrl_c():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    with children_ignore_interrupts():
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout == "alive\n"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout == "" and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loop_saves_once_more_and_leaves(tmp_path):
    """The whole thing in a process of its own: SIGTERM, a last save, exit code 0."""
    code = f"""
import time, pathlib
from common.faults import SignalGuard
with SignalGuard() as guard:
    print("ready", flush=True)
    while not guard.stop_requested:
        time.sleep(0.01)
pathlib.Path({str(tmp_path)!r}, "saved").touch()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=20)
    assert child.returncode == 0 and (tmp_path / "saved").exists()
    assert "SIGTERM: saving once more" in told


def test_finite_flags():
    assert finite_flags(losses()).tolist() == [True] * 4
    assert finite_flags(losses(rew=NAN), torch.tensor(1.0)).tolist() == [True, False, True, True]
    assert finite_flags(losses(kl=-INF), INF).tolist() == [True, True, False, False]
    assert finite_flags({"loss": torch.tensor(2.0, requires_grad=True)}, 1.0).requires_grad is False


def test_the_update_is_skipped_and_the_first_culprit_named(caplog):
    guard = NonFiniteGuard(limit=3, checkpoint="runs/a/model.pt")
    assert not guard.skip(losses(), 1.0)
    assert guard.skip(losses(rew=NAN), NAN) and guard.skip(losses(image=INF, kl=NAN), NAN)
    assert "rew is not finite" in caplog.text and "image" not in caplog.text
    assert not guard.skip(losses(), 1.0)  # a good one in between: the count starts again
    assert guard.skip(losses(), NAN) and guard.skip(losses(image=NAN), 1.0)
    with pytest.raises(UserError) as error:
        guard.skip(losses(kl=NAN), 1.0)
    assert guard.skipped == 5
    line = str(error.value)
    assert "\n" not in line and "3 updates in a row" in line and "runs/a/model.pt" in line
    assert "first the gradient norm;" in line


def test_without_a_checkpoint_the_line_says_so():
    with pytest.raises(UserError, match="first kl; nothing was saved yet"):
        NonFiniteGuard(limit=1).skip(losses(kl=NAN))


def test_deferred_counting_finds_the_same():
    guard = NonFiniteGuard(limit=3)
    for bad in (NAN, 1.0, NAN, INF):
        guard.record(losses(rew=bad), finite_flags(losses(rew=bad), 1.0))
    assert guard.skipped == 0
    guard.flush()
    guard.flush()  # nothing twice
    assert guard.skipped == 3
    guard.record(losses(image=NAN), finite_flags(losses(image=NAN), 1.0))
    with pytest.raises(UserError, match="3 updates in a row were not finite, first rew"):
        guard.flush()


def test_a_skipped_update_leaves_the_weights_alone():
    """The documented loop: one batch in three is poisoned, the weights stay finite and the rest learns."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optim = torch.optim.Adam(model.parameters(), 0.05)
    guard, history = NonFiniteGuard(limit=2), []
    for step in range(150):
        x = torch.randn(16, 2)
        y = x.sum(1, keepdim=True) * (NAN if step % 3 == 1 else 1.0)
        loss = {"mse": (model(x) - y).square()}
        optim.zero_grad()
        loss["mse"].mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        if guard.skip(loss, norm):
            continue
        optim.step()
        history.append(loss["mse"].mean().item())
    assert guard.skipped == 50 and history[-1] < 0.01 * history[0]
