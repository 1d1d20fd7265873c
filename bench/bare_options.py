"""The options of the bare peer's channels: those of the pair, so that only the program differs."""

from commander import dialing
from commander.settings import Settings as CommanderSettings
from dispatcher.listening import server_options
from dispatcher.settings import Settings as DispatcherSettings

Options = list[tuple[str, int]]


def client(address: str) -> Options:
    return dialing.options(CommanderSettings(dispatcher=address))


def server() -> Options:
    """As the dispatcher's own, with its default settings."""
    return server_options(DispatcherSettings())
