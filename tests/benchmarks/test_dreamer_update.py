"""benchmarks/dreamer_update.py at a tiny size: its FLOP, its split, the port beside it."""

import json
import stat
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import dreamer_update
from benchmarks.dreamer_subjects import CASES, CPU_WAYS, Port, Subject
from benchmarks.results import ROOT
from common.errors import UserError

SMALL = {"replay.batch": 1, "replay.length": 2}
PAPERS = ["DreamerV1 tiny", "DreamerV2 tiny", "DreamerV3 tiny"]


def small(name: str, way: str = "eager", **changes) -> Subject:
    case = replace(CASES[name], updates=1, changes=CASES[name].changes | SMALL | changes)
    return Subject(case, CPU_WAYS[way])


def burn(seconds: float) -> None:
    """CPU time, which no other process can take away."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(10_000))


def test_quick_run(tmp_path, capsys):
    out = tmp_path / "speed" / "update.json"
    dreamer_update.main(["--quick", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    ours = {label: row for label, row in rows.items() if "sheeprl" not in label}
    assert len([label for label in ours if "eager" in label]) == len(CASES)
    for row in ours.values():
        if "cpu_ms" in row:
            assert row["model_ms"] + row["imagine_ms"] + row["behave_ms"] == pytest.approx(
                row["cpu_ms"], abs=0.2
            )
        assert min(row["wall_ms"], row["gflop"], row["gemm_gflops"], row["times_flop"]) > 0
    assert not any("of_port" in row for row in rows.values())  # two rows of a batch are no comparison
    printed = capsys.readouterr().out
    assert all(label in printed for label in rows)


@pytest.mark.parametrize(
    ("name", "states", "parameters"), [("V1 10 x 50", 500, 6_288_833), ("V2 4 x 50", 200, 22_245_398)]
)
def test_the_flop_of_the_sheets(name, states, parameters):
    """About 190 and 200 GFLOP; every product and convolution is linear in the number of rows."""
    subject = small(f"Dreamer{name}")
    assert subject.flop() * states / 2 == pytest.approx(190e9, rel=0.02)
    assert subject.parameters == parameters


@pytest.mark.parametrize("name", PAPERS)
def test_time_is_charged_to_the_part_that_takes_it(name, monkeypatch):
    subject = small(name, **{"behaviour.horizon": 2})
    parts = {
        0: (subject.agent.model, "loss"),
        1: (subject.agent.model.rssm, "imagine"),
        2: (subject.behaviour, "weights" if hasattr(subject.behaviour, "weights") else "alive"),
    }
    subject.measure()  # what runs once
    for part, (owner, function) in parts.items():
        with monkeypatch.context() as patched:
            inner = getattr(owner, function)
            patched.setattr(owner, function, lambda *args, inner=inner: burn(0.1) or inner(*args))
            spans = subject.measure()
        times = 2 if part == 1 else 1
        assert spans[part, 0] > 0.1 * times and np.delete(spans[:, 0], part).max() < 0.1
        assert (spans[:, 1] > 0.9 * spans[:, 0]).all()
    assert subject.behaviour.imagine.__name__ == "imagine"  # nothing stays patched


def test_a_graph_has_no_parts():
    subject = small("DreamerV3 tiny")
    outputs = subject.learner.run(*subject.args)
    subject.learner.run = lambda batch: burn(0.05) or outputs  # calls neither the model nor `imagine`
    spans = subject.measure()
    assert spans.shape == (1, 2) and (spans > 0.05).all()
    row = dreamer_update.row(spans[None], np.array([1e9]), 1e9, subject)
    assert row["cpu_ms"] > 50 and "model_ms" not in row


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_compiled_is_measured_and_equals_eager(name):
    import torch

    found = []
    for way in CPU_WAYS:
        torch.manual_seed(0)
        subject = small(name, way)
        is_compiled = hasattr(subject.agent.model.rssm.imagine, "_torchdynamo_orig_callable")
        assert is_compiled == (way == "compiled")
        torch.manual_seed(1)
        metrics = subject.learner.update(*subject.args)
        found.append(metrics[0]["loss/total"] if isinstance(metrics, tuple) else metrics["loss/model"])
    assert torch.isfinite(found[0]) and found[1] == pytest.approx(found[0].item(), rel=1e-4)


def fake_python(path, answer: str):
    """What stands in for a Python that has sheeprl."""
    path.write_text(f"#!{sys.executable}\nimport sys\nprint('a warning')\n{answer}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return path


def test_a_port_in_a_process_of_its_own(tmp_path):
    answers = "print('[\"0.5\", 7]', flush=True)\nfor _ in sys.stdin: print('[1.5, 2.5]', flush=True)"
    port = Port(fake_python(tmp_path / "python", answers), "dreamer_v1")
    assert (port.version, port.parameters) == ("0.5", 7)
    assert port.measure().tolist() == [[1.5, 2.5]] and port.measure().shape == (1, 2)
    port.close()
    assert port.process.returncode == 0
    with pytest.raises(UserError, match="leave --peers out"):
        Port(fake_python(tmp_path / "broken", "sys.exit(1)"), "dreamer_v1")


def test_rows_beside_a_port():
    ours = {f"{name}, eager": {"cpu_ms": 4150.0, "gemm_gflops": 49.0} for name in CASES}
    rows = dreamer_update.port_rows(ours, {}, {})
    assert len(rows) == 5 and all("recorded" in label for label in rows)
    assert next(iter(rows.values()))["cpu_ms"] == 8300  # 4.15 s at 98 GFLOP/s are 8.3 s at half the rate
    assert (
        ours["DreamerV1 10 x 50, eager"]["of_port"] == 0.5 and "of_port" not in ours["DreamerV1 tiny, eager"]
    )

    port = type("Measured", (), {"version": "0.5", "parameters": 7})()
    spans = {"DreamerV1 10 x 50": [np.array([[second, 2 * second]]) for second in (1, 3, 2)]}
    rows = dreamer_update.port_rows(ours, {"DreamerV1 10 x 50": port}, spans)
    assert rows["DreamerV1 10 x 50, sheeprl 0.5"] == {"cpu_ms": 2000, "wall_ms": 4000, "parameters": 7}


def test_bad_input_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--rounds 0"):
        dreamer_update.main(["--rounds", "0"])
    with pytest.raises(UserError, match=r"--peers .*nowhere: no such file"):
        dreamer_update.ports(dreamer_update.Args(peers=tmp_path / "nowhere"))


def test_the_adapter_names_what_it_copies_the_sizes_of():
    """sheeprl_update.py runs where our packages are missing, so it repeats the sizes."""
    source = (ROOT / "benchmarks" / "sheeprl_update.py").read_text()
    assert "import torch" in source and "from benchmarks" not in source and "from common" not in source
    for name, sizes in (
        ("DreamerV1 10 x 50", "(10, (3, 64, 64), 6, True"),
        ("DreamerV2 4 x 50", "(4, (1, 64, 64), 18, False"),
    ):
        case = CASES[name]
        (H, W, C), batch = case.spaces.obs["image"], case.changes["replay.batch"]
        assert (
            f"({batch}, {(C, H, W)}, {case.spaces.act}, {not case.spaces.discrete}" == sizes
            and sizes in source
        )
