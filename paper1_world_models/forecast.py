"""What a run will take: frames, gradient steps, memory and disk, for the block that train.py prints first."""

from pathlib import Path

from common.cli import start_block
from common.errors import UserError
from common.resources import forecast_disk, forecast_ram
from paper1_world_models.config import Config
from paper1_world_models.rollout import NOISE_STEPS

HERE = Path(__file__).resolve().parent
PUBLISHED = {32: {"V": 4_348_547, "M": 422_368, "C": 867}, 64: {"V": 4_446_915, "M": 1_678_785, "C": 1_088}}


def describe(command, folder: Path | None, agent) -> str:
    """The start block: what is to come, and whether it fits."""
    cfg, repeat = command.config, agent.env.frames_per_step
    counts = {
        "V": sum(p.numel() for p in agent.vae.parameters()),
        "M": sum(p.numel() for p in agent.rnn.parameters() if p.requires_grad),
        "C": agent.controller.size,
    }
    rows = all_rows(cfg, repeat)
    run = folder or command.resume
    # Carried here for its controller alone (carry.py): frames and latents are elsewhere.
    is_carried = command.extra.stage == "controller" and not (run and (run / "data").exists())
    stored = 0 if is_carried else rows
    on_disk = stored * (cfg.vae.size**2 * cfg.vae.channels + 4 * agent.codec.size + 7)  # bytes
    if run:  # what a resumed run has written is no longer free
        on_disk = max(0, on_disk - sum(file.stat().st_size for file in run.glob("data/*/*.bin")))
    latents = stored * (4 * cfg.vae.latents + 4 * agent.codec.size + 7)
    noise = noise_bytes(cfg)
    bound = "" if cfg.collect.ignore_end else " (at most: episodes may end early)"
    refuse, flag = folder is not None, "--collect.episodes, or cap all frames with --steps"
    what, of_ram = (
        f"latents{bound} and the scores' draws",
        flag if latents > noise else "--evolve.eval-episodes",
    )
    return start_block(
        command,
        run_dir=folder,
        parameters=counts,
        published=PUBLISHED.get(cfg.vae.latents) if command.preset == "paper" else None,
        frames=None if is_carried else rows * repeat,
        policy_steps=None if is_carried else rows,
        updates=updates_to_come(cfg, repeat),
        forecasts=[
            forecast(forecast_disk, on_disk, f"frames{bound}", flag, folder or HERE, refuse=refuse),
            forecast(forecast_ram, latents + noise, what, of_ram, refuse=refuse),
        ],
        device=str(agent.device),
    )


def first_rows(cfg: Config, repeat: int) -> int:
    """Rows of the first pass at most; --steps counts frames, and a row takes `repeat` of them."""
    return min(cfg.collect.episodes * cfg.collect.max_steps, (cfg.steps or 10**12) // repeat)


def all_rows(cfg: Config, repeat: int) -> int:
    """Rows of all passes at most; --steps caps them together."""
    rows = first_rows(cfg, repeat) + (cfg.iterations - 1) * cfg.collect.again_frames
    return min(rows, (cfg.steps or 10**12) // repeat)


def updates_to_come(cfg: Config, repeat: int) -> dict[str, int]:
    """Gradient steps and generations of all passes."""
    further = cfg.iterations - 1
    first = cfg.first_generations if further and cfg.first_generations else cfg.generations
    return {
        "V": cfg.epochs * first_rows(cfg, repeat) // cfg.vae.batch or cfg.vae.updates,
        "M": (cfg.rnn.updates + further * cfg.rnn.again_updates) * cfg.rnn.train,
        "generations of C": first + further * cfg.generations,
    }


def noise_bytes(cfg: Config) -> int:
    """The largest table of draws for z (rollout.Noise): float32, an entry per episode, step and latent."""
    episodes = max(cfg.evolve.eval_episodes, cfg.evolve.rollouts)
    return 4 * episodes * NOISE_STEPS * cfg.vae.latents * (cfg.controller.z == "sample")


def forecast(check, *args, refuse: bool) -> str:
    """A forecast line; where nothing runs (--dry-run), too much is a warning only."""
    try:
        return check(*args)
    except UserError as error:
        if refuse:
            raise
        return f"warning: {error}"
