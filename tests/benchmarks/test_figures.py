"""Results as data: runs are recorded without this machine's paths, and the READMEs say what the files say."""

import json
import re
import shlex
from pathlib import Path

import pytest

from benchmarks import figures, plots, record, tables
from benchmarks.figures import EMPTY, draw, draw_table, plot_data, stale
from benchmarks.plots import Plot
from benchmarks.results import CURVE, LEARNING, ROOT, load_records, read_curve
from benchmarks.tables import Column, Table
from common.cli import parse_train
from common.config import to_json
from common.errors import UserError
from paper1_world_models import train
from paper1_world_models.presets import PRESETS, SUITES

HEAD = ",".join(CURVE)
RUNS = Table(
    where={"group": "toy_dodge"},
    columns=(tables.RUN, tables.SCORE, tables.WAY, tables.DREAM, tables.SEEDS, tables.CPU, tables.COMMAND),
    baselines=("random", "blind", "optimum", "published"),
    order=("real environment", "z only"),
)


def write_run(folder: Path, seed: int, mean: float, **more) -> Path:
    """A run folder as train.py and eval.py leave it."""
    run = folder / f"run-{mean}"
    run.mkdir(parents=True)
    config = {
        "paper": "paper1_world_models",
        "preset": "tiny",
        "config": {"env": "toy_dodge", "seed": seed},
        "command": [
            f"{ROOT}/paper1_world_models/train.py",
            "--seed",
            str(seed),
            "--logdir",
            str(ROOT / "runs/x"),
        ],
    }
    (run / "config.json").write_text(json.dumps(config))
    (run / "curve.csv").write_text(f"{HEAD}\n1000,1000,5,10,20,30,25,35,8\n2000,2000,9,50,90,{mean},1,2,8\n")
    score = {"mean": mean, "sd": 1.0, "ci95": [mean - 3, mean + 3], "episodes": 100}
    baselines = {"random": {"value": 25.5}, "blind": 33.9, "optimum": {"value": 200.0}, "published": None}
    (run / "eval.json").write_text(json.dumps({"score": score, **baselines, **more}))
    return run


def keep(run: Path, out: Path, *flags: str) -> Path:
    """Record it by the command line."""
    args = figures.parse(record.RecordArgs, [str(run), "--out", str(out), *flags], "")
    return record.record(args)


@pytest.fixture
def recorded(tmp_path):
    """A repository with five runs of two kinds."""
    out = tmp_path / LEARNING.relative_to(ROOT)
    for seed, mean in ((0, 180.0), (1, 190.0), (2, 200.0)):
        run = write_run(tmp_path / "elsewhere", seed, mean, dream={"mean": 100.0 + seed})
        keep(run, out, "--label", "real environment")
    run = write_run(tmp_path / "elsewhere", 0, 133.8, sweep=[{"x": 20, "real": 1.0}, {"x": 40, "real": 3.0}])
    keep(run, out, "--label", "z only", "--name", "z-only")
    return tmp_path


def test_a_recorded_run_is_complete_and_portable(tmp_path):
    folder = keep(write_run(tmp_path, 3, 150.0), tmp_path / "out", "--name", "z only")
    assert folder.relative_to(tmp_path / "out").as_posix() == "paper1_world_models/toy_dodge-tiny-z_only-s3"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "curve.csv", "eval.json"]
    data = json.loads((folder / "eval.json").read_text())
    assert (data["frames"], data["cpu_s"], data["wall_s"]) == (2000, 90, 50)  # the curve's last row
    assert (data["label"], data["group"], data["preset"]) == ("z only", "toy_dodge", "tiny")
    assert data["train_command"] == "python train.py --seed 3 --logdir runs/x"
    assert all(str(ROOT) not in path.read_text() for path in folder.iterdir())
    assert read_curve(folder / "curve.csv")["ret_mean"].tolist() == [30, 150]


def test_the_command_can_be_repeated_anywhere():
    argv = [
        "/home/me/train.py",
        "--logdir",
        "runs/my run",
        "--env",
        "toy_dodge",
        "--rnn.hidden=8",
        "--logdir=b",
    ]
    wanted = "python train.py --env toy_dodge --rnn.hidden=8 --seed 2 --logdir runs/b"
    assert record.train_command(argv, 2) == wanted
    assert record.train_command(["train.py", "--seed=4", "--steps", "9"], 4) == (
        "python train.py --steps 9 --seed 4"
    )
    assert record.train_command(["train.py", "--resume", "/x/a"], 4) == "python train.py --resume runs/a"


def test_the_seed_of_an_experiment_is_its_own():
    """experiments.py --seed is the first held-out episode, not the base run's seed."""
    words = [f"{ROOT}/paper1_world_models/experiments.py", "cheat", "--base", f"{ROOT}/runs/dodge-s2/"]
    assert record.train_command(words, 2) == "python experiments.py cheat --base runs/dodge-s2"
    command = "python experiments.py cheat --base runs/dodge-s2 --seed 50000"
    assert record.train_command([*words, "--seed", "50000"], 2) == command


def test_lists_of_plain_values_take_one_line():
    tree = {"returns": [1.0, 2.5], "sweep": [{"x": [1, 2]}], "text": "a, [\n b", "none": []}
    assert json.loads(record.compact(tree)) == tree
    assert '"returns": [1.0, 2.5]' in record.compact(tree)


def test_without_a_curve_the_evaluations_of_the_metrics_make_one(tmp_path):
    run = write_run(tmp_path, 0, 150.0)
    (run / "curve.csv").unlink()
    rows = [{"step": 10, "time": 1.0, "loss": 3}, {"step": 20, "time": 2.0, "ret_mean": 7.0, "episodes": 4}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curve = read_curve(keep(run, tmp_path / "out") / "curve.csv")
    assert (curve["frames"].tolist(), curve["wall_s"].tolist(), curve["ret_mean"].tolist()) == (
        [20],
        [2],
        [7],
    )


@pytest.mark.parametrize(
    "name, words", [("eval.json", "eval.py --checkpoint"), ("curve.csv", "--eval-every")]
)
def test_what_is_missing_is_named_with_the_next_command(tmp_path, name, words):
    run = write_run(tmp_path, 0, 150.0)
    (run / name).unlink()
    with pytest.raises(UserError, match=words):
        keep(run, tmp_path / "out")
    with pytest.raises(UserError, match="no run folder"):
        keep(tmp_path / "nothing", tmp_path / "out")


def test_a_foreign_curve_is_refused(tmp_path):
    run = write_run(tmp_path, 0, 150.0)
    (run / "curve.csv").write_text("frames,ret_mean\n1,2\n")
    with pytest.raises(UserError, match="lacks the columns policy_steps"):
        keep(run, tmp_path / "out")


def test_a_run_does_not_take_another_ones_place(tmp_path):
    run, out = write_run(tmp_path, 0, 150.0), tmp_path / "out"
    kept = keep(run, out, "--label", "one", "--group", "board of 4")
    assert keep(run, out, "--label", "one", "--group", "board of 4") == kept  # the same row, measured anew
    with pytest.raises(UserError, match="'one' of 'board of 4': give this run another --name"):
        keep(run, out, "--label", "one", "--group", "board of 5")


def test_a_table_averages_the_seeds_of_a_label(recorded):
    lines = draw_table(RUNS, load_records(recorded / LEARNING.relative_to(ROOT))).splitlines()
    assert lines[0].startswith("| run | return | of the way | in the dream | seeds |")
    assert lines[2].startswith("| *random* | 25.5 |") and lines[4].startswith("| *optimum* | 200.0 |")
    assert not any("published" in line for line in lines)  # nothing was published
    assert "| real environment | 190.0 ± 10.0 | 94 % | 101.0 ± 1.0 | 3 | 1.5 |" in lines[5]
    assert "| `python train.py --seed S --logdir runs/x` |" in lines[5]  # one command for the three seeds
    assert "| `python train.py --seed 0 --logdir runs/x` |" in lines[6]
    assert "| z only | 133.8 (130.8 to 136.8) | 60 % |  | 1 |" in lines[6]  # one run: its own interval


def test_rows_inside_runs_and_empty_tables(recorded):
    records = load_records(recorded / LEARNING.relative_to(ROOT))
    columns = (Column("tics", "x"), Column("real", "real", "{:.1f}"), Column("never", "measured"))
    table = draw_table(Table({"label": "z only"}, columns, rows="sweep"), records)
    assert table == "| tics | real |\n| --- | ---: |\n| 20 | 1.0 |\n| 40 | 3.0 |\n"
    assert draw_table(Table({"label": "nothing"}, columns), records).strip() == EMPTY


def test_runs_of_one_recipe_share_a_row_and_beaten_baselines_have_theirs(tmp_path):
    blind = {"value": 40.0, "others": {"no-op": {"value": 20.0}}}
    for seed, command in ((0, "a --base runs/x-s0"), (1, "a --base runs/x-s1"), (1, "b --seed 50000")):
        mean = 50.0 + seed + len(command)
        run = write_run(tmp_path, seed, mean, train_command=command, label=command[0])
        data = json.loads((run / "eval.json").read_text())
        (run / "eval.json").write_text(json.dumps({**data, "blind": blind}))
        keep(run, tmp_path / "out", "--name", command[0])
    columns = (tables.RUN, tables.SCORE, tables.COMMAND)
    table = Table({}, columns, by=("recipe",), baselines=("blind.others.no-op", "blind"), order=("b",))
    lines = draw_table(table, load_records(tmp_path / "out")).splitlines()
    assert lines[1] == "| --- | ---: | --- |"
    assert lines[2:4] == ["| *no-op* | 20.0 |  |", "| *blind* | 40.0 |  |"]
    assert lines[4].startswith("| b | 65.0 ") and lines[4].endswith("| `b --seed 50000` |")
    assert lines[5].startswith("| a | 68.5 ± 0.7 ") and lines[5].endswith("| `a --base runs/x-sS` |")


def test_speed_tables_come_from_their_file(tmp_path):
    table = Table(
        {}, (Column("env", "name"), Column("steps", "value", "{:,.0f}")), rows="rates", file="speed/a.json"
    )
    assert draw_table(table, [], tmp_path).strip() == EMPTY
    (tmp_path / "benchmarks/speed").mkdir(parents=True)
    (tmp_path / "benchmarks/speed/a.json").write_text('{"rates": {"fast": 12000, "slow": {"value": 10}}}')
    body = draw_table(table, [], tmp_path).splitlines()[2:]
    assert body == ["| fast | 12,000 |", "| slow | 10 |"]


def test_plots_take_curves_or_rows(recorded):
    records = load_records(recorded / LEARNING.relative_to(ROOT))
    curves = plot_data(Plot({"group": "toy_dodge"}, "t"), records)
    assert len(curves["real environment"]) == 3 and curves["z only"] == [[[1000, 2000], [30, 133.8]]]
    points = Plot({"label": "z only"}, "t", Column("tics", "x"), (Column("real", "real"),), rows="sweep")
    assert plot_data(points, records) == {"real": [[[20, 40], [1.0, 3.0]]]}
    by_label = Plot({"group": "toy_dodge"}, "t", Column("run", "label"), (Column("real", "score.mean"),))
    assert plot_data(by_label, records) == {"real": [[["real environment", "z only"], [190.0, 133.8]]]}


def test_a_document_is_drawn_and_a_typed_score_is_found(recorded, monkeypatch):
    monkeypatch.setitem(tables.TABLES, "runs", RUNS)
    monkeypatch.setitem(plots.PLOTS, "curves", Plot({"group": "toy_dodge"}, "On ice"))
    page = recorded / "paper1" / "README.md"
    page.parent.mkdir()
    page.write_text(
        "# A\n<!-- table:runs -->\n<!-- /table:runs -->\ntext\n<!-- plot:curves -->\n<!-- /plot:curves -->\n"
    )
    assert stale(recorded) == [page]  # --check looks and does not write
    assert "190.0" not in page.read_text()
    assert stale(recorded, check=False) == [page]
    text = page.read_text()
    assert (
        "190.0 ± 10.0" in text and text.startswith("# A\n<!-- table:runs -->\n| run |") and "\ntext\n" in text
    )
    assert "![On ice](../benchmarks/figures/curves.png)" in text
    assert (recorded / "benchmarks/figures/curves.png").stat().st_size > 5000
    assert stale(recorded) == []
    page.write_text(text.replace("190.0 ±", "195.0 ±"))
    assert stale(recorded) == [page]
    stale(recorded, check=False)
    (recorded / "benchmarks/figures/curves.png").unlink()
    assert stale(recorded) == [page]


def test_new_data_makes_a_picture_stale(recorded, monkeypatch):
    monkeypatch.setitem(plots.PLOTS, "curves", Plot({"group": "toy_dodge"}, "On ice"))
    page = recorded / "README.md"
    page.write_text("<!-- plot:curves -->\n<!-- /plot:curves -->\n")
    stale(recorded, check=False)
    assert stale(recorded) == []
    keep(write_run(recorded / "elsewhere", 7, 99.0), recorded / LEARNING.relative_to(ROOT))
    assert stale(recorded) == [page]


def test_wrong_markers_get_one_line(tmp_path):
    with pytest.raises(UserError, match="no table 'scroes'"):
        draw("<!-- table:scroes -->\n<!-- /table:scroes -->", tmp_path / "a.md", [])
    with pytest.raises(UserError, match="1 blocks are opened but 0 closed"):
        draw("<!-- table:overview -->\n<!-- /table:overveiw -->", tmp_path / "a.md", [])


def test_the_readmes_say_what_the_recorded_runs_say():
    assert stale() == [], "run make figures and commit"


def test_every_recorded_run_can_be_read_and_names_its_row():
    for run in load_records():
        assert run.get("score.episodes") >= 1 and run.get("label") and run.get("group"), run.folder
        assert (run.curve()["frames"][1:] >= run.curve()["frames"][:-1]).all(), run.folder
        assert str(ROOT) not in (run.folder / "config.json").read_text(), run.folder


def flat(tree: dict, prefix: str = "") -> dict:
    """Nested settings as {dotted name: value}."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return leaves


def test_every_recorded_command_gives_the_recorded_settings():
    """What a table tells a reader to type still means what was run; paper 1, whose parser this is."""
    seen = 0
    for run in load_records():
        command = shlex.split(run.get("train_command"))
        assert run.get("command").startswith("python eval.py --checkpoint"), run.folder
        if command[1] != "train.py" or run.get("paper") != "paper1_world_models":
            continue
        options = {"default_env": "toy_dodge", "description": "", "extra": train.Extra}
        cfg = parse_train(command[2:], PRESETS, SUITES, **options).config
        now, then = flat(json.loads(json.dumps(to_json(cfg)))), flat(run.config["config"])
        different = {name for name, value in then.items() if now.get(name) != value}
        assert different <= {"logdir", "vae.gate"}, (run.folder.name, different)  # gates only stop a run
        seen += 1
    assert seen


def test_experiments_start_from_runs_whose_command_is_shown():
    commands = [run.get("train_command") for run in load_records()]
    folders = {match for command in commands for match in re.findall(r"--logdir (\S+)", command)}
    bases = {match for command in commands for match in re.findall(r"--base (\S+)", command)}
    assert bases and bases <= folders
