"""`TwoRooms`, the small world of this chapter, as a MiniGrid environment of its own."""

from typing import Any

from minigrid.core.grid import Grid
from minigrid.core.mission import MissionSpace
from minigrid.core.world_object import Door, Goal
from minigrid.minigrid_env import MiniGridEnv


class TwoRooms(MiniGridEnv):
    """Two rooms of 2 x 7 cells and a blue door between them that opens by itself: the map of
    alcedok/my-first-world-model (MIT).

    The door is open while the agent stands in it or faces it, so the state is the agent's pose alone:
    29 free cells x 4 headings.  Actions that matter: turn left, turn right, forward.
    """

    WALL_X = 3

    def __init__(
        self,
        *,
        random_start: bool = False,
        random_goal: bool = False,
        random_door: bool = False,
        goal_room_start: float = 0.0,
        subgoal_reward: float = 0.0,
        max_steps: int = 100,
        agent_view_size: int = 5,
        **kwargs: Any,
    ):
        """goal_room_start: probability of a start behind the door (a curriculum, for random starts).
        subgoal_reward: paid once an episode for standing in the door; not a function of the state."""
        self.random_start, self.random_goal, self.random_door = random_start, random_goal, random_door
        self.goal_room_start, self.subgoal_reward = goal_room_start, subgoal_reward
        mission = MissionSpace(mission_func=lambda: "go through the door to the green square")
        super().__init__(
            mission, width=7, height=9, max_steps=max_steps, agent_view_size=agent_view_size, **kwargs
        )

    def _gen_grid(self, width: int, height: int) -> None:
        """The map, with what is random drawn from the env's own generator."""
        self.grid = Grid(width, height)
        self.grid.wall_rect(0, 0, width, height)
        self.grid.vert_wall(self.WALL_X, 0)
        self.door_pos = (self.WALL_X, self._rand_int(1, height - 1) if self.random_door else 4)
        self.put_obj(Door("blue"), *self.door_pos)
        right = (self.WALL_X + 1, 1)
        goal = self._rand_pos(right[0], width - 1, 1, height - 1) if self.random_goal else (5, 7)
        self.put_obj(Goal(), *goal)
        if self.random_start:
            in_goal_room = self._rand_float(0, 1) < self.goal_room_start
            self.place_agent(*((right, (2, height - 2)) if in_goal_room else ()))
        else:
            self.agent_pos, self.agent_dir = (1, 1), 1
        self._paid = False
        self.swing()

    def swing(self) -> bool:
        """Open or close the door; did it move?"""
        door = self.grid.get(*self.door_pos)
        was = door.is_open
        door.is_open = self.door_pos in (tuple(self.agent_pos), tuple(self.front_pos))
        return door.is_open != was

    def step(self, action):
        """One action; the door then looks where the agent is."""
        obs, rew, terminated, truncated, info = super().step(action)
        if self.swing():
            obs = self.gen_obs()  # the door was drawn as it was before the step
        if self.subgoal_reward and not self._paid and tuple(self.agent_pos) == self.door_pos:
            self._paid, rew = True, rew + self.subgoal_reward
        return obs, rew, terminated, truncated, info
