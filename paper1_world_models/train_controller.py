"""Step 4: evolve C, in the real environment or inside M's dream (paper 1, appendix A.4)."""

import numpy as np
import torch

from common.checkpoint import RunState
from common.errors import UserError
from common.seeding import derive
from paper1_world_models.agent import WorldModelsAgent
from paper1_world_models.dataset import Latents, Windows, make_batch
from paper1_world_models.dream import Dreams, dream_returns, evolved_policy
from paper1_world_models.evolve import Basis, Evolution, as_tensor, generation_seeds, held_out_seeds
from paper1_world_models.gates import judge_dream
from paper1_world_models.pictures import draw_agent
from paper1_world_models.rollout import NOISE_STEPS, Noise, Player, grid, play
from paper1_world_models.rollout_games import Games, make_games
from paper1_world_models.run import Run
from paper1_world_models.worlds import dream_table


def train_controller(run: Run, agent: WorldModelsAgent, data: Latents | None, iteration: int) -> None:
    """Evolve, checkpoint every generation, score the mean vector on held-out seeds; ends with it in
    agent.params."""
    cfg, evolve = run.cfg, run.cfg.evolve
    first_of_many = iteration == 0 and cfg.iterations > 1
    generations = (cfg.first_generations or cfg.generations) if first_of_many else cfg.generations
    fitness_of = dream_fitness if cfg.train_in == "dream" else real_fitness
    saved = RunState(run.state("controller", iteration))
    found = saved.load()
    run.stage(f"controller-{iteration:02d}", generations, found[0] if found else 0, "generations")
    games = make_games(run.spec, evolve.slots, cfg.num_envs, (cfg.vae.size, cfg.vae.size, cfg.vae.channels))
    try:
        if found is None:
            basis = make_basis(run, agent, data)
            if cfg.train_in == "dream":
                table = dream_table(run, agent, games)
                run.log.scalars(0, {f"gate/{n}/{k}": v for n, row in table.items() for k, v in row.items()})
                judge_dream(run, table, iteration)
        else:
            matrix = found[1]["basis"]
            basis = Basis(None if matrix is None else matrix.numpy(), agent.controller.size)
        evolution = Evolution(basis.size, evolve.population, evolve.sigma, derive(cfg.seed, "cma", iteration))
        if found is None:
            saved.save(0, {"evolution": None, "basis": basis.matrix, **run.totals()})
        else:
            run.go_on_from(found[1])
            if found[0] > 0:
                evolution.load_state_dict(found[1]["evolution"])
        while evolution.generation < generations:
            g, frames = evolution.generation, run.frames
            with run.meter.timed("cma"):
                params = basis(evolution.ask())  # [P, n]
            with run.meter.timed("play"):
                returns = fitness_of(run, agent, games, params, g, iteration)
            with run.meter.timed("cma"):
                evolution.tell(returns)
            agent.params = np.float32(basis(evolution.mean))  # the mean, not the luckiest sample
            run.meter.add(generations=1)
            if cfg.train_in == "real":
                run.meter.add(frames=run.frames - frames)
            run.log.progress(g + 1, updates=g + 1, ret=returns.mean())
            fitness = {"mean": returns.mean(), "best": returns.max(), "worst": returns.min()}
            fitness |= {"sigma": evolution.es.sigma, "frames": run.frames}
            run.log.scalars(g + 1, {**fitness, **run.costs()})
            last = g + 1 == generations
            if last or (cfg.eval_every and (g + 1) % cfg.eval_every == 0):
                score(run, agent, games, g + 1, iteration)
            if last:
                draw_agent(run, g + 1, agent)
            state = {"evolution": evolution.state_dict(), "basis": basis.matrix, **run.totals()}
            saved.save(g + 1, state)
            agent.stage, agent.iteration = "controller", iteration
            agent.save(run.folder / "model.pt")
            run.leave_if_asked()
        agent.params = np.float32(basis(evolution.mean))
    finally:
        games.close()


def real_fitness(
    run: Run, agent, games: Games, params: np.ndarray, generation: int, iteration: int
) -> np.ndarray:
    """Mean return of every candidate in the real environment; all play the same seeds.  [P, n] -> [P]"""
    cfg = run.cfg
    seeds = generation_seeds(cfg.evolve, cfg.seed, iteration, generation)
    noise_seed, latents = derive(cfg.seed, "noise", iteration, generation), cfg.vae.latents
    noise = Noise.draw(noise_seed, len(seeds), NOISE_STEPS, latents, cfg.controller.z)
    player = Player(agent.vae, agent.rnn, agent.controller, games.slots)
    episodes = grid(len(params), seeds)
    returns = play(
        games,
        player,
        params,
        episodes,
        noise,
        max_steps=cfg.evolve.max_steps,
        patience=cfg.evolve.patience,
        each_step=run.leave_if_asked,  # seeds are fixed: a generation that was left is played again
    )
    run.frames += sum(e.length for e in episodes) * run.spec.frames_per_step
    return returns.reshape(len(params), len(seeds)).mean(1)


def dream_fitness(
    run: Run, agent, games: Games, params: np.ndarray, generation: int, iteration: int
) -> np.ndarray:
    """The same inside M: P x R dreams in lockstep, all candidates from the same R start frames.  [P, n] ->
    [P]"""
    cfg, P, R = run.cfg, len(params), run.cfg.evolve.rollouts
    generator = torch.Generator(agent.device).manual_seed(derive(cfg.seed, "dream", iteration, generation))
    dreams = Dreams(agent.rnn, agent.starts, cfg.dream, generator)
    starts = agent.starts.pick(R, generator).repeat(P)
    candidate = torch.arange(P, device=agent.device).repeat_interleave(R)
    policy = evolved_policy(agent.controller, as_tensor(params).to(agent.device), candidate)
    return dream_returns(dreams, policy, starts).reshape(P, R).mean(1)


def score(run: Run, agent: WorldModelsAgent, games: Games, generation: int, iteration: int) -> float:
    """Play the mean vector on held-out seeds in the real environment, log it, add a row to curve.csv."""
    cfg = run.cfg
    seeds, latents = held_out_seeds(cfg.evolve.eval_episodes), cfg.vae.latents
    noise = Noise.draw(derive(cfg.seed, "held out"), len(seeds), NOISE_STEPS, latents, cfg.controller.z)
    episodes = grid(1, seeds)
    player = Player(agent.vae, agent.rnn, agent.controller, games.slots)
    returns = play(games, player, agent.params[None], episodes, noise, each_step=run.leave_if_asked)
    laps = float(np.mean([e.lap for e in episodes]))
    mean = float(returns.mean())
    run.log.scalars(generation, {"test_return": mean, "test_sd": returns.std(), "test_lap_finished": laps})
    run.log.note(
        f"generation {generation}: {mean:.1f} +- {returns.std():.1f} over {len(returns)} held-out episodes"
    )
    run.scored(generation, returns)
    return mean


def make_basis(run: Run, agent: WorldModelsAgent, data: Latents | None) -> Basis:
    """The search space; `pca` looks at C's input on the collected data."""
    controller = agent.controller
    if run.cfg.evolve.basis == "plain":
        return Basis(None, controller.size)
    if data is None:
        raise UserError(
            "--evolve.basis pca looks at the collected frames, and there are none here: use plain"
        )
    rnn = agent.rnn
    batch_of = Windows(data, data.split()[0], 64, 100, derive(run.cfg.seed, "basis"))
    generator = torch.Generator().manual_seed(derive(run.cfg.seed, "basis noise"))
    features = []
    with torch.inference_mode():
        for i in range(4):
            batch = make_batch(data, batch_of(i), generator, True, agent.device)
            h, c = rnn.initial(64)
            for t in range(batch.act.shape[1]):  # C at step t sees the state of steps < t
                valid = batch.valid[:, t]
                features.append(controller.feature(batch.z[:, t], h, c)[valid])
                h, c = rnn.step(batch.z[:, t], batch.act[:, t], batch.restart[:, t], (h, c))
    return Basis.pca(torch.cat(features).double().cpu().numpy(), controller)
