"""Paper 2: Dream to Control, DreamerV1 (Hafner, Lillicrap, Ba, Norouzi 2020)."""
