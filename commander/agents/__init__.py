"""The agents in the box: `demo`, which needs no model and no key, `assistant`, which needs a model, and `replay`, which
plays recordings."""
