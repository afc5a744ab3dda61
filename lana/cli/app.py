"""The command group: near names for unknown commands, one message and an exit code for what ends a command early."""

from __future__ import annotations

import traceback
from typing import Any

import click

from lana.common.console import bounded
from lana.common.files import explain_disk
from lana.common.importing import place_in_own_code
from lana.common.progress import reporting
from lana.common.suggestions import near
from lana.errors import LanaError
from lana.version import __version__
from profilers.errors import ProfilerError
from solvers.errors import SolverError

EXIT_USER_ERROR = 2
EXIT_UNEXPECTED = 70  # as <sysexits.h> has it: 1 reports that a budget is not kept
EXIT_INTERRUPTED = 130  # as a shell has it for Ctrl-C


class Named(click.Group):
    """Offers near names for an unknown command."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}.{near(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class Group(Named):
    """Turns our errors into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with explain_disk(), reporting():
                return super().invoke(ctx)
        except (LanaError, ProfilerError, SolverError) as error:
            click.echo(f"lana: {bounded(str(error))}", err=True)
            ctx.exit(EXIT_UNEXPECTED if type(error) is LanaError else EXIT_USER_ERROR)
        except KeyboardInterrupt:
            click.echo("lana: interrupted. Finished work is kept: the same command resumes from there.", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except click.UsageError as error:
            raise click.UsageError(bounded(error.format_message()), error.ctx) from error
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if place := place_in_own_code(error):
                message = bounded(f"code of yours failed: {type(error).__name__}: {error} ({place}).")
                click.echo(f"lana: {message} Finished work is kept.", err=True)
                ctx.exit(EXIT_USER_ERROR)
            traceback.print_exc()
            click.echo("lana: this is a fault of lana: please report the lines above. Finished work is kept.", err=True)
            ctx.exit(EXIT_UNEXPECTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lana")
def main() -> None:
    """Compress a pretrained PyTorch network to a latency budget that holds when measured.

    \b
    lana compress digits-resnet --data digits --budget 0.4x
    lana compress timm:resnet18 --data folder:images --budget-ms 8 --out runs/mine
    """
