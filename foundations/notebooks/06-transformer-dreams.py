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
# # 6. A transformer that dreams, and a policy that is differentiated through it
#
# The bridge to papers 2 and 5: categorical codes as in notebook 3, a transformer for the dynamics as in IRIS, and an actor that
# learns by the *gradient* of the imagined return, as in Dreamer. A board of 4 x 4: actor black, target green, threat red; an action
# is a vector, rounded to a move.

# %%
import json

from foundations.notebooks.tools import OUT, QUICK, budget, show, table, tssm
from foundations.tssm.references import references

# %% [markdown]
# ## What the score means
#
# All 3,360 starting positions can be enumerated, so these are exact:

# %%
rows = [[name, *(f"{value:.3f}" for value in score)] for name, score in references(1.0).items()]
table(["policy", "return", "steps on the target", "on the threat"], rows)

# %% [markdown]
# ## Learn to see, to predict, to act
#
# Three stages. The autoencoder has a gate: its training is all or nothing, so an attempt that does not return held-out frames
# exactly is thrown away. The actor dreams five steps ahead from any frame; forward the likeliest class, backward a soft one.

# %%
small = (
    ("--obs-steps", 40, "--gate", 0, "--wm-steps", 20, "--steps", 4, "--episodes", 60)
    if QUICK
    else ("--steps", 600)
)
tssm("train", *small)

# %%
tssm("plot")
for picture in sorted((OUT / "plots").glob("*.png")):
    print(picture.name)

# %%
show(OUT / "plots" / "losses.png")

# %%
show(OUT / "plots" / "dream.png")

# %% [markdown]
# ## Is the gradient worth it?
#
# The same dreams, the same number of updates, but REINFORCE: the return as a number, no gradient through the model.

# %%
tssm("train-agent", "--objective", "reinforce", "--steps", budget(600, 4))
result = {
    "value": json.loads((OUT / "train.json").read_text()),
    "reinforce": json.loads((OUT / "train-agent-reinforce.json").read_text()),
}
rows = []
for name, found in result.items():
    score = found.get("score") or found["agent"]["score"]
    rows.append([name, *(f"{value:.2f}" for value in score.values())])
table(["actor", *score], rows)

# %% [markdown]
# Per update the gradient wins; per CPU second it is a near tie, since an update through the model costs about twice as much. The
# table over three seeds stands in [foundations/tssm/README.md](../tssm/README.md#results).
#
# ## Watch it

# %%
tssm("play-agent")
gifs = sorted(OUT.rglob("*agent*.gif"))
show(gifs[0])

# %% [markdown]
# **To do.** Set `--threat-penalty 100`. Why does the agent need rewards on a logarithmic scale there, and what does paper 4 do about it?
