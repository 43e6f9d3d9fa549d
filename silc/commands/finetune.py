"""`silc finetune`: continue the training of an existing model."""

from __future__ import annotations

from silc import config as configs
from silc import given, recipes, rundir
from silc.commands.flags import first_lines, over, spelled_out, taken
from silc.errors import BadInput
from silc.terminal import announce, say
from silc.training import directory

USAGE = """usage: silc finetune --init MODEL [--mode MODE] --data.train SHARDS --out DIR [--field value ...]

Goes on from a model with its own towers, tokenizer and image-text loss. MODE is one of

{modes}

`silc finetune --init MODEL --help` lists the fields and their defaults for this model."""


def main(args: list[str]) -> int:
    """Continue a model on pairs; the defaults of the fields are those for this model."""
    chosen, rest = taken(args, ("init", "mode"))
    asks_help = bool({"-h", "--help"} & set(args))
    if not chosen.get("init"):
        if asks_help:
            say(USAGE.format(modes=first_lines(recipes.MODES)))
            return 0
        raise BadInput("silc finetune needs a model to go on from: --init MODEL (silc finetune --help)")
    rest = spelled_out(rest, "silc_c")
    typed = given.flags(configs.Config, rest)
    mode = chosen.get("mode", "late")
    recipes.mode_called(mode)
    rundir.check_model(chosen["init"])
    if not asks_help:
        out, _ = directory.claim("".join(typed.get("out", [])), "".join(typed.get("resume", [configs.Config().resume])))
        announce(f"finetune: {chosen['init']} goes on in {out}")
    from silc.pretraining import run, start

    config = start.configured(chosen["init"], mode, lambda base: over(base, rest, "finetune")[0])
    given.say_unread(typed, config)
    run.train(config)
    return 0
