"""Paper 3: Mastering Atari with Discrete World Models, DreamerV2 (Hafner, Lillicrap, Norouzi, Ba 2021)."""
