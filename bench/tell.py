"""How a measurement says how far it is."""

from collections.abc import Callable

Tell = Callable[[str], None]
