"""MiniGrid as tables: MDP, POMDP, and a learned discrete world model that dreams and plans."""
