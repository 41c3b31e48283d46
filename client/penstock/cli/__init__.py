"""The `penstock` command. Commands are imported when they are run, so that `--help` is instant."""

from __future__ import annotations

import sys
from importlib import import_module

import click

from penstock.cli.terminal import harmless
from penstock.cli.texts import in_language, tr, use_catalogue

use_catalogue()

# name -> (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "login": ("account", "Keep a gateway's address and a token"),
    "logout": ("account", "Forget them"),
    "whoami": ("account", "Who this token speaks for"),
    "mail": ("account", "Where I am told of my budgets"),
    "token": ("account", "Issue, list and revoke tokens"),
    "account": ("account", "Link and verify logins at sites"),
    "run": ("submit", "Submit a command and follow it"),
    "submit": ("submit", "Submit a script or a job spec"),
    "plan": ("submit", "Show what would be sent, and what it may cost"),
    "jobs": ("look", "List jobs"),
    "show": ("look", "Show one job"),
    "why": ("look", "Why is it in its state?"),
    "logs": ("look", "What it printed"),
    "script": ("look", "The script that the site was given"),
    "events": ("look", "What happened to it"),
    "charges": ("look", "What it costs, and why"),
    "balance": ("look", "What the projects have left"),
    "spend": ("money", "What was spent, on what"),
    "invoices": ("money", "Invoices: list, show, print, and why a line is there"),
    "dispute": ("money", "Dispute a line of an invoice"),
    "disputes": ("disputes", "Disputes of lines: look, answer, pass on, credit, reject"),
    "month": ("money", "A month on one page (operator)"),
    "billing": ("billing", "What was spent and why; months, payments, adjustments"),
    "contracts": ("contracts", "Agreements and tariffs, and who signed them"),
    "orders": ("orders", "What is opened at the centres, and what ran under it"),
    "sites": ("look", "The docked centres"),
    "evidence": ("evidence", "Checkpoints, and bundles for the independent verifier"),
    "statements": ("recon", "What centres have billed, and how far it is settled"),
    "breaks": ("recon", "Differences: look, propose, countersign, dispute"),
    "settlement": ("evidence", "For a centre: what will you pay me, sign here"),
    "cancel": ("act", "End jobs"),
    "hold": ("act", "Keep a waiting job from starting"),
    "release": ("act", "Let a held job start"),
    "modify": ("act", "Change a waiting job"),
    "decide": ("act", "Say what nobody can prove: adopt, resubmit, cancel"),
    "wait": ("act", "Wait for the end of a job"),
}


class LazyGroup(click.Group):
    """Lists commands from the table, imports the one that is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"penstock.cli.{COMMANDS[cmd_name][0]}"), cmd_name)
        return in_language(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(tr("Commands")):
            formatter.write_dl([(name, tr(text)) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    help=tr("One gate to many supercomputers."),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="penstock")
def penstock() -> None:
    """One gate to many supercomputers."""


def main() -> None:
    """Run; errors in three lines, exit codes as `report` has them."""
    sys.stdout, sys.stderr = harmless(sys.stdout), harmless(sys.stderr)
    try:
        sys.exit(penstock(standalone_mode=False) or 0)
    except click.exceptions.Exit as exc:
        sys.exit(exc.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as exc:
        exc.show()
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as exc:  # noqa: BLE001 - `explain` raises again what is no PenstockError
        from penstock.cli.report import explain

        sys.exit(explain(exc))
