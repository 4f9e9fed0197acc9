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
# # 3. Learning a world model
#
# Nobody gives us the table. The agent sees grids; it plays at random, and learns (1) a *code* for what it sees, (2) what
# actions do to codes, (3) what is paid and when it ends. Then it never needs the world again: it dreams, and plans in its dreams.

# %%
import json

from foundations.notebooks.tools import OUT, budget, minigrid, show, table

updates = budget(0, 60)  # 0: the preset's

# %% [markdown]
# ## A code of eight words
#
# Eight variables of eight classes, drawn with a straight-through gradient. First an autoencoder on what was seen; then its codes
# are frozen and a network learns the next code, the reward and the end, from (code, action).

# %%
minigrid("train-model", "--env", "Empty-6x6", *(("--updates", updates, "--steps", 500) if updates else ()))
show(OUT / "reconstruction.png")

# %% [markdown]
# Print two numbers with every training: **codes used** against distinct observations, and the share of **exact frames**. A loss
# alone cannot tell a code that means something from one that does not:

# %%
collapsed = OUT / "collapsed"
minigrid(
    "train-model",
    "--env",
    "Empty-6x6",
    "--no-normalise",
    *(("--updates", updates, "--steps", 500) if updates else ()),
    out=collapsed,
)
show(collapsed / "reconstruction.png")

# %% [markdown]
# Without centring the inputs and normalising the logits all observations get *one* code. The next code is then predicted
# perfectly: it is always the same. The other way to fail is a code with too few words:

# %%
minigrid(
    "dyna-q",
    "--env",
    "Empty-6x6",
    "--latent",
    "2x4",
    *(("--updates", updates, "--steps", 500, "--transitions", 500) if updates else ()),
    out=OUT / "small",
)

# %% [markdown]
# ## Dreaming
#
# Draw codes at random: uniformly, or from a prior that has learned which codes exist.

# %%
show(OUT / "uniform_prior.png")

# %%
show(OUT / "learned_prior.png")

# %% [markdown]
# A uniform code is a room that cannot be. And a dream beside the world, both with the same actions:

# %%
minigrid("dream", "--dreams", budget(100, 5))
show(OUT / "dream.gif")

# %% [markdown]
# ## Planning in the dream: Dyna-Q
#
# Q-learning on imagined steps only, from visited codes. A predicted code that was never visited is replaced by the most probable
# one that was: followed blindly, such codes breed more of their kind, 11,000 states where the world has 140.

# %%
minigrid(
    "dyna-q",
    "--env",
    "Empty-6x6",
    *(("--updates", updates, "--steps", 500, "--transitions", 500) if updates else ()),
)
show(OUT / "dyna_q.gif")

# %%
found = json.loads((OUT / "dyna-q.json").read_text())
table(
    ["what", "value"],
    [[key, value] for key, value in found["rows"][0].items() if not isinstance(value, dict | list)],
)

# %% [markdown]
# The agent has never practised in the world; it walks the shortest way there. Rare goals are the limit: in a large world random
# play meets the goal too seldom for any model to learn it. Exploration, not the model, is then what is missing.
#
# **To do.** f07, f08. And: DoorKey (`python -m foundations.minigrid dyna-q --env DoorKey-5x5`) has a goal in one of a thousand
# transitions; what would happen without the oversampling of `train_model.py`?
