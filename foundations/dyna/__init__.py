"""A neural world model of a vector environment (CartPole-v1 first), planning and Dyna-DQN."""
