"""Gates: a stage that is worse than its simple baselines does not hand over to the next one.

V against the mean image; M against N(0, 1) and copy-the-last-frame; the dream against reality, by how long
simple policies survive in both (worlds.py).  The last one matters most: loss and cross entropy do not reveal
a dream that can be cheated (measured sheet of TakeCover, section 3).
"""

from common.errors import UserError
from paper1_world_models.run import Run

FOREGROUND = 0.125  # share of the mean image's error on the pixels that vae.foreground weighs
BOUNDS = {  # dream / reality, from the measured sheets; others, at a bound for ever: at most twice
    "no-op": (0.7, 1.3),
    "uniform": (0.7, 1.3),
    "held": (0.7, 1.3),
    "random linear": (0, 1.5),
    "controller": (0.5, 2),
    "competent": (0.5, 2),
}


def judge(run: Run, name: str, failures: list[str]) -> None:
    """Stop or warn, as the user asked."""
    if not failures:
        return
    line = f"gate of {name} failed: {'; '.join(failures)}"
    if run.cfg.gates == "stop":
        raise UserError(
            f"{line}. Train it longer or on other data, or go on with --gates warn --resume {run.folder}"
        )
    run.log.note(f"warning: {line}")


def vae_failures(error: dict[str, float], share: float) -> list[str]:
    """`error` is vae.reconstruction_error's.  A weighted foreground has a bound of its own: V may be fine on
    the whole picture and lose what is small and matters (on TakeCover's fireballs: 0.1, mean image 0.8)."""
    bounds = {"recon": ("mean_image", share), "foreground": ("foreground_mean_image", FOREGROUND)}
    return [
        f"{name} error {error[name]:.3g} is not below {part:g} x {error[baseline]:.3g} of the mean image"
        for name, (baseline, part) in bounds.items()
        if name in error and not error[name] < part * error[baseline]
    ]


def rnn_failures(scores: dict[str, float]) -> list[str]:
    """`scores` are train_rnn.evaluate's, all in nats per dimension on held-out sequences."""
    baselines = {"N(0, 1)": scores["nll_standard_normal"], "copy-the-last-frame": scores["nll_copy_last"]}
    return [
        f"NLL {scores['nll']:.3f} is not below {b:.3f} of {name}"
        for name, b in baselines.items()
        if scores["nll"] >= b
    ]


def dream_failures(table: dict[str, dict[str, float]]) -> dict[str, str]:
    """`table` is worlds.dream_table's -> policy: what is wrong.  Real scores are means of few episodes."""
    out = {}
    for name, scores in table.items():
        low, high = BOUNDS.get(name, (0, 2))
        real, size, error = scores["real"], abs(scores["real"]), scores["real_error"]  # may be negative
        if scores.get("way", 1) < 0.5:  # it was to be competent and is not, in reality: it proves nothing
            continue
        if not real - (1 - low) * size - error <= scores["dream"] <= real + (high - 1) * size + error:
            out[name] = (
                f"{name} scores {scores['dream']:.0f} in the dream and {scores['real']:.0f} in reality"
            )
    return out


def judge_dream(run: Run, table: dict[str, dict[str, float]], iteration: int) -> None:
    """The gate of the dream.  That a competent player dies early in dreams of random data is what further
    passes are for, so until the last one it is only told."""
    failures = dream_failures(table)
    if iteration + 1 < run.cfg.iterations and "competent" in failures:
        run.log.note(f"pass {iteration + 1}: {failures.pop('competent')}; the next passes may mend it")
    judge(run, "the dream", list(failures.values()))
