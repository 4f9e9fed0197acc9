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
# # 5. Dyna-DQN, and planning
#
# A model of the world can be *used* in two ways. **Dyna** (Sutton 1990) lets it make up more experience for the same
# learner. **Planning** asks it before every move. We try both on CartPole, and we test Dyna as one tests a medicine: against
# the same learner without it, against the same learner with as many updates, and against a perfect model.

# %%
from dataclasses import replace

import numpy as np

from foundations.dyna import plots
from foundations.dyna.agent import AgentConfig, train_dqn, train_dyna_agent
from foundations.dyna.compare_agents import DQN, DYNA, HEAD, curves, line, paired, summary
from foundations.dyna.plan_with_model import PlanArgs
from foundations.dyna.planner import PlanConfig, learn
from foundations.notebooks.tools import OUT, budget, show, table

steps, seeds = budget(3000, 500), budget(8, 2)
small = {} if steps > 500 else {"model_from": 250, "model_updates": (20, 10), "eval_episodes": 2}

# %% [markdown]
# ## The learner
#
# Double DQN on a network of 64-64, eight seeds side by side: the weights of all seeds are one stacked tensor, so eight
# cost little more than one. One update on real transitions for each real step.

# %%
dqn, dyna = (replace(cfg, steps=steps, **small) for cfg in (DQN, DYNA))
rows = [summary("DQN", dqn, train_dqn(dqn, seeds))]
print(HEAD)
print(line(rows[-1]))

# %% [markdown]
# ## More updates are not more knowledge
#
# Dyna with K = 5 makes six updates a step. Before the model gets the credit, the plain learner has to make six as well.

# %%
busy = replace(dyna, updates=6)
rows.append(summary("DQN, 6 updates a step", busy, train_dqn(busy, seeds)))
print(line(rows[-1]))

# %% [markdown]
# ## A learned model, and a perfect one
#
# From step 500 on an ensemble of three is trained on what has been seen, and rollouts of five steps begin at visited states.
# The perfect model is the game itself: whatever it gains is the most that any model could.

# %%
for label, cfg in {
    "Dyna K 5 h 5": replace(dyna, k=5, horizon=5),
    "true dynamics K 5 h 5": replace(dyna, k=5, horizon=5, true_model=True),
}.items():
    rows.append(summary(label, cfg, train_dyna_agent(cfg, seeds)))
    print(line(rows[-1]))
show(plots.learning(curves(rows), OUT / "dqn_vs_dyna.png"))

# %%
table(
    ["", "against DQN", "against DQN with 6 updates", "verdict"],
    [
        [
            found["label"],
            *("{:+.0f} [{:+.0f}, {:+.0f}]".format(*found[key]) for key in ("dqn", "equal")),
            found["verdict"],
        ]
        for found in paired(rows)
    ],
)

# %% [markdown]
# Differences are taken seed by seed, with bootstrap intervals; "gain" needs both to exclude 0. The table with 20 seeds, all K and h,
# and the cut at the ensemble's disagreement stands in [foundations/README.md](../README.md#dyna-dqn).
#
# ## Planning: no Q at all
#
# Before every move: 300 imagined action sequences of 20 steps, keep the one that survives longest, play its first action.
# A disclosed bit of help: the planner also prefers the middle and an upright pole (`--cost`), which DQN is never told.

# %%
args = PlanArgs(seeds=budget(3, 1), steps=budget(500, 250), episodes=budget(3, 1))
cfg = PlanConfig(candidates=budget(300, 20), horizon=budget(20, 5), cost=10.0)
said = []
planned = learn(
    "CartPole-v1",
    cfg,
    args,
    lambda step, ret: said.append([f"{step:,}", f"{ret.mean():.0f}", np.round(ret).tolist()]),
)
table(["real steps", "return", "by seed"], said)

# %% [markdown]
# Compare with DQN above at the same number of real steps. The same kind of model that does little for Q-learning gives a
# balanced pole after a few hundred steps when it is asked *what happens if*, because planning needs the model to be right
# about the next fraction of a second only, and asks it where it stands now.
#
# **To do.** f11 (`td_target`). And: what does Dyna gain with the least-squares model? Why does planning with a horizon of 40
# do worse than with 20, even in the perfect model?

# %%
assert isinstance(dqn, AgentConfig) and len(rows) == 4
