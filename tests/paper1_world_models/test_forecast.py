"""What a run will take: --steps caps all passes, and too much is refused before anything is collected."""

import pytest

import common.resources
from common.cli import parse_train
from common.config import override, resolve
from common.env_wrapper import EnvSpec
from common.errors import UserError
from common.shards import open_shards
from paper1_world_models.collect import collect, rows_before
from paper1_world_models.forecast import all_rows, describe, first_rows
from paper1_world_models.presets import PRESETS, SUITES
from paper1_world_models.rollout_games import env_spec
from paper1_world_models.train import Extra, main, new_agent


def test_steps_cap_all_passes_in_the_forecast():
    cfg = resolve(PRESETS, SUITES, "tiny-dream", "toy_dodge")[0]
    assert all_rows(cfg, 1) == 1100 * 200 + 2 * 16_000
    assert all_rows(override(cfg, {"steps": 230_000}), 1) == 230_000  # cuts into the passes after the first
    assert all_rows(override(cfg, {"steps": 1000}), 4) == first_rows(override(cfg, {"steps": 1000}), 4) == 250


def test_steps_cap_all_passes_while_collecting(tmp_path, small):
    """Passes are told apart by their folders; random play stands in for the controller of the later ones."""
    cfg = small(steps=300, **{"collect.episodes": 4, "collect.max_steps": 40, "collect.again_frames": 200})
    spec = EnvSpec("toy_dodge", {"native_actions": True, "size": 16})
    longest = 41  # rows of an episode
    for iteration in range(4):
        before = rows_before(tmp_path, iteration)
        collect(cfg, spec, tmp_path, iteration, None, lambda frames: False)
        new = open_shards(tmp_path).total - before
        assert new < max(0, 300 - before) + longest
        assert new > 0 or before >= 300
        cfg = override(cfg, {"collect.episodes": 1000})  # only --steps ends the second pass
    assert 300 <= open_shards(tmp_path).total < 300 + longest
    assert (
        rows_before(tmp_path, 3) == rows_before(tmp_path, 2) == open_shards(tmp_path).total
    )  # nothing was left


@pytest.mark.parametrize("ends", [(), ("--collect.ignore-end",)])
@pytest.mark.parametrize("what", ["disk", "ram"])
def test_too_much_is_refused_whether_or_not_episodes_may_end_early(tmp_path, monkeypatch, capsys, ends, what):
    if what == "disk":
        monkeypatch.setattr(common.resources, "free_disk", lambda path: 10**9)
    else:
        monkeypatch.setattr(common.resources, "free_ram", lambda: 10**6)
    args = ["--preset", "tiny", *ends, "--logdir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"80% of the free.*lower --collect\.episodes.*--steps"):
        main(args)
    assert not (tmp_path / "run" / "data").exists()
    main([*args, "--dry-run"])
    assert "warning: " in capsys.readouterr().out


def test_a_resumed_run_needs_no_room_for_what_it_has(tmp_path, monkeypatch):
    flags = ["--preset", "tiny", "--collect.episodes", "100", "--collect.max-steps", "10"]
    command = parse_train(flags, PRESETS, SUITES, default_env="toy_dodge", description="", extra=Extra)
    agent = new_agent(command.config, env_spec(command.config), "cpu")
    monkeypatch.setattr(common.resources, "free_disk", lambda path: 10**6)
    with pytest.raises(UserError, match="--collect.episodes"):
        describe(command, tmp_path, agent)
    (tmp_path / "data" / "00-00").mkdir(parents=True)
    (tmp_path / "data" / "00-00" / "image.bin").write_bytes(bytes(1000 * 64 * 64 * 3))
    assert "frames (at most: episodes may end early): 11.0 kB" in describe(command, tmp_path, agent)
