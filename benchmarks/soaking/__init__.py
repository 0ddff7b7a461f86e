"""The soak's parts: how much happens, what happens, and the night in which it does."""
