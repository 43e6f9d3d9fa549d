"""`silc serve`: models in a browser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import tyro
from tyro.conf import arg

from silc.commands import flags
from silc.commands.flags import DeviceName
from silc.errors import BadInput
from silc.extras import needs
from silc.given import Idle
from silc.rundir import check_model
from silc.serve.config import HOST, PORT, SECONDS, Limits
from silc.settings import NATURAL, Range, Settings
from silc.terminal import announce, say


@dataclass(frozen=True)
class ServeCommand(Settings):
    """Open a page where pictures and words go in, and segmentations come out; two models side by side.

    By default it answers only this machine; with another --host it answers those who know a token.
    """

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(
            "weights", lambda c: all(map(flags.is_import, c.models)), "no model is a run with a student and a teacher"
        ),
    )
    models: tyro.conf.Positional[tuple[str, ...]]
    """Directories of runs or of `silc import`, open_clip:NAME/PRETRAINED, hf:ORG/NAME; one or several."""
    host: str = HOST
    """The address to listen on: 127.0.0.1 is for this machine only, 0.0.0.0 is every address that it has."""
    port: Annotated[int, Range(least=0, most=65535)] = PORT
    """The port; 0 takes any free port."""
    token_file: str = ""
    """A file with the token that callers must know; it is not printed. Without a file, at addresses other than
    127.0.0.1, a random token is made and printed."""
    weights: Annotated[
        Literal["both", "student", "teacher"],
        arg(help="Weights of runs; `both` serves student and teacher side by side."),
    ] = "both"
    waiting: Annotated[int, NATURAL] = Limits.waiting
    """Maximum number of requests that wait while one is computed; the next one gets the answer 503."""
    seconds: Annotated[float, SECONDS] = Limits.compute_seconds
    """Maximum number of seconds for an answer."""
    megabytes: Annotated[int, Range(least=1, most=1000)] = Limits.picture_bytes // 2**20
    """Maximum size of a picture's file, in MiB."""
    megapixels: Annotated[int, Range(least=1, most=64)] = Limits.pixels // 1_000_000
    """Maximum size of a picture, in millions of pixels."""
    device: DeviceName = "auto"


def main(args: list[str]) -> int:
    """Load the models and answer until Ctrl-C."""
    command = flags.read(ServeCommand, args, "silc serve")
    if not command.models:
        raise BadInput("silc serve needs a model, e.g. `silc serve out/demo/silc_c`")
    for name in command.models:
        check_model(name)
    for module in ("fastapi", "uvicorn"):
        needs("silc serve", module, "serve")
    from silc.serve import server

    token = server.token_for(command.host, command.token_file)
    limits = _limits(command)
    with server.bound(command.host, command.port) as place:
        announce(f"serve: loading {', '.join(command.models)}")
        from silc.serve.answers import loaded
        from silc.serve.app import application
        from silc.serve.examples import examples

        models = loaded(command.models, command.weights, command.device)
        size = next(iter(models.values())).preprocess.size
        app = application(models, limits, token=token, examples=examples(size))
        say(f"serve: {', '.join(models)}")
        own = command.token_file  # a user's own secret is not for logs
        address = server.address(place, command.host, "" if own else token)
        where = f"#token=TOKEN   (TOKEN is in {own}; " if own else "   ("
        say(f"serve: open {address}{where}Ctrl-C ends it)")
        server.server_of(app, limits).run(sockets=[place])
    return 0


def _limits(command: ServeCommand) -> Limits:
    largest, pixels = command.megabytes * 2**20, command.megapixels * 1_000_000
    return Limits(
        picture_bytes=largest,
        held_bytes=4 * largest,
        pixels=pixels,
        decode_bytes=max(Limits.decode_bytes, 64 * pixels),
        waiting=command.waiting,
        compute_seconds=command.seconds,
    )
