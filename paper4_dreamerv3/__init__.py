"""Paper 4: Mastering Diverse Domains through World Models, DreamerV3 (Hafner, Pasukonis, Ba, Lillicrap)."""
