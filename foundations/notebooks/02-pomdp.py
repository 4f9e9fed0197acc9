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
# # 2. When the state is hidden
#
# The agent sees a square before it, not the map. Many states look alike, so what it sees is not enough to act on. It can keep a
# *belief* instead: a probability for every state, moved by Bayes' rule.

# %%
import numpy as np

from foundations.minigrid.envs import make_env
from foundations.minigrid.mdp import TabularMDP, extract_mdp
from foundations.minigrid.pomdp import (
    belief_update,
    first_belief,
    observation_model,
    qmdp_action,
    view_of_states,
)
from foundations.minigrid.solvers import value_iteration
from foundations.notebooks.tools import OUT, budget, minigrid, show, table

# %% [markdown]
# ## How much looks alike

# %%
world = make_env("TwoRooms", view=5)
mdp = extract_mdp(world.grid, world.actions)
rows = []
for size in (3, 5):
    view_of, views = view_of_states(world.grid, mdp, size)
    rows.append([f"{size} x {size}", mdp.num_states, len(views), int(np.bincount(view_of).max())])
table(["view", "states", "distinct views", "states behind the commonest"], rows)

# %% [markdown]
# ## A belief by hand
#
# A corridor of four cells. "Right" works with .8, else nothing happens; the sensor says "wall" with .9 in the last cell and with
# .1 elsewhere. We know nothing, go right, and see no wall:

# %%
right = np.array([[0.2, 0.8, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 0.2, 0.8], [0, 0, 0, 1.0]])
left = right[::-1, ::-1]
transition = np.stack([left, right])  # [A, S, S]
observation = np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]])  # [S, Z]: no wall, wall
belief = np.full(4, 0.25)
for action, view in ((1, 0), (1, 1), (0, 1)):
    belief, evidence = belief_update(belief, action, view, transition, observation)
    print(["left", "right"][action], ["no wall", "wall"][view], belief.round(6), f"P(z) = {evidence:.6f}")

# %% [markdown]
# The product of the evidences is the probability of what was seen, whichever path of cells it was: a test sums all 4^4 of
# them and finds the same numbers.
#
# ## QMDP: act as if all became known after the next step
#
# $a = \arg\max_a \sum_s b(s) Q(s, a)$, with Q of the *visible* world. The tiger: behind one of two doors waits a tiger (-100),
# behind the other 10; listening costs 1 and is right with .85.

# %%
q = np.array([[189.0, 90.0, 200.0], [189.0, 200.0, 90.0]])  # tiger left, right; listen, open left, open right
belief = np.array([0.5, 0.5])
for heard in range(3):
    action, values = qmdp_action(belief, q)
    print(
        f"{heard} times heard left: b = {belief[0]:.6f}, Q = {values.round(3)} -> {['listen', 'left', 'right'][action]}"
    )
    belief = belief * [0.85, 0.15] / (belief @ [0.85, 0.15])

# %% [markdown]
# ## In TwoRooms

# %%
minigrid("pomdp", "--env", "TwoRooms", "--episodes", budget(400, 10))
show(OUT / "belief.gif")

# %% [markdown]
# Read the table for a world without slip: with a view of 5 QMDP is as good as seeing everything; with a view of 3 it fails half
# of the time. It believes that the next step will tell it where it is, so it never moves *in order to find out*, and where the
# best action of the believed states is to wait and see, it waits for ever. Chance in the world shakes it loose: with slip the
# small view succeeds more often. One view without a memory is far behind wherever views repeat.

# %%
view_of, views = view_of_states(world.grid, mdp, 3)
observation = observation_model(view_of)
commonest = int(np.bincount(view_of).argmax())
belief = first_belief(commonest, observation)
print(f"after the commonest view the belief is spread over {int((belief > 0).sum())} states")
print("values of left, right, forward:", qmdp_action(belief, value_iteration(mdp, 0.97).q)[1].round(3))
assert isinstance(mdp, TabularMDP)

# %% [markdown]
# **To do.** f04, f05. And: make up a world in which the most likely state is a better guide than QMDP.
