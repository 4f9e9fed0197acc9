# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Neural dynamics
#
# In notebook 3 the world had 62 views, and a table of codes was enough. CartPole's state is four real numbers: no state
# is ever seen twice, so no table can hold it. We learn a *function* (s, a) -> s' instead, and ask three things of it:
# how good is it, **where** is it good, and for how many steps?

# %%
import numpy as np
import torch

from foundations.dyna import data_collection as data
from foundations.dyna import plots
from foundations.dyna.plan_with_model import evaluate_model_accuracy
from foundations.dyna.train_model import DataSets, evaluate_one_step, fit_named
from foundations.dyna.world_model import PLAIN, DynamicsModel, count_parameters
from foundations.notebooks.tools import OUT, QUICK, budget, show, table

# %% [markdown]
# ## Experience, split by episode
#
# A random policy drops the pole after 22 steps. We keep rows in the convention of the whole repository and shift them in
# one place, `as_transitions`. The split is by *episode*: two neighbouring transitions are nearly the same numbers, so a
# test that holds one of them tests memory.

# %%
episodes = budget(400, 60)
rows = data.collect_named("CartPole-v1", "random", episodes, seed=0)
train_rows, test_rows = data.split_by_episode(rows, 0.2, np.random.default_rng(0))
train, test = (data.as_transitions(part, 2) for part in (train_rows, test_rows))
print(
    f"mean return {data.episode_returns(rows).mean():.1f}, {len(train.rew):,} transitions, {len(test.rew):,} held out"
)
print(f"{train.done.mean():.1%} of them end an episode")

# %% [markdown]
# ## Is an error of .01 good?
#
# Often one reads "MSE .01, the model is trained". Two rivals that cost nothing say what that is worth: *copying* the
# state, and a *least-squares* fit of the change.

# %%
epochs = budget(60, 4)
found = {}
for name in ("copy", "least-squares", "plain", "plain-dropout", "simple", "dropout", "ensemble"):
    found[name], _ = fit_named(name, [train], epochs=epochs, seed=0)
errors = {name: evaluate_one_step(model, [test])[0] for name, model in found.items()}
table(
    ["model", "error of one step", "x", "speed", "angle", "angular speed"],
    [[name, f"{e.mean():.1e}", *(f"{x:.0e}" for x in e)] for name, e in errors.items()],
)

# %% [markdown]
# Copying alone scores .03: an error of .01 is a third of doing nothing. The linear fit is at a millionth, since 20 ms of a
# pole's fall are almost linear. `plain` is what tutorials write (raw states in and out, the action as a number); `simple`
# predicts the *change*, standardised. Dropout is said to make models robust: here there is no noise to be robust
# against, and it costs two orders of magnitude. And how large are these networks?

# %%
print(f"plain: {count_parameters(DynamicsModel(4, 2, PLAIN)):,} parameters (5 -> 64 -> 32 -> 4)")
print(f"simple: {count_parameters(DynamicsModel(4, 2)):,} parameters (6 -> 64 -> 64 -> 4, and two heads)")

# %% [markdown]
# ## Five heads are better than one, on the average, always
#
# The squared error of a mean of predictions is the members' mean error *less their variance* (Krogh and Vedelsby 1995).
# So an ensemble is never worse than its members' average; that it beats each of them is luck.

# %%
ensemble = found["ensemble"]
alone = evaluate_one_step(ensemble.model, [test] * ensemble.members).mean(-1)
print("members", " ".join(f"{e:.1e}" for e in alone), f"  their mean {alone.mean():.1e}")
print(f"the ensemble {errors['ensemble'].mean():.1e}")
assert errors["ensemble"].mean() < alone.mean()

# %% [markdown]
# ## Good where?
#
# A controller that keeps the pole up visits states that the random policy never reaches. Same models, other episodes:

# %%
elsewhere = data.collect_named("CartPole-v1", "controller", budget(30, 4), seed=7)
other = data.as_transitions(elsewhere, 2)
table(
    ["model", "random episodes", "controller's episodes"],
    [
        [name, f"{errors[name].mean():.1e}", f"{evaluate_one_step(model, [other])[0].mean():.1e}"]
        for name, model in found.items()
    ],
)

# %% [markdown]
# Every network loses a factor of a thousand or more; the linear fit does not care. More data does not help, data from
# *elsewhere* does: half of the random episodes and twenty of the controller.

# %%
mixed = data.as_transitions(data.collect_named("CartPole-v1", "mix", episodes, seed=1), 2)
better, curve = fit_named("ensemble", [mixed], epochs=epochs, seed=0, held_out=DataSets([other]))
print(
    f"ensemble trained on both: {evaluate_one_step(better, [other])[0].mean():.1e} on the controller's episodes"
)
show(plots.training_curve(curve, OUT / "training_curve.png"))

# %% [markdown]
# ## Good for how long?
#
# Open loop: the model's own prediction is its next input. Errors feed on themselves.

# %%
horizon = budget(50, 10)
for label, model in {"trained on random episodes": ensemble, "trained on both": better}.items():
    far = evaluate_model_accuracy(model, elsewhere, 2, horizon, count=budget(2000, 50))
    at = [h for h in (1, 5, 10, 20, 50) if h <= horizon]
    print(
        f"{label}: "
        + ", ".join(f"{far['mse'][0, h - 1]:.1e} after {h}" for h in at)
        + f" ({far['starts']} starts)"
    )
curves = {
    "random": evaluate_model_accuracy(ensemble, test_rows, 2, min(horizon, 20), count=budget(2000, 50)),
    "controller": evaluate_model_accuracy(ensemble, elsewhere, 2, horizon, count=budget(2000, 50)),
}
show(plots.compounding_error(curves, "random", OUT / "compounding_error.png"))

# %%
piece = data.pieces(elsewhere, horizon, 1, np.random.default_rng(0))[0]
act = torch.from_numpy(data.as_features(elsewhere["act"][piece[:-1]], 2))
dream, state = [elsewhere["obs"][piece[0]]], torch.from_numpy(elsewhere["obs"][piece[0]])[None, None]
with torch.no_grad():
    for a in act:
        state = ensemble.predict(state, a[None, None])[0].next_obs
        dream.append(state[0, 0].numpy())
show(
    plots.trajectory(
        elsewhere["obs"][piece], np.stack(dream), "CartPole-v1", OUT / "trajectory_comparison.png"
    )
)

# %% [markdown]
# On a logarithmic axis the error climbs by two to four orders of magnitude in 50 steps, and out of distribution the
# model is worse than copying the first state long before that.
#
# ## Does it know where it is wrong?
#
# The members agree where data was and differ where it was not. That is what MBPO's cut and PETS's planning use.

# %%
show(plots.disagreement(curves, "random", OUT / "disagreement.png"))

# %% [markdown]
# **To do.** `python solutions/exercises.py start foundations`, then f09 (the loss), f10 (the rollout) and f12 (the
# ensemble). The table over five seeds stands in
# [foundations/README.md](../README.md#one-step-ahead).

# %%
assert QUICK or errors["least-squares"].mean() < 2e-6 < errors["dropout"].mean()
