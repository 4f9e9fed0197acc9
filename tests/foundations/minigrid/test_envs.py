"""TwoRooms and the views: the map, the door, seeds, states that can be saved, and what an agent is shown."""

import gymnasium as gym
import numpy as np
import pytest

from common.errors import UserError
from foundations.minigrid.envs import (
    AGENT,
    SYMBOLS,
    TwoRooms,
    World,
    agent_view,
    draw,
    full_view,
    load_state,
    make_env,
    names,
    save_state,
    useful_actions,
)

MAP = """
#######
#v.#..#
#..#..#
#..#..#
#..D..#
#..#..#
#..#..#
#..#.G#
#######
""".split()
SIGNS = {".": "empty", "#": "wall", "D": "closed door", "G": "goal", "v": "agent down"}


def symbols(world: World) -> list[list[str]]:
    h, w = world.shape
    return [[SYMBOLS[i] for i in row] for row in full_view(world.grid)[:-1].reshape(h, w)]


def test_two_rooms_is_the_map():
    assert symbols(make_env("TwoRooms")) == [[SIGNS[c] for c in row] for row in MAP]


def test_the_door_opens_for_whoever_faces_it_and_closes_behind():
    world = make_env("TwoRooms")
    world.reset(seed=0)
    door = lambda: symbols(world)[4][3]  # noqa: E731
    load_state(world.grid, save_state(world.grid)._replace(x=2, y=4, heading=1))
    assert door() == "closed door"
    world.step(0)  # left: now facing it
    assert door() == "open door"
    world.step(2)
    assert (world.grid.agent_pos, door()) == ((3, 4), "agent right")
    world.step(2)
    assert (world.grid.agent_pos, door()) == ((4, 4), "closed door")


def test_the_view_returned_by_a_step_shows_the_door_as_it_is_after_the_step():
    grid = TwoRooms()
    grid.reset(seed=0)
    load_state(grid, save_state(grid)._replace(x=2, y=4, heading=1))
    obs, *_ = grid.step(0)
    assert np.array_equal(obs["image"], grid.gen_obs()["image"])
    assert obs["image"][2, 3, 2] == 0  # right ahead of the agent, open


def test_reward_at_the_goal_and_nowhere_else():
    world = make_env("TwoRooms")
    world.reset(seed=0)
    # down three, left to face the door, through it, right, down three to the goal's row, east of it
    rews = []
    for action in [2, 2, 2, 0, 2, 2, 2, 2, 1, 2, 2, 2]:
        _, rew, terminated, truncated, _ = world.step(action)
        rews.append(rew)
    assert terminated and not truncated and rews[:-1] == [0] * 11
    assert rews[-1] == pytest.approx(1 - 0.9 * 12 / 100)


def test_the_subgoal_pays_once_an_episode():
    grid = TwoRooms(subgoal_reward=0.5)
    grid.reset(seed=0)
    rews = [
        grid.step(action)[1] for action in [2, 2, 2, 0, 2, 2, 2, 0, 0, 2, 2]
    ]  # in, and back into the door
    assert rews == [0, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0]


def test_options_are_seeded_and_do_what_they_say():
    def shown(seed):
        grid = gym.make("TwoRooms-v0", random_door=True, random_goal=True, random_start=True).unwrapped
        grid.reset(seed=seed)
        return full_view(grid).tolist(), grid.door_pos[1], grid.agent_pos[0]

    assert shown(3) == shown(3)
    assert len({door for _, door, _ in map(shown, range(30))}) > 3
    assert {x > 3 for _, _, x in map(shown, range(30))} == {True, False}
    grid = TwoRooms(random_start=True, goal_room_start=1.0)
    assert all(grid.reset(seed=s) and grid.agent_pos[0] > 3 for s in range(20))


@pytest.mark.parametrize("name", ["TwoRooms", "DoorKey-5x5"])
def test_gymnasium_accepts_the_world(name):
    checked = gym.wrappers.PassiveEnvChecker(make_env(name, random_start=True))
    obs, _ = checked.reset(seed=0)
    for step in range(60):
        assert obs in checked.observation_space
        obs, *_ = checked.step(step % checked.action_space.n)


def test_a_world_repeats_itself_with_its_seed():
    def played(seed):
        world, seen = make_env("FourRooms", random_start=True, slip=0.1), []
        for episode in range(3):
            seen.append(world.reset(seed=seed if episode == 0 else None)[0])
            seen += [world.step(2)[0] for _ in range(5)]
        return np.stack(seen)

    assert np.array_equal(played(1), played(1)) and not np.array_equal(played(1), played(2))
    walls = played(1)[:, :-1] == SYMBOLS.index("wall")
    assert (walls == walls[0]).all()  # the layout stays


def test_slip_is_the_probability_of_each_other_action():
    world = make_env("Empty-5x5", slip=0.1)
    world.reset(seed=0)
    turned = []
    for _ in range(2000):
        load_state(world.grid, world.start)
        world.step(0)
        turned.append(save_state(world.grid)[:3])
    share = [turned.count(pose) / 2000 for pose in [(1, 1, 3), (1, 1, 1), (2, 1, 0)]]
    assert share == pytest.approx([0.8, 0.1, 0.1], abs=0.03)


@pytest.mark.parametrize("name", ["DoorKey-6x6", "TwoRooms", "LavaGapS5"])
def test_a_saved_state_goes_on_as_the_world_did(name):
    world, rng = make_env(name), np.random.default_rng(0)
    world.reset(seed=0)
    for _ in range(60):
        state, clock = save_state(world.grid), world.grid.step_count
        action = int(rng.integers(len(world.actions)))
        obs, rew, terminated, _, _ = world.step(action)
        after = save_state(world.grid)
        load_state(world.grid, state)
        world.grid.step_count = clock
        again, rew_again, *_ = world.step(action)
        assert np.array_equal(obs, again) and save_state(world.grid) == after and rew == rew_again
        if terminated:
            world.reset()


def test_a_loaded_state_shares_no_objects_with_the_one_before():
    world = make_env("DoorKey-5x5")
    state = save_state(world.grid)
    load_state(world.grid, state)
    door = next(thing for thing in world.grid.grid.grid if thing and thing.type == "door")
    door.is_open, door.is_locked = True, False
    load_state(world.grid, state)
    assert save_state(world.grid) == state


def test_the_view_is_the_environments_own_with_rows_first():
    world = make_env("TwoRooms", view=5)
    world.reset(seed=0)
    load_state(world.grid, save_state(world.grid)._replace(x=4, y=1, heading=1))  # the goal is 6 down, 1 left
    view, (theirs, visible) = agent_view(world.grid), world.grid.gen_obs_grid()
    for y in range(5):
        for x in range(5):
            thing = theirs.get(x, y)
            name = "empty" if thing is None else "closed door" if thing.type == "door" else thing.type
            assert SYMBOLS[view[y, x]] == (name if visible[x, y] else "unseen")
    assert (view == 0).any(), "walls must hide something"
    assert SYMBOLS[view[4, 3]] == "wall"  # facing down, the middle wall is to the right
    assert SYMBOLS[view[4, 1]] == "empty"


def test_what_is_carried_is_seen():
    world = make_env("DoorKey-5x5")
    assert SYMBOLS[full_view(world.grid)[-1]] == "empty"
    world.grid.carrying = next(t for t in world.grid.grid.grid if t and t.type == "key")
    assert SYMBOLS[full_view(world.grid)[-1]] == "key"


def test_drawing_looks_like_minigrid():
    world = make_env("Empty-5x5")
    world.reset(seed=0)
    cells = full_view(world.grid)[:-1].reshape(world.shape)
    assert np.array_equal(draw(cells, 16), world.grid.get_frame(highlight=False, tile_size=16))
    stack = draw(np.stack([cells, cells.T]), 8)
    assert (
        stack.shape == (2, 40, 40, 3)
        and (draw(np.full((1, 1), AGENT + 3), 8) != draw(np.full((1, 1), AGENT), 8)).any()
    )


def test_actions_that_can_do_something():
    assert (
        useful_actions(make_env("Empty-5x5").grid) == (0, 1, 2) == useful_actions(make_env("TwoRooms").grid)
    )
    assert make_env("DoorKey-5x5").actions == (0, 1, 2, 3, 5)
    assert make_env("DoorKey-5x5", drop=True).actions == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("name", ["Empty-6x6", "MiniGrid-Empty-6x6-v0"])
def test_short_names_and_ids(name):
    assert make_env(name).shape == (6, 6)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(
        UserError, match=r"--env DorKey-5x5: .*did you mean DoorKey-5x5.*TwoRooms, .*FourRooms"
    ) as error:
        make_env("DorKey-5x5")
    assert "\n" not in str(error.value)
    assert {"TwoRooms", "Empty-6x6", "DoorKey-5x5", "FourRooms", "LavaGapS5"} <= set(names())


@pytest.mark.parametrize(("flags", "says"), [({"view": 4}, "--view 4"), ({"slip": 0.5}, "--slip 0.5")])
def test_impossible_options(flags, says):
    with pytest.raises(UserError, match=says):
        make_env("TwoRooms", **flags)
