"""Train the world model, and measure one step of it on episodes it has not seen.

    python -m foundations.dyna.train_model --variant ensemble    data -> checkpoint and its curve
    python -m foundations.dyna.train_model --compare --seeds 5   the table of models and data

Needs data/transitions.npz (--compare plays its own data); writes checkpoints/world_model.pt and
plots/training_curve.png, or plots/variants_mse.png.
Letters: N networks, S sets of data, M transitions of the longest set, B rows of a batch.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.checkpoint import fitting, load_file, save_file
from common.cli import pick_device, run_main
from common.config import Device
from common.errors import UserError
from common.flags import parse
from common.seeding import seed_everything
from foundations.commands import Args, check_args, report
from foundations.dyna import data_collection as data
from foundations.dyna.world_model import (
    PLAIN,
    CopyLast,
    DynamicsModel,
    Ensemble,
    LeastSquares,
    ModelConfig,
    count_parameters,
)

CHECKPOINT = "checkpoints/world_model.pt"
KIND = "foundations/dyna world model"
MEMBERS = 5
VARIANTS: dict[str, tuple[ModelConfig, int]] = {  # config, members
    "simple": (ModelConfig(), 1),
    "dropout": (ModelConfig(dropout=0.1), 1),
    "ensemble": (ModelConfig(), MEMBERS),
    "plain": (PLAIN, 1),
    "plain-dropout": (ModelConfig(**{**asdict(PLAIN), "dropout": 0.2}), 1),
    "plain-ensemble": (PLAIN, MEMBERS),
}


class DataSets:
    """S sets of transitions, padded to one length, and shuffled batches of them for any stack of networks."""

    def __init__(self, sets: Sequence[data.Transitions], device: torch.device | str = "cpu"):
        self.length = torch.tensor([len(part.rew) for part in sets])  # [S]
        longest = int(self.length.max())
        self.columns: list[Tensor] = []  # obs, act, rew, next_obs, done: each [S, M, ...]
        for column in zip(*sets, strict=True):
            padded = [
                np.concatenate([x, np.zeros((longest - len(x), *x.shape[1:]), x.dtype)]) for x in column
            ]
            self.columns.append(torch.from_numpy(np.stack(padded).astype(np.float32)).to(device))

    def batches(self, owner: Tensor, size: int, epochs: int, rng: torch.Generator):
        """Network n sees the set owner[n], each in an order of its own.  Yields columns, each [N, B, ...]."""
        length, longest = self.length[owner], int(self.length.max())
        is_padding = torch.arange(longest) >= length[:, None]  # [N, M]
        for _ in range(epochs):
            order = (torch.rand(is_padding.shape, generator=rng) + is_padding).argsort(-1)  # padding last
            for start in range(0, max(1, int(length.min()) // size) * size, size):
                index = order[:, start : start + size]
                yield [column[owner[:, None], index] for column in self.columns]


def fit(
    model: DynamicsModel,
    sets: DataSets,
    members: int,
    *,
    epochs: int,
    batch: int = 64,
    lr: float = 1e-3,
    seed: int = 0,
    held_out: DataSets | None = None,
) -> list[dict[str, float]]:
    """Train the S x `members` networks side by side: Adam, its step size falling to 0 as a cosine.

    Returns a row for each epoch: the mean losses and, where there are held-out sets, their `held_out` loss.
    """
    owner = torch.arange(len(sets.length)).repeat_interleave(members)  # [N]
    set_statistics(model, sets, owner)
    rng = torch.Generator().manual_seed(seed)
    steps = max(1, int(sets.length.min()) // batch)  # of an epoch
    optim = torch.optim.Adam(model.parameters(), lr, foreach=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optim, epochs * steps)
    curve: list[dict[str, float]] = []
    sums: dict[str, Tensor] = {}
    model.train()
    for step, columns in enumerate(sets.batches(owner, batch, epochs, rng), 1):
        losses = {name: loss.mean(-1) for name, loss in model.loss(*columns).items()}  # [N]
        optim.zero_grad(set_to_none=True)
        sum(loss.sum() for loss in losses.values()).backward()
        optim.step()
        schedule.step()
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0) + loss.detach().mean()
        if step % steps == 0:
            curve.append({name: float(total) / steps for name, total in sums.items()})
            sums = {}
            if held_out is not None:
                curve[-1]["held_out"] = held_out_loss(model, held_out, owner)
                model.train()
    model.eval()
    return curve


def set_statistics(model: DynamicsModel, sets: DataSets, owner: Tensor) -> None:
    """Give each network means and deviations of its own data."""
    for n, (s, length) in enumerate(zip(owner.tolist(), sets.length[owner].tolist(), strict=True)):
        obs, act, _, next_obs, _ = (column[s, :length] for column in sets.columns)
        model.set_statistics(n, obs, act, next_obs)


@torch.no_grad()
def held_out_loss(model: DynamicsModel, sets: DataSets, owner: Tensor) -> float:
    """Mean `obs` loss over all transitions of the sets."""
    model.eval()
    loss = model.loss(*(column[owner] for column in sets.columns))["obs"]  # [N, M]
    real = torch.arange(loss.shape[1]) < sets.length[owner][:, None]
    return float(loss[real.to(loss.device)].mean())


@torch.no_grad()
def evaluate_one_step(model: nn.Module, sets: Sequence[data.Transitions]) -> np.ndarray:
    """Squared error of the next state in raw units, model s on set s (an ensemble: of its mean).  [S, D]"""
    model.eval()
    errors = []
    stacked = DataSets(sets)
    found = model.predict(*(column.to(_device(model)) for column in stacked.columns[:2]))
    found = found[0] if isinstance(model, Ensemble) else found
    for s, length in enumerate(stacked.length.tolist()):
        error = found.next_obs[s, :length].cpu() - stacked.columns[3][s, :length]
        errors.append(error.square().mean(0).numpy())
    return np.stack(errors)


def _device(model: nn.Module) -> torch.device:
    """Where a model's numbers lie; the CPU for one that has none."""
    return next((x.device for x in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def make_model(
    name: str, obs_size: int, act_size: int, sets: int = 1, hidden: int | None = None
) -> nn.Module:
    """A variant by its name, for so many sets of data; `hidden`: units of the (first) hidden layer."""
    if name == "copy":
        return CopyLast()
    if name == "least-squares":
        return LeastSquares(obs_size, act_size, sets)
    cfg, members = VARIANTS[name]
    if hidden:
        cfg = ModelConfig(
            **{
                **asdict(cfg),
                "hidden": (hidden, *cfg.hidden[1:]) if name.startswith("plain") else (hidden, hidden),
            }
        )
    model = DynamicsModel(obs_size, act_size, cfg, sets * members)
    return Ensemble(model, members) if members > 1 else model


def fit_named(
    name: str, sets: Sequence[data.Transitions], *, epochs: int, seed: int, **more
) -> tuple[nn.Module, list]:
    """A trained variant for S sets of data, and its curve (empty where nothing is trained)."""
    seed_everything(seed)
    device = more.pop("device", "cpu")
    obs_size, act_size = sets[0].obs.shape[1], sets[0].act.shape[1]
    model = make_model(name, obs_size, act_size, len(sets), more.pop("hidden", None)).to(device)
    if isinstance(model, LeastSquares):
        for n, part in enumerate(sets):
            obs, act, rew, next_obs, _ = (torch.from_numpy(x).float() for x in part)
            model.fit(n, obs, act, rew, next_obs)
    if isinstance(model, CopyLast | LeastSquares):
        return model, []
    inner, members = (model.model, model.members) if isinstance(model, Ensemble) else (model, 1)
    return model, fit(inner, DataSets(sets, device), members, epochs=epochs, seed=seed, **more)


def save_model(path: Path, model: nn.Module, name: str, **told) -> None:
    """Write a trained variant, with what is needed to build it again."""
    inner = model.model if isinstance(model, Ensemble) else model
    tree = {"variant": name, "obs_size": inner.obs_size, "hidden": inner.cfg.hidden[0], **told}
    save_file(path, {"paper": KIND, "config": tree, "weights": model.state_dict()})


def load_model(path: Path) -> tuple[nn.Module, dict]:
    """(model, what is told of it); UserError in one line where there is none, or another kind of file."""
    if not path.is_file():
        raise UserError(f"no {path}: first python -m foundations.dyna.train_model --out DIR")
    tree = load_file(path, paper=KIND)
    with fitting(path, "foundations/dyna"):
        told = tree["config"]
        model = make_model(told["variant"], told["obs_size"], told["act_size"], 1, told["hidden"])
        model.load_state_dict(tree["weights"])
    return model.eval(), told


@dataclass(frozen=True, kw_only=True)
class TrainArgs(Args):
    """What to train, on what."""

    out: Path = Path("runs/dyna")
    """Folder with data/; checkpoints/ and plots/ are written there."""
    variant: Literal["simple", "dropout", "ensemble", "plain", "plain-dropout", "plain-ensemble"] = "ensemble"
    """One network, one with dropout, five; plain-: raw states and the action as a number, as often seen."""
    hidden: int = 0
    """Units of the hidden layers (plain: of the first); 0: 64."""
    epochs: int = 60
    """Passes over the training data."""
    batch: int = 64
    """Transitions of a batch."""
    lr: float = 1e-3
    """Step size at the start; it falls to 0."""
    test_share: float = 0.2
    """Share of the episodes that are held out."""
    device: Device = "auto"
    """Where the networks run; auto: cuda, else mps, else cpu."""
    compare: bool = False
    """Instead: every variant on two kinds of data, over several seeds."""
    seeds: int = 5
    """Seeds of --compare: data, networks and order each."""
    episodes: int = 400
    """Random episodes of each seed in --compare; 200 random ones and 30 of the controller test."""

    def check(self) -> None:
        """UserError for what cannot be."""
        for name, least in {"hidden": 0, "epochs": 1, "batch": 1, "seeds": 1, "episodes": 2}.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: must be at least {least}")
        if not 0 < self.test_share < 1 or not self.lr > 0:
            flag, value = ("lr", self.lr) if 0 < self.test_share < 1 else ("test-share", self.test_share)
            raise UserError(f"--{flag} {value:g}: must be above 0" + " and below 1" * (flag != "lr"))


def main(argv: Sequence[str] | None = None) -> None:
    """Train the world model on collected data, or compare the models."""
    args = parse(TrainArgs, list(sys.argv[1:] if argv is None else argv), main.__doc__)
    check_args(args)
    if args.compare:
        from foundations.dyna.compare import compare_models

        return compare_models(args)
    train_one(args)


def train_one(args: TrainArgs) -> None:
    """data/transitions.npz -> checkpoints/world_model.pt, plots/training_curve.png"""
    from foundations.dyna import plots

    device = pick_device(args.device, args.threads)
    rows, told = data.load(args.out / data.FILE)
    num_actions = data.num_actions(told["env"])
    if num_actions is None and args.variant.startswith("plain"):
        raise UserError(
            f"--variant {args.variant}: takes discrete actions, {told['env']} has none; take simple"
        )
    parts = data.split_by_episode(rows, args.test_share, np.random.default_rng(args.seed))
    train, test = (data.as_transitions(part, num_actions) for part in parts)
    print(f"{told['env']}, {told['policy']}: {len(train.rew):,} transitions, {len(test.rew):,} held out")
    with report(args, "train_model") as result:
        options = {
            "epochs": args.epochs,
            "seed": args.seed,
            "batch": args.batch,
            "lr": args.lr,
            "device": device,
        }
        model, curve = fit_named(
            args.variant, [train], hidden=args.hidden, held_out=DataSets([test], device), **options
        )
        inner = model.model if isinstance(model, Ensemble) else model
        save_model(args.out / CHECKPOINT, model, args.variant, act_size=train.act.shape[1], **told)
        copy, ours = (evaluate_one_step(m, [test])[0] for m in (CopyLast(), model))
        result |= {
            "parameters": count_parameters(inner, inner.stack),
            "networks": inner.stack,
            "mse": float(ours.mean()),
            "mse_copy_last": float(copy.mean()),
            "mse_by_entry": ours.tolist(),
            "curve": curve,
        }
    count = f"{result['networks']} x " * (result["networks"] > 1) + f"{result['parameters']:,}"
    print(f"{args.variant}: {count} parameters, {args.epochs} epochs")
    print(
        f"held-out error of one step {result['mse']:.2e}; of copying the state {result['mse_copy_last']:.2e}"
    )
    print("by entry of the state: " + " ".join(f"{x:.2e}" for x in ours))
    print(f"wrote {args.out / CHECKPOINT}")
    print(f"wrote {plots.training_curve(curve, args.out / 'plots' / 'training_curve.png')}")


if __name__ == "__main__":
    run_main(main)
