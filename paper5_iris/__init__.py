"""Paper 5, IRIS: a world model that is a language model of picture tokens; the player lives in its dreams."""
