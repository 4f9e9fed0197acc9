"""The command line: layers, counts, one-line errors, --resume, JSON, run folders."""

import json
import os
import subprocess
import sys
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from common import cli, device
from common.cli import (
    EvalArgs,
    RunConfig,
    from_json,
    link_latest,
    new_run_dir,
    parse_count,
    parse_eval,
    parse_train,
    parse_visualize,
    resolve,
    run_main,
    save_config,
    start_block,
    to_json,
)
from common.config import fields_of, override
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """A nested part."""

    updates: int = 10_000
    """Gradient steps."""
    epochs: int | None = None
    """Passes over the frames."""
    lr: float = 1e-3
    """Learning rate."""
    kernels: tuple[int, ...] = (4, 4, 4, 4)
    """Kernel sizes."""
    act: Literal["relu", "elu"] = "relu"
    """Activation."""
    use_kl: bool = True
    """Add the KL term."""


@dataclass(frozen=True, kw_only=True)
class PaperConfig(RunConfig):
    """The stand-in's config."""

    vae: VAEConfig = VAEConfig()
    scales: tuple[tuple[str, float], ...] = (("image", 1.0), ("kl", 0.5))
    """Loss scales."""
    maybe: VAEConfig | None = None
    """A part that may be absent."""


@dataclass(frozen=True, kw_only=True)
class StageArgs:
    """Flags that are no part of the config."""

    stage: str = "all"
    """Which stage to run."""


PRESETS = {
    "tiny": PaperConfig(vae=VAEConfig(updates=100), steps=1000),
    "cpu": PaperConfig(vae=VAEConfig(updates=5000)),
    "paper": PaperConfig(),
}
SUITES = {
    "toy": {"tiny": {"vae.updates": 200, "steps": 2000}, "paper": {"num_envs": 4}},
    "toy_catch": {"tiny": {"vae.updates": 300}},
}
SIZES = {"size": {"small": {"vae.lr": 0.5}, "big": {"vae.lr": 0.25}}}


@pytest.fixture(autouse=True)
def known_envs(monkeypatch):
    """Three environments, so that these tests stand apart from the real list."""

    def check_name(name):
        if name not in ("toy_dodge", "toy_catch", "CarRacing-v3"):
            raise UserError(f"unknown environment {name!r}")

    stub = types.ModuleType("common.env_wrapper")
    stub.check_name = check_name
    stub.suite_of = lambda name: "toy" if name.startswith("toy_") else "box2d_car"
    stub.resolve_name = lambda name: (
        ("CarRacing-v3", "CarRacing-v2 is retired: using CarRacing-v3")
        if name == "CarRacing-v2"
        else (name, None)
    )
    monkeypatch.setitem(sys.modules, "common.env_wrapper", stub)


def train(line: str, **options):
    options = {"default_env": "toy_dodge", "description": "Train it.", **options}
    return parse_train(line.split(), PRESETS, SUITES, **options)


def refused(line: str, **options) -> str:
    with pytest.raises(UserError) as error:
        train(line, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_later_layer_wins():
    assert resolve(PRESETS, {}, "tiny", "toy_dodge")[0].vae.updates == 100
    assert resolve(PRESETS, SUITES, "tiny", "toy_dodge")[0].vae.updates == 200
    assert resolve(PRESETS, SUITES, "tiny", "toy_catch")[0].vae.updates == 300
    assert resolve(PRESETS, SUITES, "tiny", "toy_catch", {"vae.updates": 400})[0].vae.updates == 400
    command = train("--preset tiny --env toy_catch --vae.updates 400 --seed 7")
    assert (command.config.vae.updates, command.config.steps, command.config.seed) == (400, 2000, 7)
    assert [layer.name for layer in command.layers] == [
        "preset tiny",
        "suite toy",
        "env toy_catch",
        "command line",
    ]
    assert command.layers[0].values == {"steps": 1000, "vae.updates": 100}
    assert command.layers[-1].values == {"env": "toy_catch", "seed": 7, "vae.updates": 400}
    assert PRESETS["tiny"].vae.updates == 100, "a layer changed the preset itself"


def test_a_flag_equal_to_the_default_still_counts_as_given():
    command = train("--preset paper --vae.no-use-kl --vae.lr=0.001")
    assert command.given == {"vae.use_kl", "vae.lr"} and not command.env_given
    assert command.config.vae.use_kl is False
    assert train("--preset paper --env toy_dodge").env_given


def test_a_wrong_field_in_a_layer_is_named():
    with pytest.raises(ValueError, match="vae.update"):
        resolve(PRESETS, {"toy": {"tiny": {"vae.update": 1}}}, "tiny", "toy_dodge")


@pytest.mark.parametrize(
    ("text", "value"), [("1e6", 10**6), ("1_000_000", 10**6), ("2.5e3", 2500), ("-3", -3)]
)
def test_counts(text, value):
    assert parse_count(text) == value
    assert train(f"--preset cpu --vae.updates {text}").config.vae.updates == value
    assert train(f"--preset cpu --vae.epochs={text}").config.vae.epochs == value


def test_counts_are_exact_beyond_floats():
    assert parse_count("9007199254740993") == 9007199254740993
    assert train("--preset cpu --vae.kernels 1e1 2 3").config.vae.kernels == (10, 2, 3)


@pytest.mark.parametrize("text", ["1.5", "many", "inf", "nan", ""])
def test_no_count(text):
    with pytest.raises(ValueError):
        parse_count(text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--step 3", ["unknown flag --step (did you mean --steps?)"]),
        ("--updates 3", ["unknown flag --updates", "did you mean --vae.updates?"]),
        ("--vae.update=3", ["unknown flag --vae.update ", "--vae.updates"]),
        ("--num_env 3", ["unknown flag --num_env ", "--num-envs"]),
        ("--presett tiny", ["did you mean --preset?"]),
        ("--epoch 3", ["did you mean --epochs?"]),
        ("--xyzzy", ["unknown flag --xyzzy (see --help)"]),
        ("--steps 1.5", ["--steps 1.5", "whole number"]),
        ("--vae.updates x", ["--vae.updates x", "1e6"]),
        ("--vae.lr fast", ["--vae.lr fast", "must be a number"]),
        ("--vae.act gelu", ["--vae.act gelu", "relu, elu"]),
        ("--device gpu", ["--device gpu", "auto, cpu, cuda, mps"]),
        ("--steps", ["--steps needs a value"]),
        ("--vae.use-kl False", ["unexpected argument 'False'"]),
        ("--steps -5", ["--steps -5", "at least 1"]),
        ("--num-envs 0", ["--num-envs 0", "at least 1"]),
        ("--seed -1", ["--seed -1", "at least 0"]),
        ("--preset huge", ["'huge'", "tiny|cpu|paper"]),
        ("--env toy_doge", ["unknown environment 'toy_doge'"]),
        ("--resume /nowhere", ["/nowhere", "config.json"]),
    ],
)
def test_bad_input_is_one_line(line, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # a narrow terminal wraps tyro's messages
    told = refused(
        line if "--preset" in line else f"--preset tiny {line}", dotted_aliases={"epochs": "vae.epochs"}
    )
    assert all(word in told for word in words), told


def test_aliases_variants_and_extra_flags():
    options = {"dotted_aliases": {"epochs": "vae.epochs"}, "variants": SIZES, "extra": StageArgs}
    command = train("--preset tiny --epochs 10 --size big --stage vae", **options)
    assert (command.config.vae.epochs, command.config.vae.lr, command.extra.stage) == (10, 0.25, "vae")
    assert [layer.name for layer in command.layers][-2:] == ["size big", "command line"]
    assert command.layers[-1].values == {"vae.epochs": 10}
    assert train("--preset tiny --size big --vae.lr 0.1", **options).config.vae.lr == 0.1
    assert "small, big" in refused("--preset tiny --size huge", **options)


def test_retired_env_is_replaced_with_a_notice():
    command = train("--preset tiny --env CarRacing-v2")
    assert command.config.env == "CarRacing-v3"
    assert any("retired" in notice for notice in command.notices)


def test_default_preset_says_why(monkeypatch):
    for has_cuda, name in ((True, "paper"), (False, "tiny")):
        monkeypatch.setattr(
            cli, "cuda_without_torch", lambda has_cuda=has_cuda: (has_cuda, f"cuda {has_cuda}")
        )
        command = train("")
        assert command.preset == name and command.notices[0].startswith(f"preset {name}: cuda {has_cuda}")
    monkeypatch.setattr(cli, "cuda_without_torch", lambda: (True, ""))
    assert train("--device cpu").preset == "tiny", "nobody wants the paper's size on a CPU"
    monkeypatch.undo()
    monkeypatch.setattr(device.importlib.metadata, "version", lambda name: "2.13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert device.cuda_without_torch()[0] is False
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(device.Path, "exists", lambda path: str(path) == "/dev/nvidiactl")
    assert device.cuda_without_torch()[0] is (os.name != "nt")
    monkeypatch.setattr(device.importlib.metadata, "version", lambda name: "2.13.0+cpu")
    assert device.cuda_without_torch() == (False, "torch 2.13.0+cpu is a CPU build")


def test_resume_keeps_the_run_and_says_what_flags_changed(tmp_path):
    first = train("--preset cpu --env toy_catch --vae.updates 77 --seed 3")
    save_config(tmp_path, first.config, paper="stand_in", preset=first.preset)
    again = train(f"--resume {tmp_path}")
    assert again.config == first.config and again.preset == "cpu" and again.resume == tmp_path
    changed = train(f"--resume {tmp_path} --vae.lr 0.5 --seed 3 --env toy_catch")
    assert changed.config.vae.lr == 0.5 and changed.config.vae.updates == 77
    assert [line for line in changed.notices if "override" in line] == ["override vae.lr: 0.001 -> 0.5"]
    assert "start a new run" in refused(f"--resume {tmp_path} --env toy_dodge")
    assert "--preset tiny" in refused(f"--resume {tmp_path} --preset tiny")
    for torn in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(torn)
        assert "config.json" in refused(f"--resume {tmp_path}")


def test_config_survives_json():
    config = override(PRESETS["tiny"], {"maybe": VAEConfig(kernels=(1, 2)), "logdir": "runs/x"})
    assert from_json(PaperConfig, json.loads(json.dumps(to_json(config)))) == config
    data = to_json(config)
    data["vae"]["lr"] = 1  # a writer that drops ".0"
    assert type(from_json(PaperConfig, data).vae.lr) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["vae"].pop("lr"), ["config.vae", "missing lr"]),
        (lambda d: d["vae"].update(old=1, older=2), ["unknown old, older"]),
        (lambda d: d.update(vae=None), ["config.vae"]),
        (lambda d: d["vae"].update(act="gelu"), ["config.vae.act", "gelu"]),
        (lambda d: d["vae"].update(updates="9"), ["config.vae.updates", "'9'"]),
    ],
)
def test_a_foreign_config_is_refused(change, words):
    data = to_json(PRESETS["tiny"])
    change(data)
    with pytest.raises(UserError) as error:
        from_json(PaperConfig, data)
    assert all(word in str(error.value) for word in words), error.value


def test_to_json_refuses_what_json_cannot_hold():
    with pytest.raises(TypeError, match="plain"):
        to_json(override(PRESETS["tiny"], {"logdir": Path("x")}))


def test_eval_and_visualize_arguments(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class CarArgs(EvalArgs):
        tracks: int = 100
        """Held-out tracks."""

    with pytest.raises(UserError, match="train first"):
        parse_eval(["--checkpoint", str(tmp_path)])
    model = tmp_path / "model.pt"
    model.write_bytes(b"x")
    line = ["--checkpoint", str(tmp_path), "--episodes", "1e2", "--render", "--tracks", "5"]
    args = parse_eval(line, args=CarArgs)
    assert (args.checkpoint, args.episodes, args.render, args.tracks) == (model, 100, True, 5)
    assert parse_visualize(["--checkpoint", str(model), "--num-dreams", "2"]).num_dreams == 2
    for bad in (["--episodes", "0"], ["--env", "nope"], ["--episode", "3"]):
        with pytest.raises(UserError):
            parse_eval(["--checkpoint", str(model), *bad])
    with pytest.raises(UserError, match="--context 0"):
        parse_visualize(["--checkpoint", str(model), "--context", "0"])


def test_run_main_exit_codes(capsys):
    def fails(error):
        def main():
            raise error

        return main

    for main, code, said in (
        (fails(UserError("no such thing")), 2, "error: no such thing\n"),
        (fails(KeyboardInterrupt()), 130, "interrupted\n"),
        (lambda: None, 0, ""),
    ):
        with pytest.raises(SystemExit) as stop:
            run_main(main)
        assert stop.value.code == code and capsys.readouterr().err == said
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        run_main(fails(ZeroDivisionError()))


@pytest.mark.skipif(os.name == "nt", reason="pipes of a Unix shell")
def test_a_reader_that_leaves_is_no_error():
    code = "from common.cli import run_main; run_main(lambda: print('line\\n' * 100_000))"
    command = f'"{sys.executable}" -c "{code}" | head -1'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "line\n" and done.stderr == ""


def test_run_folders(tmp_path):
    first = new_run_dir(None, "ALE/Pong-v5", 3, tmp_path)
    second = new_run_dir(None, "ALE/Pong-v5", 3, tmp_path)
    assert first != second and first.is_dir() and first.parent == tmp_path / "runs" / "ALE_Pong-v5"
    assert "-s3" in first.name
    mine = new_run_dir(tmp_path / "mine", "toy_dodge", 0, tmp_path)
    save_config(mine, PRESETS["tiny"], paper="stand_in")
    with pytest.raises(UserError, match="--resume"):
        new_run_dir(mine, "toy_dodge", 0, tmp_path)
    with pytest.raises(UserError, match="--logdir"):
        new_run_dir(mine / "config.json", "toy_dodge", 0, tmp_path)


def test_config_file_records_where_a_result_came_from(tmp_path):
    save_config(tmp_path, PRESETS["tiny"], paper="stand_in", preset="tiny", env_spec={"name": "toy_dodge"})
    data = json.loads((tmp_path / "config.json").read_text())
    assert {"paper", "preset", "config", "git", "versions", "machine", "command", "env_spec"} <= data.keys()
    assert (
        data["versions"]["python"] == ".".join(map(str, sys.version_info[:3])) and "torch" in data["versions"]
    )


def test_link_to_the_newest_run(tmp_path):
    for name in ("a", "b"):
        model = tmp_path / "runs" / name / "model.pt"
        model.parent.mkdir(parents=True)
        model.write_text(name)
        assert link_latest(tmp_path, model) is None
        assert (tmp_path / "model.pt").read_text() == name
    assert not os.path.isabs(os.readlink(tmp_path / "model.pt")), "a moved repository keeps its links"
    (tmp_path / "model.pt").unlink()
    (tmp_path / "model.pt").write_text("the user's own")
    assert "stays" in link_latest(tmp_path, model)
    assert (tmp_path / "model.pt").read_text() == "the user's own"


def test_start_block():
    command = train("--preset tiny --seed 3")
    block = start_block(
        command,
        run_dir=Path("runs/x"),
        parameters={"vae": 4_348_547, "rnn": 422_368},
        published={"vae": 4_348_547},
        frames=1000,
        policy_steps=250,
        updates={"vae": 2000, "rnn": 10_000},
        forecasts=["replay: 1.2 GB of RAM"],
    )
    assert block.startswith("preset tiny: asked for\n")
    for line in (
        "vae: 4,348,547  (paper: 4,348,547)\n",
        "rnn: 422,368\n",
        "total: 4,770,915\n",
        "suite toy: vae.updates=200, steps=2000\n",
        "command line: seed=3\n",
        "frames to come: 1,000 = 250 policy steps\n",
        "gradient steps to come: vae 2,000, rnn 10,000\n",
        "replay: 1.2 GB of RAM\n",
    ):
        assert line in block, block
    assert block.endswith("run folder: runs/x")


def test_every_field_of_the_shared_flags_is_explained():
    for cls in (RunConfig, cli.EvalArgs, cli.VisualizeArgs):
        source = Path(sys.modules[cls.__module__].__file__).read_text()
        for name, _ in fields_of(cls()):
            assert any(line.strip().startswith(f"{name}:") for line in source.splitlines()), name


HELP = """
import sys, types
stub = types.ModuleType("common.env_wrapper")
stub.check_name = lambda name: None
stub.suite_of, stub.resolve_name = (lambda name: "toy"), (lambda name: (name, None))
sys.modules["common.env_wrapper"] = stub
from common.cli import RunConfig, parse_train, run_main
def main():
    parse_train(None, {"tiny": RunConfig()}, {}, default_env="toy_dodge", description="Train it.")
try:
    run_main(main)
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(("flags", "code"), [(["--help"], 0), (["--step", "3"], 2)])
def test_answers_at_once_without_torch(flags, code):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", HELP, *flags], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    seconds = time.perf_counter() - start
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr == "error: unknown flag --step (did you mean --steps?)\n"
    else:
        assert "--num-envs" in done.stdout and "side by side" in done.stdout and done.stderr == ""
    assert seconds < 5, seconds  # about 0.3 s on a quiet machine; a test machine may be busy
