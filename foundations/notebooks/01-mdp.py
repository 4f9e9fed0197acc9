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
# # 1. A world as a table
#
# If every state can be named, and what each action does in it can be written down, the best policy is a matter of
# arithmetic. We read the table off the game, solve it in two ways, then learn it by trying.

# %%
import numpy as np

from foundations.minigrid.envs import make_env
from foundations.minigrid.mdp import TabularMDP, extract_mdp, with_slip
from foundations.minigrid.solvers import (
    backup,
    path_length,
    policy_iteration,
    q_learning,
    q_update,
    value_iteration,
)
from foundations.notebooks.tools import OUT, budget, minigrid, show, table

# %% [markdown]
# ## Read it off
#
# `extract_mdp` puts the real environment into a state, tries each action, looks where it ends up, and goes on from there.
# No rule is written down twice, so none can be written down wrongly.

# %%
world = make_env("TwoRooms", view=5)
mdp = extract_mdp(world.grid, world.actions)
print(
    f"{mdp.num_states} states x {mdp.num_actions} actions; {int(mdp.terminal.sum())} of the pairs end at the goal"
)
print("state 0 is", mdp.states[0], "and its actions lead to", mdp.next_state[0])

# %% [markdown]
# ## Bellman's equation
#
# $Q(s, a) = \mathbb{E}[r + \gamma V(s')]$, with $V = 0$ behind the end, and $V(s) = \max_a Q(s, a)$. One sweep from $V = 0$
# knows the goal's neighbours; each further sweep looks one step further.

# %%
values = np.zeros(mdp.num_states)
for sweep in range(1, 5):
    values = backup(mdp, values, 0.99).max(1)
    print(f"sweep {sweep}: {int((values > 0).sum())} states know of the goal")

# %% [markdown]
# ## Two ways to the same values

# %%
vi, pi = value_iteration(mdp), policy_iteration(mdp)
print(f"value iteration: {vi.rounds} sweeps; policy iteration: {pi.rounds} rounds")
print(f"largest difference {np.abs(vi.values - pi.values).max():.1e}")
print(
    f"V(start) = {vi.values[0]:.6f} = .99^(d - 1): the goal is {path_length(vi.values, 0.99)[0]:.0f} steps away"
)

# %%
minigrid("mdp", "--env", "TwoRooms", "--episodes", budget(600, 50))
show(OUT / "values.png")

# %% [markdown]
# Each cell is cut into four: the value of standing there and looking that way. Turning takes steps, so looking away costs.
#
# ## Why V is not 100
#
# A common slip: the goal is no end, and pays in each step for ever. Then V(goal) = 1 / (1 - .99) = 100, and the agent is
# told that standing still is wonderful.

# %%
loop = TabularMDP(
    np.array([[1], [1]]), np.array([[1.0], [1.0]]), np.array([[False], [False]]), ["before", "goal"]
)
once = TabularMDP(loop.next_state, loop.rew, np.array([[True], [True]]), ["before", "goal"])
print("without an end:", value_iteration(loop).values.round(1), " with one:", value_iteration(once).values)

# %% [markdown]
# ## Slip
#
# With probability .1 each of the other actions happens. The *same* chances go into the table and into the game; a table
# with chances that the game does not have describes another world.

# %%
slippery = with_slip(mdp, 0.1)
table(
    ["slip", "V(start), discount .97", "mean V"],
    [
        [slip, f"{found.values[0]:.6f}", f"{found.values.mean():.6f}"]
        for slip, found in (("none", value_iteration(mdp, 0.97)), (".1", value_iteration(slippery, 0.97)))
    ],
)

# %% [markdown]
# ## Q-learning: the same, without the table
#
# Now the chances are unknown; there are only steps. One step by hand: Q = .5, alpha = .1, r = 1, gamma = .9, and the best next
# value is 2:

# %%
q = np.array([[0.5], [2.0]])
q_update(q, 0, 0, 1.0, 1, False, alpha=0.1, gamma=0.9)
print("the episode goes on:", q[0, 0].round(2))
q = np.array([[0.5], [2.0]])
q_update(q, 0, 0, 1.0, 1, True, alpha=0.1, gamma=0.9)
print("it ends there:", q[0, 0].round(2))

# %%
q, steps = q_learning(mdp, np.random.default_rng(0), episodes=budget(600, 50), starts=np.array([0]))
won = steps > 0
print(f"success in the first 100 episodes {won[:100].mean():.2f}, in the last 100 {won[-100:].mean():.2f}")
show(OUT / "q_learning.png")

# %% [markdown]
# ## Where the table ends
#
# States grow with the square of the grid; a key that may be dropped anywhere multiplies them by the square once more; memory
# for a dense table P(s' | s, a) grows with the square of *that*. Measured, not argued:

# %%
minigrid(
    "limits",
    *(
        ("--sizes", "5", "8", "16", "--drop-up-to", "8")
        if budget(1, 0)
        else ("--sizes", "5", "6", "--drop-up-to", "5")
    ),
)
show(OUT / "limits.png")

# %% [markdown]
# **To do.** f01 to f03 and f06: `python solutions/exercises.py start foundations`.
