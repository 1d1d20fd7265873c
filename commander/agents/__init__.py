"""The agents in the box: `demo`, which needs no model and no key, and `replay`, which plays recordings."""
