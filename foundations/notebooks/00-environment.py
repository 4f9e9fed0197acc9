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
# # 0. The environment
#
# An agent acts, an environment answers with an observation and a reward. Before anything is learned it pays to look at what
# is seen, what is paid, and how far chance gets: a score says nothing without that of chance.

# %%
import gymnasium
import numpy as np

from foundations.dyna import data_collection as data
from foundations.minigrid.envs import SYMBOLS, agent_view, load_state, make_env, save_state
from foundations.notebooks.tools import OUT, budget, minigrid, show, table

# %% [markdown]
# ## TwoRooms
#
# A map of 7 x 9: two rooms, a wall, one door that opens by itself, a goal. The agent turns left, turns right, or goes
# forward. It is the map of [my-first-world-model](https://github.com/alcedok/my-first-world-model), whose course this
# chapter follows and mends.

# %%
minigrid("show", "--env", "TwoRooms", "--episodes", budget(100, 10))
show(OUT / "env.png")

# %% [markdown]
# Left the whole world: a *state*. Right what the agent sees of it, always looking up the page: an *observation*. Walls hide
# what is behind them. The state is small enough to hold in the hand, and to put back:

# %%
world = make_env("TwoRooms", view=5)
world.reset(seed=0)
start = save_state(world.grid)
print(start)
print([SYMBOLS[i] for i in np.unique(agent_view(world.grid))])
load_state(world.grid, start._replace(heading=0))
print("after turning by hand:", save_state(world.grid).heading)

# %% [markdown]
# ## What is paid
#
# MiniGrid pays 1 - .9 * step / max_steps at the goal and nothing before. So the reward depends on the *clock*, which is not
# in the picture: the grid alone is not Markov. The tables of the next notebook pay 1 and let the discount ask for haste.
#
# ## Other worlds, and chance

# %%
rows = []
for name in ("Empty-6x6", "DoorKey-5x5", "FourRooms"):
    world, rng = make_env(name, view=5), np.random.default_rng(0)
    won = 0
    for episode in range(budget(50, 3)):
        world.reset(seed=episode)
        over = False
        while not over:
            _, rew, terminated, truncated, _ = world.step(int(rng.integers(len(world.actions))))
            over = terminated or truncated
        won += rew > 0
    rows.append([name, len(world.actions), world.grid.max_steps, f"{won / budget(50, 3):.0%}"])
table(["world", "actions", "steps at most", "chance reaches the goal"], rows)

# %% [markdown]
# And CartPole, for notebooks 4 and 5: four numbers instead of a grid, +1 for every step until the pole falls or 500 are over.

# %%
env = gymnasium.make("CartPole-v1")
print(env.observation_space, env.action_space)
returns = data.episode_returns(
    data.collect("CartPole-v1", data.random_policy(env.action_space), budget(1000, 50), 0)
)
print(
    f"chance lasts {returns.mean():.1f} steps (median {np.median(returns):.0f}, at most {returns.max():.0f})"
)

# %% [markdown]
# **To do.** How much would the reward at the goal change if the episode were allowed to last twice as long? What is the
# reward of an agent that needs 100 of 100 steps?
